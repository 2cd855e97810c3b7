"""What every report's page must be: well-formed, self-contained, and without a script."""

import html.parser
import re
import xml.etree.ElementTree as ElementTree


class Page(html.parser.HTMLParser):
    """Parses a page: checks that tags are closed; collects tags, ids, texts and loaded addresses."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.loaded, self.ids, self.texts = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.note(attrs)
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.note(attrs)

    def note(self, attrs):
        self.loaded += [v for k, v in attrs if k in ("src", "href", "data", "srcset")]
        self.ids += [v for k, v in attrs if k == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def check_page(text):
    """Checks a page; returns it parsed, and its drawings as XML."""
    page = Page(text)
    assert page.open == []
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.loaded)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert not re.search(r"url\((?!#)|@import|javascript:| on[a-z]+=", text)
    assert len(page.ids) == len(set(page.ids))
    drawings = [ElementTree.fromstring(s) for s in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]
    for name in re.findall(r'(?:url\(#|xlink:href="#)([^)"]+)', text):
        assert name in page.ids
    return page, drawings
