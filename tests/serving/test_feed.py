"""The queue between the decoding thread and a reader."""

from livecc_jax.serving.feed import Feed


def test_a_feed_drops_only_live_items():
    feed = Feed(limit=2)
    for number, live in enumerate([True, False, True, False, True]):
        feed.put(number, live)
    assert not feed.has_room
    feed.end()
    assert list(feed) == [1, 3, 4]
    assert feed.dropped == 2
    assert feed.has_room
