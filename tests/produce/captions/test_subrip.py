"""SubRip as players, sites and ffmpeg write it, in any encoding; and ASS."""

import pytest

FILE = """1
00:00:01,000 --> 00:00:03,000 X1:100 X2:200 Y1:300 Y2:400
<i>Hello</i> &amp; {\\an8}you, I <3 it

2
0:00:03.500 --> 0:00:04.500

- Number
42

00:00:05,000 --> 00:00:06,000
[Music]
(laughs)
>> JOHN Q. SMITH: the the end
4
00:00:06,000 --> 00:00:07,000
♪ la la ♪
(sighs) really (no)
7"""
WORDS = [
    (1.0, 1.333, "Hello"), (1.333, 1.666, "&"), (1.666, 2.0, "you,"), (2.0, 2.333, "I"),
    (2.333, 2.666, "<3"), (2.666, 3.0, "it"),
    (3.5, 4.0, "Number"), (4.0, 4.5, "42"),
    (5.0, 5.5, "the"), (5.5, 6.0, "end"),
    (6.0, 6.25, "(sighs)"), (6.25, 6.5, "really"), (6.5, 6.75, "(no)"), (6.75, 7.0, "7"),
]  # fmt: skip


def test_values(words):
    assert words(FILE) == WORDS


@pytest.mark.parametrize("ends", ["\r\n", "\r", "mixed", "twice"])
def test_line_ends(words, ends):
    if ends == "mixed":  # as ffmpeg writes them
        text = "\r\n".join(FILE.split("\n")[:6]) + "\n" + "\n".join(FILE.split("\n")[6:])
    else:
        text = FILE.replace("\n", {"twice": "\r\r\n"}.get(ends, ends))
    assert words(text) == WORDS


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252", "latin-1"]
)
def test_encodings(words, encoding):
    text = "1\n00:00:01,000 --> 00:00:02,000\nÉtienne naïf\n"
    assert words(text.encode(encoding)) == [(1.0, 1.5, "Étienne"), (1.5, 2.0, "naïf")]


def test_windows_1252(texts):
    assert texts(b"1\n00:00:01,000 --> 00:00:02,000\n\x93Hi\x94 \x81x \x80\n") == "“Hi” \x81x €"


def test_order_overlap_and_same_start(words):
    text = """1
00:00:05,000 --> 00:00:09,000
third

2
00:00:01,000 --> 00:00:09,000
first

3
00:00:02,000 --> 00:00:03,000
upper row

4
00:00:02,000 --> 00:00:04,000
lower

5
00:00:06,000 --> 00:00:05,000
end before start

6
00:00:07,000 --> 00:00:07,500

"""
    assert words(text) == [
        (1.0, 2.0, "first"),
        (2.0, 2.666, "upper"), (2.666, 3.333, "row"), (3.333, 4.0, "lower"),
        (5.0, 6.0, "third"),
        (6.0, 6.0, "end"), (6.0, 6.0, "before"), (6.0, 6.0, "start"),
    ]  # fmt: skip


def test_a_dropped_row_ends_the_cue_before(words):
    text = "00:00:01,000 --> 00:00:09,000\na\n\n00:00:03,000 --> 00:00:04,000\n[Applause]\n"
    assert words(text) == [(1.0, 3.0, "a")]


def test_rolling_rows(words):
    """Roll-up of three rows, as television has it; the last line is said twice."""
    rows = ["one a", "two b", "three c", "four d", "four d"]
    cues = [rows[max(0, i - 2) : i + 1] for i in range(5)]
    text = "".join(
        f"00:00:0{i},000 --> 00:00:0{i + 1},000\n" + "\n".join(c) + "\n\n" for i, c in enumerate(cues)
    )
    assert words(text) == [
        (i + j / 2, i + (j + 1) / 2, word)
        for i, row in enumerate(rows)
        for j, word in enumerate(row.split())
    ]


