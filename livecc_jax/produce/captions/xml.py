"""Parses XML that is text already, as strictly as files allow."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

from livecc_jax.errors import DataError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

# Characters that XML forbids; some files hold them all the same.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_AMPERSAND = re.compile(r"&(?!(?:amp|lt|gt|quot|apos|#\d{1,7}|#[xX][0-9a-fA-F]{1,6});)(?:(\w{2,32});)?")
_NUMERIC = re.compile(r"&#(?:(\d{1,7})|[xX]([0-9a-fA-F]{1,6}));")
_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")
MAX_DEPTH = 200


def parse_xml(text: str) -> Element:
    """Returns the root of a document.

    Its declaration is not read, for the bytes have been decoded. Entities that HTML knows and
    ampersands that were not escaped are taken as they are meant.

    Args:
        text: The document.

    Raises:
        DataError: It is no XML, is nested too deeply, or defines entities of its own.
    """
    from xml.etree.ElementTree import ParseError, XMLParser

    if "<!ENTITY" in text:
        raise DataError("defines entities of its own")
    text = _FORBIDDEN.sub("", _DECLARATION.sub("", text.lstrip("\ufeff \t\n"), count=1))
    for repaired in (False, True):
        if repaired:
            text = _NUMERIC.sub(_allowed, _AMPERSAND.sub(_escaped, text))
        parser = XMLParser(target=_BoundedBuilder())
        try:
            parser.feed(text)
            return parser.close()
        except ParseError as error:
            fault = error
        except ValueError as error:
            raise DataError(f"is no XML that can be read: {error}") from error
    raise DataError(f"is no XML: {fault}") from fault


def _escaped(match: re.Match[str]) -> str:
    if match[1]:
        decoded = html.unescape(match[0])
        if decoded != match[0]:
            return html.escape(decoded)
        return f"&amp;{match[1]};"
    return "&amp;"


def _allowed(match: re.Match[str]) -> str:
    """Returns a character reference, or nothing for a character that XML forbids."""
    code = int(match[1]) if match[1] else int(match[2], 16)
    good = (
        code in (9, 10, 13)
        or 0x20 <= code < 0xD800
        or 0xE000 <= code < 0xFFFE
        or 0x10000 <= code < 0x110000
    )
    return match[0] if good else ""


def _builder() -> type:
    from xml.etree.ElementTree import TreeBuilder

    class Bounded(TreeBuilder):
        """Builds a tree of bounded depth, which a recursive walk can follow."""

        depth = 0

        def start(self, tag: str, attributes: dict) -> Element:
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
            return super().start(tag, attributes)

        def end(self, tag: str) -> Element:
            self.depth -= 1
            return super().end(tag)

    return Bounded


def _BoundedBuilder() -> object:
    return _builder()()


def local_name(tag: object) -> str:
    """Returns the name of a tag without its namespace; "" for comments and instructions."""
    return tag.rpartition("}")[2].rpartition(":")[2].lower() if isinstance(tag, str) else ""
