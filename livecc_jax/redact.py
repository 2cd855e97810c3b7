"""What may be shown of a text: no secrets of addresses, and no characters that control a terminal.

An address may hold a password before its host, in its query, or, with some cameras, in its path. File
names and titles may hold escape sequences that move the cursor, retitle the window or hide text.
"""

from __future__ import annotations

import logging
import re
import traceback

HIDDEN = "***"

# Paths that are joined have one slash where there were two.
_SCHEME = (
    r"(?:[A-Za-z][A-Za-z0-9+.:-]*://|(?i:(?:rts|rtm|http|ftp|sftp|srt|tcp|udp|s3|gs|az)[a-z]{0,2}):/)"
)
# An address within a text ends at white space or at a quotation mark, both of which its password may
# hold: what follows a colon up to an `@` is a password, unless it is a port.
_ADDRESS = re.compile(
    rf"{_SCHEME}"
    r"(?:[^\s/]*@|[^\s/:]*:(?!\d+(?:[\s/:?#]|$))[^\s:][^\n@/]{0,80}@)?"
    r"""[^\s'"<>`]*"""
)
_WHOLE_ADDRESS = re.compile(f"({_SCHEME})(.*)", re.DOTALL)
# A name in a bucket may hold any character; there is no query after it.
_BUCKETS = {"gs", "gcs", "s3", "s3a", "az", "abfs", "abfss", "adl", "hf", "hdfs", "file", "memory"}
# Parameters of cameras that name a picture. They are shown where their value is a number.
_PLAIN_PARAMETERS = {
    "camera", "cam", "ch", "channel", "fps", "height", "profile", "quality", "resolution", "stream",
    "streamtype", "subtype", "track", "width",
}  # fmt: skip
_PLAIN_VALUE = re.compile(r"\d{1,4}(?:[x.]\d{1,4})?")
# Some cameras take `user=admin_password=..._channel=1` or the like in the path.
_SECRET_IN_PATH = re.compile(
    r"(?i)((?:user(?:name)?|login|password|passwd|pass|pwd|token|secret|api[_-]?key|key|auth|sig"
    r"(?:nature)?)=)(.*?)(?=[&/;,]|_[a-z]+=|$)"
)
# Everything that moves the cursor, sets colours or reorders text; tabs and line breaks are plain text.
_CONTROL = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\r(?!\n)"  # C0 and C1
    r"|[\u202a-\u202e\u2066-\u2069\ud800-\udfff]"  # order of letters; halves of characters
)


def displayable(text: str) -> str:
    """Returns a text fit for a message: without secrets of addresses and without control characters."""
    return visible(redact(text))


def redact(text: str) -> str:
    """Returns a text with what may be secret hidden in every address that it holds.

    Args:
        text: Any text, such as a message.
    """
    return _ADDRESS.sub(_redact_match, text) if ":/" in text else text


def _redact_match(match: re.Match[str]) -> str:
    address = match[0].rstrip(".,:;)]}")  # the sentence goes on
    return redact_address(address) + match[0][len(address) :]


def redact_address(address: str) -> str:
    """Returns an address with what may be secret hidden: user, password, query and fragment.

    A text that is no address, such as a path, is returned as it is.

    Args:
        address: An address or a path. All of it is taken as one address, also where it holds spaces.
    """
    match = _WHOLE_ADDRESS.fullmatch(address)
    if not match:
        return address
    scheme, rest = match.groups()
    kind = scheme.lower().rstrip(":/").rpartition(":")[2]
    rest = _hide_user(rest, is_camera=kind.startswith(("rts", "rtm")))
    if kind in _BUCKETS:
        return scheme + rest
    rest, number_sign, fragment = rest.partition("#")
    path, question_mark, query = rest.partition("?")
    shown = _SECRET_IN_PATH.sub(rf"\g<1>{HIDDEN}", path) + question_mark
    shown += "&".join(map(_redact_parameter, query.split("&"))) if query else ""
    return f"{scheme}{shown}{number_sign}{HIDDEN if fragment else ''}"


def _hide_user(rest: str, is_camera: bool) -> str:
    """Hides user and password, given what follows `://`.

    A password may hold `/`, `?`, `#` and `@`, although it should not; such addresses are read so that
    nothing of the password is shown, even if that hides a part of the path.
    """
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    port = authority.rpartition(":")[2] if ":" in authority.rpartition("]")[2] else ""
    if port and not port.isdigit() and "@" not in authority:  # it is the beginning of a password
        end = rest.rfind("@")
    elif is_camera or "@" in authority:
        end = rest.partition("?")[0].rfind("@")
    else:
        end = -1
    return f"{HIDDEN}@{rest[end + 1 :]}" if end >= 0 else rest


def _redact_parameter(parameter: str) -> str:
    name, equals, value = parameter.partition("=")
    plain = name.lower() in _PLAIN_PARAMETERS and _PLAIN_VALUE.fullmatch(value)
    if not value:
        # A query without a name may be a token as a whole; a short word is a switch such as `?real`.
        return parameter if equals or re.fullmatch(r"[a-z_]{0,12}", name) else HIDDEN
    return parameter if plain else f"{name}={HIDDEN}"


def visible(text: str) -> str:
    r"""Returns a text whose control characters are written out, `\x1b` for an escape.

    Tabs and line feeds stay. So does every letter of every script; only marks that change the direction
    of the text around them are written out, and halves of characters, which cannot be printed.

    Args:
        text: Any text, such as a path or a title.
    """
    if text.isascii() and text.isprintable():
        return text
    return _CONTROL.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class RedactingFilter(logging.Filter):
    """Makes log records and their tracebacks displayable: a handler's second line of defence."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Replaces those texts of the record that hold something to hide; lets every record through."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # the arguments do not fit the message
            message = f"{record.msg} {record.args}"
        if (shown := displayable(message)) != message:
            record.msg, record.args = shown, ()
        if record.exc_info and not record.exc_text:
            trace = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
            if (shown := displayable(trace)) != trace:
                record.exc_text = shown
        return True