def test_what_ffmpeg_makes_of_automatic_webvtt(texts):
    lines = ["good evening everyone", "yeah", "yeah", "good night"]
    text, number, before = "", 1, " "
    for i, line in enumerate(lines):
        for span, rows in ((f"00:00:1{i},000 --> 00:00:1{i},990", f"{before}\r\n{line}"),
                           (f"00:00:1{i},990 --> 00:00:1{i + 1},000", f"{line}\r\n ")):  # fmt: skip
            text += f"{number}\n{span}\n{rows}\n\n"
            number += 1
        before = line
    assert texts(text) == "good evening everyone yeah yeah good night"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("- Hello", "Hello"), ("-Hello", "-Hello"), ("– Hi — there", "Hi — there"), ("—", ""),
        (">> Hello", "Hello"), (">>> BOB: hi >> MR. X: ho", "hi ho"), (">> Bob: hi", "Bob: hi"),
        (">>JOHN: hi", "hi"), (">> A B C D: hi", "A B C D: hi"), (">> 10: hi", "10: hi"),
        (">> ÉTIENNE: oui", "oui"), ("BOB: hi", "BOB: hi"), ("well >> hello", "well hello"),
        ("thank you [Applause]", ""), ("[\u00a0__\u00a0] you", ""), ("♩ x", ""), ("（笑）", ""),
        ("(a) b", "(a) b"), ("(a) (b)", ""), ("(a (b) c)", ""), ("a (b)", "a (b)"),
        ("no\u200bspace\ufeff \u2060co\u00adop \u202bעברית\u202c", "nospace coop עברית"),
        ("می\u200cخواهم 👩\u200d🚀", "می\u200cخواهم 👩\u200d🚀"),
        ("the the The the", "the The the"), ("2 < 3 <b>x</b> <3", "2 < 3 x <3"),
        ("a <00:00:01.000>b </i>c", "a b c"), ("a<br>b<BR />c<i>d</i>", "a b cd"),
        ("{\\b1}x{\\b0} {y}", "x {y}"),
        ("&lt;i&gt; &amp;amp; &#39;&#x41;&eacute; &bogus; AT&T &copy",
        "<i> &amp; 'Aé &bogus; AT&T &copy"),
    ],
)  # fmt: skip
def test_rows(texts, row, said):
    assert texts(f"1\n00:00:01,000 --> 00:00:02,000\n{row}\n") == said


def test_ass(words):
    text = """\ufeff[Script Info]
; a comment
Title: x --> y

[V4+ Styles]
Format: Name, Fontname
Style: Default,Arial

[Events]
Format: Layer, Start, End, Style, Text
Dialogue: 0,0:00:01.00,0:00:03.00,Default,{\\i1}Hi,{\\i0} all,\\Nthere\\hnow\\nDialogue:
Dialogue: 1,0:00:01.00,0:00:03.00,Default,Hi, all,\\Nthere\\hnow\\nDialogue:
Dialogue: 0,0:00:04.50,0:00:05.00,Default,{\\p1}m 0 0 l 1 1{\\p0}drawn{\\pos(1,2)} not
Comment: 0,0:00:06.00,0:00:07.00,Default,no
"""
    assert words(text) == [
        (1.0, 1.4, "Hi,"), (1.4, 1.8, "all,"), (1.8, 2.2, "there"), (2.2, 2.6, "now"),
        (2.6, 3.0, "Dialogue:"),
        (4.5, 4.75, "drawn"), (4.75, 5.0, "not"),
    ]  # fmt: skip


def test_ssa_in_its_own_order_of_fields(words):
    text = """[Script Info]
[Events]
Format: Marked, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Dialogue: Marked=0,0:00:01.00,0:00:02.00,Default,NTP,0000,0000,0000,!Effect,a, b
"""
    assert words(text) == [(1.0, 1.5, "a,"), (1.5, 2.0, "b")]
