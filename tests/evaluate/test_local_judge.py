"""A checkpoint as judge: greedy answers of the whole conversation, both orders, nothing asked twice."""

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
from livecc_jax.checkpoints.names import table
from livecc_jax.checkpoints.open import open_checkpoint
from livecc_jax.cli import main
from livecc_jax.evaluate.judge import local_judge
from livecc_jax.evaluate.judge.endpoint import NoAnswer
from livecc_jax.evaluate.judge.local_judge import CHUNK, LocalJudge
from livecc_jax.model.presets import preset
from livecc_jax.model.qwen2_vl import bind
from livecc_jax.model.vocabulary import fit_vocabulary
from livecc_jax.text.open import open_tokenizer
from livecc_jax.timeline.chat import ChatTemplate


def checkpoint(home, tokenizer_path, says=None):
    """A tiny model of random weights; or one that answers everything with the same text.

    That one's layers add nothing, so what it says next depends on the token before alone.
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
    for e in table(config):
        flat[e.path] = np.asarray(0.2 * rng.standard_normal(e.full_shape), np.float32)
        if "norm" in e.path and not e.path.endswith("bias"):
            flat[e.path] += 1
    if says is not None:
        for path in ("text/layers/attn/o/kernel", "text/layers/mlp/down/kernel"):
            flat[path][:] = 0
        opening = ChatTemplate(tokenizer).opening(("?",)).tokens
        chain = [int(opening[-1]), *tokenizer.encode(says), tokenizer.special.im_end]
        assert len(set(chain)) == len(chain)
        for i, (one, following) in enumerate(itertools.pairwise(chain)):
            flat["text/embed"][one] = 10 * np.eye(config.text.width)[i]
            flat["text/head"][:, following] = 10 * np.eye(config.text.width)[i]
    export_hf(home, config, LiveCCBlock(), traverse_util.unflatten_dict(flat, sep="/"), tokenizer)
    return str(home)


@pytest.fixture(scope="module")
def random_judge(tmp_path_factory, small_tokenizer):
    return checkpoint(tmp_path_factory.mktemp("judge") / "random", small_tokenizer)


def test_greedy_answers_are_the_models(random_judge):
    """Equal to the likeliest token, again and again, of the whole conversation without a cache."""
    found = open_checkpoint(random_judge)
    tokenizer, params = found.open_tokenizer(), jax.device_put(found.load_params(np.float32))
    judge = LocalJudge(random_judge, max_tokens=6)

    @jax.jit
    def following(tokens, length):
        model = bind(found.config, params)
        at = jnp.arange(tokens.shape[1])
        positions = jnp.broadcast_to(at, (1, 3, at.size))
        hidden = model.text(model.embed(tokens, None, None), positions, (at < length)[None].astype(int))
        return jnp.argmax(model.text.logits(hidden[0, length - 1]))

    stops = (tokenizer.special.im_end, tokenizer.special.endoftext)
    for words in (5, 40):
        prompt = " ".join(f"word {i}" for i in range(words))
        tokens = ChatTemplate(tokenizer).opening((prompt,)).tokens.tolist()
        assert (len(tokens) > CHUNK) == (words > 5)
        said = []
        while len(said) < 6:
            whole = np.zeros((1, 384), np.int32)
            whole[0, : len(tokens) + len(said)] = tokens + said
            token = int(following(whole, len(tokens) + len(said)))
            if token in stops:
                break
            said.append(token)
        reply = judge.ask(prompt)
        assert (reply.text, reply.tokens_in, reply.tokens_out) == (
            tokenizer.decode(said),
            len(tokens),
            len(said),
        )
    with pytest.raises(NoAnswer, match=r"context of 2,048"):
        judge.ask("word " * 3000)


def files(folder):
    """Three events, the last without a prediction."""

    def lines(name, field, what, events):
        rows = [{"video_id": "v", "event_id": i, field: f"{what} {i}"} for i in events]
        (folder / name).write_text("\n".join(map(json.dumps, rows)) + "\n")
        return str(folder / name)

    return [
        "judge", lines("Ours.jsonl", "pred", "ours", range(2)),
        "--baseline", lines("Theirs.jsonl", "pred", "theirs", range(3)),
        "--reference", lines("gt.jsonl", "gt_asr", "human", range(3)),
    ]  # fmt: skip


def test_both_orders_and_nothing_twice(random_judge, small_tokenizer, tmp_path, monkeypatch, capsys):
    asked = []
    ask = LocalJudge.ask
    monkeypatch.setattr(LocalJudge, "ask", lambda self, x: asked.append(x) or ask(self, x))
    args, out = [*files(tmp_path), "--field", "max_tokens=6"], tmp_path / "out"
    first_is_better = checkpoint(tmp_path / "a", small_tokenizer, says="A")
    args_a = [*args, "--checkpoint", first_is_better, "--out", str(out)]
    assert main(args_a) == 0
    assert "win rate 33.3%" in capsys.readouterr().out
    rows = [json.loads(line) for line in (out / "Theirs_Ours.jsonl").read_text().splitlines()]
    # It always names the one that stands first.
    assert [(r["ab_winner"], r["ba_winner"]) for r in rows] == [("Ours", "Theirs")] * 2 + [(None, None)]
    assert len(asked) == 4
    assert asked[0].index("ours 0") < asked[0].index("theirs 0")
    assert asked[1].index("theirs 0") < asked[1].index("ours 0")
    record = json.loads((out / "judge.json").read_text())
    assert record["answers"] == {"new": 4, "from disk": 0, "without a verdict": 0}
    (name,) = record["judge"]["answered as"]
    assert name.startswith("a ")

    # Again, and from elsewhere: the weights are the same, and not even laid out.
    with monkeypatch.context() as patch:
        patch.setattr(local_judge, "StreamModel", None)
        moved = checkpoint(tmp_path / "moved", small_tokenizer, says="A")
        assert main([*args, "--checkpoint", moved, "--out", str(out)]) == 0
    assert len(asked) == 4
    answers = json.loads((out / "judge.json").read_text())["answers"]
    assert answers == {"new": 0, "from disk": 4, "without a verdict": 0}

    # Another judge, whose answers nobody can read: counted, now and when they come from disk.
    capsys.readouterr()
    for new, kept in ((4, 0), (0, 4)):
        assert main([*args, "--checkpoint", random_judge, "--out", str(out)]) == 0
        assert len(asked) == 8
        answers = json.loads((out / "judge.json").read_text())["answers"]
        assert answers == {"new": new, "from disk": kept, "without a verdict": 4}
        assert "win rate 0.0%" in capsys.readouterr().out
    assert main([*args, "--checkpoint", random_judge, "--judge", "x", "--out", str(out)]) == 2
    assert main([*args, "--endpoint", "http://127.0.0.1:9/v1", "--out", str(out)]) == 2
