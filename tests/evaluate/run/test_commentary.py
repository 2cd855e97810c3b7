"""`livecc evaluate livesports-cc`: predictions, their scores and the cost of the transcripts."""

import json

import jax
import numpy as np
import pytest

from livecc_jax.checkpoints.open import open_checkpoint
from livecc_jax.cli import main
from livecc_jax.decoding.options import StreamOptions
from livecc_jax.evaluate.benchmarks.livesports_cc import event_prompt, read_events
from livecc_jax.evaluate.metrics.references import read_references
from livecc_jax.evaluate.run.sampled_video import sample_frames
from livecc_jax.evaluate.run.teacher_forced import teacher_force
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.pixels import patch_coordinates, patchify
from livecc_jax.model.qwen2_vl import bind
from livecc_jax.stream.model import StreamModel
from livecc_jax.stream.session import Session
from livecc_jax.timeline.chat import ChatTemplate, Visual
from livecc_jax.timeline.positions import token_positions
from tests.support.benchmark_data import write_livesports_cc


def nats_of_full_forward(checkpoint, prompt, frames):
    """For each turn of event a: (number of word tokens, nats of its supervised tokens), from the logits
    of the training forward pass over the full conversation."""
    tokenizer = checkpoint.open_tokenizer()
    template, special = ChatTemplate(tokenizer), tokenizer.special
    patches, grid = patchify(frames)
    pairs, height, width = grid
    tokens, grids, answers = [], [], []
    for number, (turn_pairs, label, words) in enumerate(
        [(3, "0.0-3.0", "one"), (1, "3.0-4.0", "two"), (1, "4.0-5.0", "three")]
    ):
        grids.append((turn_pairs, height, width))
        user = (f"Time={label}s", Visual("video", grids[-1]), *([prompt] if number == 0 else []))
        tokens += (template.continuation if number else template.opening)(user).tokens.tolist()
        answer = tokenizer.encode(words + " ...")
        answers.append((len(tokens), len(answer) + 1, len(tokenizer.encode(words))))
        tokens += answer
    tokens = np.array([*tokens, special.im_end], np.int32)
    is_vision = tokens == special.video_pad
    window = height * width
    rows, cols = patch_coordinates(height, width)
    row = {
        "tokens": tokens,
        "segment_ids": np.ones(len(tokens), np.int32),
        "positions": token_positions(tokens, np.array(grids), special, "mrope")[0],
        "patches": patches.reshape(pairs, window, -1),
        "patch_pairs": np.ones((pairs, window), np.int32),
        "patch_rows": np.tile(rows, (pairs, 1)),
        "patch_cols": np.tile(cols, (pairs, 1)),
        "vision_index": np.where(is_vision, np.cumsum(is_vision) - 1, -1).astype(np.int32),
    }
    forward = jax.jit(lambda params, row: bind(checkpoint.config, params)(row))
    logits = forward(checkpoint.load_params(np.float32), {k: v[None] for k, v in row.items()})[0]
    nats = -np.asarray(jax.nn.log_softmax(logits, axis=-1), np.float64)
    return [
        (words, nats[np.arange(start - 1, start + n - 1), tokens[start : start + n]])
        for start, n, words in answers
    ]


def test_commentary_on_events(checkpoint, tmp_path, capsys):
    """Predictions in the published layout equal a session's, and are scored beside baselines."""
    data, out = write_livesports_cc(tmp_path / "data"), tmp_path / "out"
    args = ["evaluate", "livesports-cc", checkpoint, "--data", str(data), "--pixel-budget", "16"]
    args += ["--max-new-tokens", "3"]
    assert main([*args, "--out", str(out), "--share", "0/2"]) == 0
    assert "1 events are in other shards" in capsys.readouterr().out
    assert main([*args, "--out", str(out), "--share", "1/2"]) == 0
    printed = capsys.readouterr().out
    assert "Annotation problems: 1 duplicate, 1 malformed." in printed
    assert "Could not be answered: 1" in printed
    predictions = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert [(p["video_id"], p["event_id"], p["begin"], p["end"]) for p in predictions] == [
        ("a", 3, 2.0, 7.0), ("b", 3, 1.0, 4.0)
    ]  # fmt: skip
    assert [(t["start"], t["stop"]) for t in predictions[0]["turns"]] == [(2, 5), (5, 6), (6, 7)]
    report = json.loads((out / "report.json").read_text())
    assert report["clips"] == 2
    assert report["problems"]["missing"] == 1
    assert "silence only" in report["metrics"]

    # The same frames, pushed into a session turn by turn.
    opened = open_checkpoint(checkpoint)
    model = StreamModel(opened.config, opened.load_params(np.float32), opened.open_tokenizer())
    options = StreamOptions(max_new_tokens=3, repetition_penalty=1.15, context=4096)
    event = read_events(data).events[0]
    prompt = event_prompt(event, "instruct")
    assert "A match" in prompt
    assert event_prompt(event, "base") == "so far"
    session = Session(model, options, prompt)
    frames = sample_frames(event.source, PixelBudget.parse("16"))
    turns = [session.push(frames[a:b]) for a, b in ((0, 6), (6, 8), (8, 10))]
    assert [t.text for t in turns] == [t["text"] for t in predictions[0]["turns"]]
    assert predictions[0]["pred"] == " ".join(t.words for t in turns if t.words) + "..."

    # The cost of the transcript, against the logits of the full conversation.
    expected = nats_of_full_forward(opened, prompt, frames)
    forced = predictions[0]["forced"]
    assert forced["left_out"] == 0
    assert [(t["start"], t["stop"]) for t in forced["turns"]] == [(2, 5), (5, 6), (6, 7)]
    for turn, (words, nats) in zip(forced["turns"], expected, strict=True):
        assert (turn["word_tokens"], turn["tokens"]) == (words, len(nats))
        np.testing.assert_allclose(
            [turn["word_nats"], turn["nats"]], [nats[:words].sum(), nats.sum()], rtol=1e-4
        )
    reference = read_references(data / "LiveSports-3K-CC.json")[event.id]
    chunked = teacher_force(model, frames, reference, prompt, "mrope", 4096, chunk=256)
    np.testing.assert_allclose(
        [t.nats for t in chunked.turns], [nats.sum() for _, nats in expected], rtol=1e-4
    )
    short = teacher_force(model, frames, reference, prompt, "mrope", 310, chunk=256)
    assert short.words_after_last_frame == 3 - len(short.turns) == 1
    tokens = sum(t["word_tokens"] for p in predictions for t in p["forced"]["turns"])
    nats = sum(t["word_nats"] for p in predictions for t in p["forced"]["turns"])
    perplexity = report["metrics"]["prediction"]["perplexity, reference's words"]
    assert perplexity == pytest.approx(np.exp(nats / tokens))
    assert [c["from_s"] for c in report["perplexity_by_second"]] == [0, 3, 4]
    assert f"over 2 of 2 clips, {tokens} tokens of words; 0 words" in printed

    # The baseline without history: each turn is the first of a session over the latest frames.
    assert main([*args, "--out", str(tmp_path / "k"), "--memory", "6", "--limit", "1"]) == 0
    prediction = json.loads((tmp_path / "k/predictions.jsonl").read_text())
    first_turn = Session(model, options, prompt).push(frames[2:8])
    assert prediction["turns"][1]["text"] == first_turn.text
    assert main([*args, "--out", str(tmp_path / "k"), "--memory", "3"]) == 2
    # Two run folders are compared with the transcripts that they name.
    assert main(["compare", str(tmp_path / "k"), str(out)]) == 0
    assert "1 clips are in both; 1 of B alone" in capsys.readouterr().out
