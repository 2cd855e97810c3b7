"""How families write and place videos: timestamps, and positions that follow time."""

from pathlib import Path

import numpy as np
import pytest

from livecc_jax.errors import ConfigError
from livecc_jax.families import FAMILIES
from livecc_jax.text.open import open_tokenizer
from livecc_jax.text.tokenizer import SpecialTokens
from livecc_jax.timeline.chat import ChatTemplate, ChatTurn, Visual, stream_conversation
from livecc_jax.timeline.example import Word
from livecc_jax.timeline.positions import check_positions, token_positions
from livecc_jax.timeline.turns import build_turns

ROOT = Path(__file__).parents[2]
QWEN3, QWEN2_5 = FAMILIES["qwen3_vl"], FAMILIES["qwen2_5_vl"]
SPECIAL = SpecialTokens(0, 1, 2, 3, 4, 5, 6)


@pytest.fixture(scope="module")
def tokenizer():
    return open_tokenizer(ROOT / "data/tokenizer")


def shown(tokenizer, tokens):
    """The text of tokens, each run of pads as `*n`."""
    pads = (tokenizer.special.video_pad, tokenizer.special.image_pad)
    names = {
        tokenizer.special.im_start: "<|im_start|>",
        tokenizer.special.im_end: "<|im_end|>",
        tokenizer.special.vision_start: "[",
        tokenizer.special.vision_end: "]",
    }
    out, text, run = "", [], 0
    for token in [*tokens.tolist(), None]:
        if token in pads:
            run += 1
            continue
        if run:
            out, run = out + f"*{run}", 0
        if token in names or token is None:
            out, text = out + tokenizer.decode(text), []
            out += names.get(token, "")
        else:
            text.append(token)
    return out


def test_timestamps_stand_before_each_frame_pair(tokenizer):
    """As Python prints one decimal: halves to even, so 0.25 is 0.2 and 3.25 is 3.2."""
    turns = build_turns(500_000 * np.arange(1, 11), [Word(0, 1, "hi"), Word(0, 4_900_000, "you")])
    template = ChatTemplate(tokenizer, QWEN3)
    chat = stream_conversation(turns, (4, 6), "T")
    encoded = template.conversation(chat)
    assert shown(tokenizer, encoded.tokens) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nTime=0.0-3.0s"
        "<0.2 seconds>[*6]<1.2 seconds>[*6]<2.2 seconds>[*6]T<|im_end|>\n<|im_start|>assistant\n"
        "hi ...<|im_end|>\n<|im_start|>user\nTime=3.0-4.0s<3.2 seconds>[*6]<|im_end|>\n"
        "<|im_start|>assistant\n ...<|im_end|>\n<|im_start|>user\nTime=4.0-5.0s<4.2 seconds>[*6]"
        "<|im_end|>\n<|im_start|>assistant\nyou ...<|im_end|>\n"
    )
    assert encoded.grids.tolist() == [[3, 4, 6], [1, 4, 6], [1, 4, 6]]
    expected = len(encoded.tokens), int(encoded.supervised.sum())
    assert template.count(chat) == template.count_stream(turns, (4, 6), "T") == expected
    # The label and the timestamp are tokenised at once, as ordinary text.
    label = tokenizer.encode("user\nTime=3.0-4.0s<3.2 seconds>")
    joined = encoded.tokens.tolist()
    assert any(joined[i : i + len(label)] == label for i in range(len(joined)))


def test_questions_have_the_times_of_their_frames_and_images_none(tokenizer):
    video = Visual("video", (2, 2, 2), (0.5, 12.25))
    chat = [
        ChatTurn("user", (video, Visual("image", (1, 2, 4)), "What?")),
        ChatTurn("assistant", ("x",)),
    ]
    template = ChatTemplate(tokenizer, QWEN3)
    encoded = template.conversation(chat)
    assert "<0.5 seconds>[*1]<12.2 seconds>[*1][*2]What?" in shown(tokenizer, encoded.tokens)
    assert template.count(chat) == (len(encoded.tokens), int(encoded.supervised.sum()))
    with pytest.raises(ValueError, match="0 timestamps for 2 frame pairs"):
        template.conversation([ChatTurn("user", (Visual("video", (2, 2, 2)), "?"))])


def test_temporal_positions_follow_absolute_time():
    """Qwen2.5-VL at 2 FPS: two positions a second, that is a pair; the examples worked out by hand."""

    def positions(grid, **settings):
        t, h, w = grid
        tokens = np.array([9] * 14 + [3] + [6] * (t * h * w) + [4], np.int32)
        grids = np.array([(t, 2 * h, 2 * w)], np.int32)
        return token_positions(tokens, grids, SPECIAL, "mrope", family=QWEN2_5, **settings)

    placed, after = positions((3, 4, 6))
    assert sorted(set(placed[0, 15:-1].tolist())) == [15, 17, 19]
    assert after == 22  # the token after the video is at 21
    placed, after = positions((12, 6, 9))
    assert placed[0, 15:-1].max() == 37
    assert placed[0, -1] == 38
    placed, _ = positions((3, 4, 6), pair_positions=4)
    assert sorted(set(placed[0, 15:-1].tolist())) == [15, 19, 23]


@pytest.mark.parametrize("family", [QWEN2_5, QWEN3])
def test_the_released_demo_has_no_such_family(family):
    check_positions("sequential", family)
    with pytest.raises(
        ConfigError, match=f"'hybrid' are those of the released Qwen2-VL demo; {family.name}"
    ):
        check_positions("hybrid", family)
