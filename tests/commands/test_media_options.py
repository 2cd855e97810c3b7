"""Options that choose how videos are read: they reach the example, the index and the evaluation."""

import argparse
import json
import re

import av
import numpy as np
import pytest

from livecc_jax.cli import main
from livecc_jax.commands.evaluation_run import run_rules
from livecc_jax.commands.options import add_media_options, media_rules
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.rules import DEFAULT, EARLIER, MediaRules


@pytest.fixture(scope="module")
def annotations(tmp_path_factory):
    """A clip with a preview of 56x84, and a video of 112x140 whose pixels are twice as wide as high."""
    folder = tmp_path_factory.mktemp("options")
    with av.open(str(folder / "two.mkv"), "w") as container:
        packets = []
        for number, size in enumerate([(56, 84), (112, 140)]):
            stream = container.add_stream("mpeg4", rate=10)
            stream.height, stream.width = size
            stream.codec_context.sample_aspect_ratio = 1 + number
            stream.disposition = av.stream.Disposition(number)
            # Seconds 0 to 1 and 5 to 6; between them, the picture stands still.
            for stamp in [*range(10), *range(50, 60)]:
                frame = av.VideoFrame.from_ndarray(np.full((*size, 3), stamp, np.uint8))
                frame.pts = stamp
                packets += stream.encode(frame)
            packets += stream.encode()
        for packet in sorted(packets, key=lambda packet: packet.pts * packet.time_base):
            container.mux(packet)
    words = [[t, t + 0.1, "word"] for t in np.arange(0.2, 5.5, 0.5).round(1).tolist()]
    conversation = [
        {"role": "user", "content": [{"type": "video", "video": "two.mkv"}]},
        {"role": "assistant", "content": [{"type": "text_stream", "text_stream": words}]},
    ]
    (folder / "a.jsonl").write_text(json.dumps(conversation) + "\n")
    return folder / "a.jsonl"


@pytest.mark.parametrize(
    ("options", "size", "times"),
    [
        ([], (112, 280), "0.10 0.60 5.10 5.10 5.10 5.10"),
        (["--pixel-aspect", "stored"], (112, 140), "0.10 0.60 5.10 5.10 5.10 5.10"),
        (["--video-track", "0"], (56, 84), "0.10 0.60 5.10 5.10 5.10 5.10"),
        (["--gap-picture", "previous"], (112, 280), "0.10 0.60 1.10 1.60 2.10 2.60"),
    ],
)
def test_inspect(annotations, small_tokenizer, capsys, options, size, times):
    common = ["--tokenizer", str(small_tokenizer), "--pixel-budget", "64"]
    assert main(["inspect", str(annotations), *common, *options]) == 0
    out = capsys.readouterr().out
    height, width = PixelBudget.parse("64").size(*size, 2)
    assert f"shown at {width}x{height}, " in out
    assert re.search(r"<frames ([^>]*)>", out)[1] == times


def test_an_index_is_made_by_the_options(annotations, small_tokenizer, tmp_path, capsys):
    """And shows its rows by them: options that would contradict it are refused."""
    out = tmp_path / "index"
    tokenizer = ["--tokenizer", str(small_tokenizer)]
    command = ["index", str(annotations), "--out", str(out), *tokenizer, "--workers", "0"]
    assert main([*command, "--video-track", "0", "--gap-picture", "previous"]) == 0
    recorded = json.loads((out / "meta.json").read_text())["media_rules"]
    assert recorded == {"track": 0, "aspect": "displayed", "gap": "previous", "version": 2}
    capsys.readouterr()
    inspect = ["inspect", str(out), "--row", "0", *tokenizer, "--pixel-aspect", "stored"]
    assert main(inspect) == 2
    assert "an index keeps to the rules that it was made with" in capsys.readouterr().err
    assert main([*command, "--overwrite", "--video-track", "2"]) == 2
    assert "has no video track 2, only 0 to 1" in capsys.readouterr().err


def test_an_evaluation_that_was_begun_keeps_to_its_rules(tmp_path):
    """One of an earlier version recorded none; an option that contradicts it is not overruled."""
    parser = argparse.ArgumentParser()
    add_media_options(parser, gaps=False)
    args = parser.parse_args([])
    assert run_rules(args, tmp_path) == media_rules(args) == DEFAULT
    (tmp_path / "run.json").write_text('{"benchmark": "videomme"}')
    assert run_rules(args, tmp_path) == EARLIER
    args = parser.parse_args(["--video-track", "1"])
    assert run_rules(args, tmp_path) == MediaRules(track=1)
    (tmp_path / "run.json").write_text('{"media_rules": {}}')
    assert run_rules(parser.parse_args([]), tmp_path) == DEFAULT
