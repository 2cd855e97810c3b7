"""The title of a video may be in any encoding."""

import av
import numpy as np
import pytest

from livecc_jax.media.video import probe, read_frames
from tests.support.media import make_video

TITLE = "caf\u00e9"


@pytest.mark.parametrize("container", ["mp4", "mkv", "flv", "avi"])
def test_a_title_that_is_not_utf8(container, tmp_path):
    plain = make_video(
        tmp_path / f"plain.{container}", range(0, 1000, 100), frame_rate=10, options={"bf": "0"}
    )
    titled = tmp_path / f"titled.{container}"
    with av.open(str(plain)) as source, av.open(str(titled), "w") as copy:
        copy.metadata["title"] = TITLE
        out = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = out
                copy.mux(packet)
    data = titled.read_bytes()
    assert TITLE.encode() in data
    titled.write_bytes(data.replace(TITLE.encode(), b"caf\xe9!"))  # Latin-1, as long as before
    with pytest.raises(UnicodeDecodeError):
        av.open(str(titled))
    info, expected = probe(titled), probe(plain)
    np.testing.assert_array_equal(info.pts_us, expected.pts_us)
    np.testing.assert_array_equal(read_frames(info, [0, 7]), read_frames(expected, [0, 7]))
