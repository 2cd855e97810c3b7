"""A local checkpoint as judge: greedy answers, both orders, and a cache of answers."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from livecc_jax.checkpoints.hf_config import LiveCCBlock
from livecc_jax.checkpoints.hf_export import export_hf
from livecc_jax.checkpoints.open import open_checkpoint
from livecc_jax.checkpoints.weight_names import weight_name_table
from livecc_jax.cli import main
from livecc_jax.evaluate.judge.judge_model import RequestFailed
from livecc_jax.evaluate.judge.local_judge import PREFILL_CHUNK, LocalJudge
from livecc_jax.evaluate.judge.run_judge import run_judge
from livecc_jax.model.presets import fit_vocabulary, preset
from livecc_jax.model.qwen2_vl import bind
from livecc_jax.text.open import open_tokenizer
from livecc_jax.timeline.chat import ChatTemplate


def write_checkpoint(home, tokenizer_path, answer=None):
    """Writes a checkpoint of a tiny model and returns its path.

    Args:
        home: Folder to write.
        tokenizer_path: Tokenizer.
        answer: The model answers every prompt with this text: its layers add nothing, so the next token
            depends on the last token alone. None means random weights.
    """
    tokenizer = open_tokenizer(tokenizer_path)
    config = fit_vocabulary(preset("tiny"), tokenizer)
    config = dataclasses.replace(
        config,
        text=dataclasses.replace(config.text, max_positions=2048, layers=1, tied=False),
        vision=dataclasses.replace(config.vision, depth=1),
    )
    rng = np.random.default_rng(0)
    flat = {}
    for e in weight_name_table(config):
        flat[e.path] = np.asarray(0.2 * rng.standard_normal(e.full_shape), np.float32)
        if "norm" in e.path and not e.path.endswith("bias"):
            flat[e.path] += 1
    if answer is not None:
        for path in ("text/layers/attn/o/kernel", "text/layers/mlp/down/kernel"):
            flat[path][:] = 0
        opening = ChatTemplate(tokenizer).opening(("?",)).tokens
        chain = [int(opening[-1]), *tokenizer.encode(answer), tokenizer.special.im_end]
        assert len(set(chain)) == len(chain)
        for i, (token, next_token) in enumerate(itertools.pairwise(chain)):
            flat["text/embed"][token] = 10 * np.eye(config.text.width)[i]
            flat["text/head"][:, next_token] = 10 * np.eye(config.text.width)[i]
    export_hf(home, config, LiveCCBlock(), traverse_util.unflatten_dict(flat, sep="/"), tokenizer)
    return str(home)


@pytest.fixture(scope="module")
def random_judge(tmp_path_factory, small_tokenizer):
    return write_checkpoint(tmp_path_factory.mktemp("judge") / "random", small_tokenizer)


def test_greedy_answers_are_the_models(random_judge):
    """Equal to the most likely next token of the full forward pass, without a cache."""
    source = open_checkpoint(random_judge)
    tokenizer, params = source.open_tokenizer(), jax.device_put(source.load_params(np.float32))
    judge = LocalJudge(random_judge, max_tokens=6)

    @jax.jit
    def next_token(tokens, length):
        model = bind(source.config, params)
        index = jnp.arange(tokens.shape[1])
        positions = jnp.broadcast_to(index, (1, 3, index.size))
        hidden = model.text(
            model.embed(tokens, None, None), positions, (index < length)[None].astype(int)
        )
        return jnp.argmax(model.text.logits(hidden[0, length - 1]))

    stops = (tokenizer.special.im_end, tokenizer.special.endoftext)
    for words in (5, 40):
        prompt = " ".join(f"word {i}" for i in range(words))
        tokens = ChatTemplate(tokenizer).opening((prompt,)).tokens.tolist()
        assert (len(tokens) > PREFILL_CHUNK) == (words > 5)
        generated = []
        while len(generated) < 6:
            padded = np.zeros((1, 384), np.int32)
            padded[0, : len(tokens) + len(generated)] = tokens + generated
            token = int(next_token(padded, len(tokens) + len(generated)))
            if token in stops:
                break
            generated.append(token)
        completion = judge.complete(prompt)
        assert (completion.text, completion.prompt_tokens, completion.completion_tokens) == (
            tokenizer.decode(generated),
            len(tokens),
            len(generated),
        )
    with pytest.raises(RequestFailed, match=r"context of 2,048"):
        judge.complete("word " * 3000)


def write_files(folder):
    """Writes three events, the last without a prediction; returns the three paths."""

    def write(name, field, what, events):
        records = [{"video_id": "v", "event_id": i, field: f"{what} {i}"} for i in events]
        (folder / name).write_text("\n".join(map(json.dumps, records)) + "\n")
        return str(folder / name)

    return (
        write("Ours.jsonl", "pred", "ours", range(2)),
        write("Theirs.jsonl", "pred", "theirs", range(3)),
        write("gt.jsonl", "gt_asr", "human", range(3)),
    )


def judge_args(files, out, *judge):
    predictions, baseline, reference = files
    return [
        "judge", predictions, "--baseline", baseline, "--reference", reference,
        "--field", "max_tokens=6", "--out", str(out), *judge,
    ]  # fmt: skip


class RecordingJudge(LocalJudge):
    """Records the prompts that it answers."""

    def __init__(self, path):
        super().__init__(path, max_tokens=6)
        self.prompts = []

    def complete(self, prompt):
        self.prompts.append(prompt)
        return super().complete(prompt)


def answer_counts(out):
    return json.loads((out / "judge.json").read_text())["answers"]


def test_both_orders(small_tokenizer, tmp_path):
    """The model stands first, then second. The event without a prediction is not judged."""
    model = write_checkpoint(tmp_path / "a", small_tokenizer, answer="A")
    judge = RecordingJudge(model)
    run_judge(*write_files(tmp_path), tmp_path / "out", judge, workers=1)
    assert len(judge.prompts) == 4
    assert judge.prompts[0].index("ours 0") < judge.prompts[0].index("theirs 0")
    assert judge.prompts[1].index("theirs 0") < judge.prompts[1].index("ours 0")


def test_command_and_cache(random_judge, small_tokenizer, tmp_path, capsys):
    """No prompt is answered twice, wherever the checkpoint is stored."""
    files, out = write_files(tmp_path), tmp_path / "out"
    first_wins = write_checkpoint(tmp_path / "a", small_tokenizer, answer="A")
    assert main(judge_args(files, out, "--checkpoint", first_wins)) == 0
    assert "win rate 33.3%" in capsys.readouterr().out
    verdicts = [json.loads(line) for line in (out / "Theirs_Ours.jsonl").read_text().splitlines()]
    # The answer is always the commentary that stands first.
    winners = [(v["ab_winner"], v["ba_winner"]) for v in verdicts]
    assert winners == [("Ours", "Theirs")] * 2 + [(None, None)]
    assert answer_counts(out) == {"new": 4, "from disk": 0, "without a verdict": 0}
    (name,) = json.loads((out / "judge.json").read_text())["judge"]["answered as"]
    assert name.startswith("a ")

    # A copy elsewhere has the same weights, so all answers come from the cache.
    copy = write_checkpoint(tmp_path / "moved", small_tokenizer, answer="A")
    assert main(judge_args(files, out, "--checkpoint", copy)) == 0
    assert answer_counts(out) == {"new": 0, "from disk": 4, "without a verdict": 0}
    unused = RecordingJudge(copy)
    run_judge(*files, out, unused, workers=1)
    assert unused.prompts == []

    # Answers of another judge are unreadable: they are counted, when new and when cached.
    capsys.readouterr()
    for new, cached in ((4, 0), (0, 4)):
        assert main(judge_args(files, out, "--checkpoint", random_judge)) == 0
        assert answer_counts(out) == {"new": new, "from disk": cached, "without a verdict": 4}
        assert "win rate 0.0%" in capsys.readouterr().out
    unused = RecordingJudge(random_judge)
    run_judge(*files, out, unused, workers=1)
    assert unused.prompts == []
    assert main(judge_args(files, out, "--checkpoint", random_judge, "--judge", "x")) == 2
    assert main(judge_args(files, out, "--endpoint", "http://127.0.0.1:9/v1")) == 2
