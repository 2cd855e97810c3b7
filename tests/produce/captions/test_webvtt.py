"""WebVTT: YouTube's automatic captions that roll, and everything that the standard allows."""

from livecc_jax.produce.captions.read import parse_captions

# Two lines; the second is one word, which has no tag, and is said twice.
AUTO = """WEBVTT
Kind: captions
Language: en

00:00:00.160 --> 00:00:02.230 align:start position:0%
 
hello<00:00:00.480><c> big</c><00:00:01.000><c> world</c>

00:00:02.230 --> 00:00:02.240 align:start position:0%
hello big world
 

00:00:02.240 --> 00:00:05.000 align:start position:0%
hello big world
yeah

00:00:05.000 --> 00:00:05.010 align:start position:0%
yeah
 

00:00:05.010 --> 00:00:05.700 align:start position:0%
yeah
yeah

00:00:05.700 --> 00:00:05.710 align:start position:0%
yeah
 

00:00:09.000 --> 00:00:11.000 align:start position:0%
yeah
hello<00:00:09.500><c> big</c><00:00:10.250><c> world</c>

00:00:11.000 --> 00:00:11.010 align:start position:0%
hello big world
 

00:00:11.010 --> 00:00:13.000 align:start position:0%
hello big world
hello<00:00:11.500><c> big</c><00:00:12.250><c> world</c>
"""  # noqa: W293 (YouTube has rows of one space)


def test_automatic_captions(words):
    assert words(AUTO) == [
        (0.16, 0.48, "hello"), (0.48, 1.0, "big"), (1.0, 2.0, "world"),  # 1.0 s at most, not 1.23
        (2.24, 3.24, "yeah"),
        (5.01, 5.7, "yeah"),
        (9.0, 9.5, "hello"), (9.5, 10.25, "big"), (10.25, 11.0, "world"),
        (11.01, 11.5, "hello"), (11.5, 12.25, "big"), (12.25, 13.0, "world"),
    ]  # fmt: skip
    found = parse_captions(AUTO.encode())
    assert (found.kind, found.language, found.format) == ("auto", "en", "vtt")


def test_longest_word_is_a_parameter(words):
    assert words(AUTO, longest_word_ms=2000)[2:4] == [(1.0, 2.23, "world"), (2.24, 4.24, "yeah")]


def test_a_repeated_line_below_a_blank_row_is_said_again(texts):
    text = AUTO + "\n00:00:20.000 --> 00:00:21.000\n \nyeah\n\n00:00:30.000 --> 00:00:31.000\n \nyeah\n"
    assert texts(text).endswith("hello big world yeah yeah")


def test_what_is_no_text(words):
    text = """WEBVTT - a title
X-TIMESTAMP-MAP=LOCAL:00:00:00.000,MPEGTS:900000

STYLE
::cue { color: red }

REGION
id:fred
width:40%

NOTE a comment
of two lines

intro
00:01.000 --> 00:02.000 line:0 position:20%
<v Mary>Hi <b>you</b>

NOTE

17
01:00:02.000 --> 01:00:03.000
NOTE that this is said
<c.yellow.bg_blue>2 < 3</c> &amp; I <3 R&amp;amp;B &lt;i&gt;
"""
    said = ["NOTE", "that", "this", "is", "said", "2", "<", "3", "&", "I", "<3", "R&amp;B", "<i>"]
    found = words(text)
    assert found[:2] == [(1.0, 1.5, "Hi"), (1.5, 2.0, "you")]
    assert [text for _, _, text in found[2:]] == said
    assert (found[2][0], found[-1][1]) == (3602.0, 3603.0)


def test_no_break_spaces_part_words(texts):
    text = "WEBVTT\n\n00:00.000 --> 00:01.000\na&nbsp;b\u00a0c\u3000d  e\n"
    assert texts(text) == "a b c d e"


def test_times_that_are_not_standard(words):
    text = "WEBVTT\n\n0:1,5 --> 0:2,500\na\n\n75:00.000 --> 75:01.000\nb\n"
    assert words(text) == [(1.5, 2.5, "a"), (4500.0, 4501.0, "b")]


def test_without_header_by_its_name(words):
    assert words("00:01.000 --> 00:02.000\na\n", "x.vtt") == [(1.0, 2.0, "a")]


def test_manual_captions_that_repeat_a_line_do_not_roll(texts):
    cues = ["no", "no", "yes", "well", "no", "maybe"]
    text = "".join(f"00:0{i}.000 --> 00:0{i}.900\n{cue}\n\n" for i, cue in enumerate(cues))
    assert texts("WEBVTT\n\n" + text) == " ".join(cues)
