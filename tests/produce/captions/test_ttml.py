"""TTML: every way of writing times, nesting, white space, old namespaces."""

import pytest

NS = 'xmlns="http://www.w3.org/ns/ttml" xmlns:ttp="http://www.w3.org/ns/ttml#parameter" xmlns:ttm="m"'


def document(body, attributes=""):
    return f"<tt {NS} xml:lang='en' {attributes}><head><ttm:title>T</ttm:title></head>{body}</tt>"


def test_text(words):
    text = document("""<body><div><p begin="1s" end="3s"><metadata><ttm:desc>no</ttm:desc></metadata>
        A <span>fine
        <span style="x">mes</span>s</span><br/>
        - Bob:   &lt;b&gt;
    </p></div></body>""")
    assert words(text) == [
        (1.0, 1.4, "A"), (1.4, 1.8, "fine"), (1.8, 2.2, "mess"), (2.2, 2.6, "Bob:"), (2.6, 3.0, "<b>"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("attributes", "begin", "start"),
    [
        ("", "00:00:02.5", 2.5), ("", "00:00:02,500", 2.5), ("", "2500ms", 2.5), ("", "2.5s", 2.5),
        ("", "0.05m", 3.0), ("", "0.001h", 3.6), ("", "00:00:02:15", 2.5), ("", "75f", 2.5),
        ("ttp:frameRate='25'", "00:00:02:05", 2.2), ("ttp:frameRate='25'", "55f", 2.2),
        ("ttp:frameRate='30' ttp:frameRateMultiplier='1000 1001'", "30f", 1.001),
        ("ttp:tickRate='10000000'", "25000000t", 2.5), ("", "2t", 2.0), ("ttp:frameRate='25'",
        "50t", 2.0),
        ("ttp:frameRate='25' ttp:timeBase='smpte'", "00:00:02:05", 2.2),
        ("ttp:frameRate='30' ttp:frameRateMultiplier='1000 1001' ttp:timeBase='smpte' "
         "ttp:dropMode='dropNTSC'",
         "00:01:00:02", 60.06),
    ],
)  # fmt: skip
def test_times(words, attributes, begin, start):
    found = words(document(f'<body><div><p begin="{begin}" end="99h">a</p></div></body>', attributes))
    assert [(w[0], w[2]) for w in found] == [(start, "a")]


def test_nested_times(words):
    text = document("""<body begin="10s" end="30s"><div begin="1s"><p begin="1s" dur="2s">a</p>
        <p begin="5s" end="99s">b</p></div><div timeContainer="seq" begin="11s"><p dur="1s">c</p>
        <p dur="1s">d</p></div></body>""")
    assert words(text) == [(12.0, 14.0, "a"), (16.0, 21.0, "b"), (21.0, 22.0, "c"), (22.0, 23.0, "d")]


def test_timed_parts(words):
    inner = '<span begin="0s" end="0.5s">so</span> <span begin="0.5s" end="1s">it</span>'
    expected = [(2.0, 2.5, "so"), (2.5, 3.0, "it")]
    assert words(document(f'<body><div><p begin="2s" end="3s">{inner}</p></div></body>')) == expected
    assert words(document(f'<body><div begin="2s"><p>{inner}</p></div></body>')) == expected


def test_cues_of_no_length_and_of_negative_length(words):
    text = document(
        '<body><div><p begin="2s" end="2s">a b</p><p begin="4s" end="3s">c</p></div></body>'
    )
    assert words(text) == [(2.0, 2.0, "a"), (2.0, 2.0, "b"), (4.0, 4.0, "c")]


@pytest.mark.parametrize(
    "tt",
    [
        '<tt xmlns="http://www.w3.org/2006/10/ttaf1">{}</tt>',
        '<tt xmlns="http://www.w3.org/2006/04/ttaf1">{}</tt>',
        "<tt>{}</tt>", "<?xml version='1.0' encoding='UTF-16'?>\n<!-- c --><tt>{}</tt>",
    ],
)  # fmt: skip
def test_namespaces(words, tt):
    assert words(tt.format('<body><div><p begin="1s" end="2s">a</p></div></body>')) == [(1.0, 2.0, "a")]


def test_prefixes(words):
    text = (
        '<x:tt xmlns:x="http://www.w3.org/ns/ttml"><x:body><x:div><x:p begin="1s" end="2s">'
        "a<x:br/>b</x:p></x:div></x:body></x:tt>"
    )
    assert words(text) == [(1.0, 1.5, "a"), (1.5, 2.0, "b")]


def test_languages(texts):
    div = '<div xml:lang="{}"><p begin="1s" end="2s">{}</p></div>'
    text = document(f"<body>{div.format('fr', 'oui')}{div.format('de-AT', 'ja')}</body>")
    assert texts(text) == "oui"
    assert texts(text, language="de") == "ja"
