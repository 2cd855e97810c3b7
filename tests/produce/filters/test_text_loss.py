"""Mean losses in packed rows equal those of each text alone, by the decoder's definition in numpy."""

import math

import numpy as np
import pytest

from livecc_jax.checkpoints.text_decoder import open_text_decoder
from livecc_jax.errors import CheckpointError, TokenizerError
from livecc_jax.produce.filters.text import prompt, scored_text, text_batch
from livecc_jax.produce.filters.text_loss import ScoredText, TextLoss, pack
from livecc_jax.produce.models import Models
from livecc_jax.produce.parameters import PRETRAIN
from livecc_jax.produce.records import Clip, Rejection, Word
from livecc_jax.text.chat_pieces import open_chat_pieces
from tests.support.reference_decoder import ReferenceCache, rms_norm, run_layers, unstack_layers
from tests.support.text_only import write_text_only


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def checkpoint(request, tmp_path_factory, small_tokenizer):
    folder = tmp_path_factory.mktemp("text") / "model"
    return write_text_only(folder, small_tokenizer, 600, tied=request.param)


def reference_loss(decoder, prompt_ids, text_ids):
    """The mean loss of one text in float64, by definition."""
    config, params = decoder.config, {"text": decoder.params}
    ids = np.array([*prompt_ids, *text_ids])
    embed = np.asarray(decoder.params["embed"], np.float64)
    head = embed.T if config.tied else np.asarray(decoder.params["head"], np.float64)
    positions = np.repeat(np.arange(len(ids))[:, None], 3, axis=1)
    caches = [ReferenceCache() for _ in range(config.layers)]
    hidden, _ = run_layers(config, unstack_layers(params), embed[ids], positions, caches)
    logits = rms_norm(config, hidden, np.asarray(decoder.params["norm"], np.float64)) @ head
    logits -= logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    first = len(prompt_ids)
    return -np.mean([log_p[i - 1, ids[i]] for i in range(first, len(ids))])


def test_losses_in_packed_rows_equal_those_of_each_text_alone(checkpoint):
    model, decoder = TextLoss.open(checkpoint), open_text_decoder(checkpoint)
    rng = np.random.default_rng(1)
    texts = [
        ScoredText(rng.integers(10, 600, n).tolist(), rng.integers(10, 600, m).tolist())
        for n, m in ((7, 1), (3, 40), (30, 17), (12, 90), (5, 5), (4, 0), (60, 61))
    ]
    losses = model.losses(texts)
    assert math.isnan(losses.pop(5))
    texts.pop(5)
    for loss, text in zip(losses, texts):
        assert loss == pytest.approx(reference_loss(decoder, text.prompt, text.text), abs=1e-4)
    assert max(losses) - min(losses) > 0.1  # so that an exchange would be seen


def test_rows_hold_every_text_once_within_their_length():
    lengths = [5, 90, 33, 64, 1, 100, 2, 37]
    rows = pack(lengths, 100)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= 100 for row in rows)
    assert len(rows) == 4


def clip(text, title="A title", previous=""):
    words = tuple(Word(1000 * i, 1000 * i + 500, w) for i, w in enumerate(text.split()))
    return Clip(0, 0, "v", "v.mp4", 0, 1000 * len(words), words, previous, title)


def test_clips_are_kept_by_their_loss_with_the_published_prompt(checkpoint):
    import dataclasses

    said = ["def main(): return", "the ball is round and the game goes on", "x " * 40]
    clips = [clip(text, previous=" ".join(["before"] * (3 * i))) for i, text in enumerate(said)]
    parameters = dataclasses.replace(
        PRETRAIN, text_model=str(checkpoint), min_text_loss=0.0, max_text_loss=100.0
    )
    models = Models()
    kept = [new for [new] in text_batch(clips, parameters, models)]
    decoder, pieces = open_text_decoder(checkpoint), open_chat_pieces(checkpoint)
    expected = []
    for one in clips:
        shown = "Video Title: A title\n"
        shown += f"Previous transcription: {one.previous}\n" if one.previous else ""
        shown += "Please try to output the possible speech transcription of the video "
        shown += "following previous transcription." if one.previous else "from start to end."
        assert prompt(one.title, one.previous) == shown
        ids = [
            pieces.im_start, *pieces.encode("system\nYou are a helpful assistant."), pieces.im_end,
            *pieces.encode("\n"), pieces.im_start, *pieces.encode("user\n" + shown), pieces.im_end,
            *pieces.encode("\n"), pieces.im_start, *pieces.encode("assistant\n"),
        ]  # fmt: skip
        expected.append(reference_loss(decoder, ids, pieces.encode(one.text)))
    assert [k.measures["text_loss"] for k in kept] == pytest.approx(expected, abs=2e-4)
    lowest, middle, highest = sorted(k.measures["text_loss"] for k in kept)
    bounds = dataclasses.replace(parameters, min_text_loss=middle, max_text_loss=middle)
    decided = [new for [new] in text_batch(clips, bounds, models)]
    reasons = {r.value: r.reason for r in decided if isinstance(r, Rejection)}
    assert reasons == {lowest: f"loss below {middle:g}", highest: f"loss above {middle:g}"}


def test_long_previous_text_is_cut_at_the_front_and_long_words_are_rejected(checkpoint):
    model = TextLoss.open(checkpoint)
    long = clip("a b c", previous=" ".join(f"w{i}" for i in range(500)))
    text = scored_text(long, model, 200)
    assert 190 <= len(text.prompt) + len(text.text) <= 200
    whole = model.pieces.prompt(prompt(long.title, long.previous))
    tail = model.pieces.encode("w498 w499")[-4:]
    assert ",".join(map(str, tail)) in ",".join(map(str, text.prompt))
    assert len(whole) > 200
    assert scored_text(clip("word " * 300), model, 200) is None


def test_checkpoints_that_do_not_fit_are_refused_in_a_sentence(tmp_path, small_tokenizer):
    model = write_text_only(tmp_path / "model", small_tokenizer, 600)
    config = (model / "config.json").read_text()
    (model / "config.json").write_text(
        config.replace('"intermediate_size": 48', '"intermediate_size": 50')
    )
    with pytest.raises(
        CheckpointError, match=r"model: the weights do not fit config\.json: .*mlp\.gate_proj"
    ):
        open_text_decoder(model)
    (model / "config.json").write_text(
        config.replace('"use_sliding_window": false', '"use_sliding_window": true')
    )
    with pytest.raises(CheckpointError, match="use_sliding_window"):
        open_text_decoder(model)
    (model / "config.json").write_text(config)
    (model / "tokenizer.model").unlink()
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        TextLoss.open(model)
