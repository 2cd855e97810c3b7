"""What is hidden of an address, and which characters a terminal does not receive."""

import logging
import unicodedata

import pytest

from livecc_jax.data.files.cache import FileCache
from livecc_jax.data.files.remote import FileStat
from livecc_jax.data.files.timestamps import TimestampCache
from livecc_jax.errors import DataError, LiveCCError, MediaError
from livecc_jax.redact import RedactingFilter, displayable, redact, redact_address, visible

SECRET = "hunter2"
ADDRESSES = {
    f"rtsp://admin:{SECRET}@127.0.0.1:9/live": "rtsp://***@127.0.0.1:9/live",
    f"RTSP://admin:{SECRET}@CAM/live": "RTSP://***@CAM/live",
    f"https://{SECRET}@host/v.mp4": "https://***@host/v.mp4",
    f"rtsp://admin:{SECRET}@[::1]:554/x": "rtsp://***@[::1]:554/x",
    # What should have been written as %40, %2F and so on.
    f"rtsp://admin:a@{SECRET}@cam/x": "rtsp://***@cam/x",
    f"rtsp://admin:a/{SECRET}@cam/x": "rtsp://***@cam/x",
    f"rtsp://admin:a@b/{SECRET}@cam/x": "rtsp://***@cam/x",
    f"rtsp://admin:7/{SECRET}@cam/x": "rtsp://***@cam/x",
    f"http://admin:a#{SECRET}@cam/x": "http://***@cam/x",
    f"http://admin:a?{SECRET}@cam/x": "http://***@cam/x",
    f"rtsp://admin:[{SECRET}@cam/x": "rtsp://***@cam/x",
    f"rtsp://admin:it's{SECRET}@cam/x": "rtsp://***@cam/x",
    f"rtsp://admin:a {SECRET}@cam/x": "rtsp://***@cam/x",
    # Queries, fragments, and cameras that take the password in the path.
    f"http://cam/v?token={SECRET}&channel=1": "http://cam/v?token=***&channel=1",
    f"http://cam/v?channel={SECRET}": "http://cam/v?channel=***",
    f"http://cam/v?{SECRET}": "http://cam/v?***",
    f"https://b.example/v.mp4?X-Amz-Signature={SECRET}#{SECRET}": (
        "https://b.example/v.mp4?X-Amz-Signature=***#***"
    ),
    f"rtsp://cam/user=admin_password={SECRET}_channel=1_stream=0.sdp?real_stream": (
        "rtsp://cam/user=***_password=***_channel=1_stream=0.sdp?real_stream"
    ),
    f"/work/rtsp:/admin:{SECRET}@cam/x": "/work/rtsp:/***@cam/x",  # what pathlib makes of it
    f"simplecache::http://u:{SECRET}@h/x": "simplecache::http://***@h/x",
    f"s3://KEY:{SECRET}@bucket/a#b?c.mp4": "s3://***@bucket/a#b?c.mp4",
}
PLAIN = [
    "rtsp://127.0.0.1:9/live",
    "http://host:8080/@name/clip.mp4",
    "http://cam/videostream.cgi?channel=1&resolution=640x480",
    "gs://bucket/user=1/key=2/a#b?c@d.mp4",
    "/data/a@b:c/x.mp4",
    "C:/clips/a@b.mp4",
    "note:/a@b/c?d",
    "Ein Satz, 字幕 و نص: nothing to hide, a@b.c and 12:30.",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_secrets_of_an_address_are_hidden(address):
    if not address.startswith("/"):
        assert redact_address(address) == ADDRESSES[address]
    for text in ("{}: cannot be read", "see '{}'.", "({}), and more at noon", "two: {0} {0}"):
        assert redact(text.format(address)) == text.format(ADDRESSES[address])
    assert SECRET not in str(DataError(f"{address}: is missing"))
    assert SECRET not in repr(LiveCCError(f"{address}: is missing"))


@pytest.mark.parametrize("text", PLAIN)
def test_the_rest_stays_as_it_is(text):
    assert redact_address(text) == displayable(text) == text
    assert str(MediaError(f"{text}: cannot be read")) == f"{text}: cannot be read"


def test_control_characters_are_written_out():
    """Unicode's own table says which are control characters; letters of all scripts stay."""
    for code in range(0x3000):
        is_control = unicodedata.category(chr(code)) == "Cc" and chr(code) not in "\t\n"
        turns = unicodedata.bidirectional(chr(code)) in {
            "LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"
        }  # fmt: skip
        assert (visible(chr(code)) != chr(code)) == (is_control or turns), hex(code)
    assert visible("a\x1b]0;title\x07b\x9b1m\r\nc\ud83d") == "a\\x1b]0;title\\x07b\\x9b1m\r\nc\\ud83d"
    assert visible("日本　語 👩‍🚀 é") == "日本　語 👩‍🚀 é"


def test_a_log_is_redacted_with_its_tracebacks(caplog):
    log = logging.getLogger("test_redact")
    handler = caplog.handler
    handler.addFilter(RedactingFilter())
    try:
        raise OSError(f"Connection refused: 'rtsp://u:{SECRET}@h/x'")
    except OSError:
        log.exception("%s: failed\x1b[2J", f"rtsp://u:{SECRET}@h/x")
    finally:
        handler.filters.clear()
    assert SECRET not in caplog.text
    assert "rtsp://***@h/x: failed\\x1b[2J" in caplog.text
    assert "Connection refused: 'rtsp://***@h/x'" in caplog.text


def test_no_file_name_and_no_cache_holds_a_secret(tmp_path):
    address = f"https://u:{SECRET}@h/clip.mp4?sig=a.{SECRET}"
    cache = FileCache(tmp_path / "cache", first_wait_s=0.001)
    # There is no such host, or nothing here that could ask it.
    with pytest.raises(LiveCCError), cache.local(address, FileStat(1, 1)):
        pass
    timestamps = TimestampCache(tmp_path / "timestamps.sqlite")
    timestamps.put(address, FileStat(1, 1), MediaError(f"{address}: is empty"))
    assert str(timestamps.get(address, FileStat(1, 1))).startswith("https://***@h/clip.mp4?sig=***")
    assert timestamps.get(address.replace("u:", "v:"), FileStat(1, 1)) is None
    for file in tmp_path.rglob("*"):
        assert SECRET not in file.name
        assert file.is_dir() or SECRET.encode() not in file.read_bytes()
