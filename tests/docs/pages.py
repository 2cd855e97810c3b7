"""The documents of the repository, and what stands in them."""

import re
import shlex
import sys
import unicodedata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))

import site_pages as site_pages  # noqa: E402  (docs/site_pages.py)

FENCE = re.compile(
    r"^(?P<mark>```+)(?P<kind>[^\n]*)\n(?P<text>.*?)^(?P=mark)\s*$", re.DOTALL | re.MULTILINE
)


def documents() -> list[Path]:
    """All Markdown files that a reader is sent to."""
    named = (
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "data/README.md",
        "livecc_jax/kernels/README.md",
    )
    folders = ("docs", "benchmarks")
    found = [ROOT / name for name in named if (ROOT / name).exists()]
    return found + [path for folder in folders for path in sorted((ROOT / folder).rglob("*.md"))]


def without_code(text: str) -> str:
    """A document without fenced and inline code."""
    return re.sub(r"`[^`\n]*`", "code", FENCE.sub("", text))


def links(path: Path) -> list[str]:
    """Targets of a document's links and pictures that are not addresses."""
    found = re.findall(r"\]\(([^()\s]+)\)", without_code(path.read_text(encoding="utf-8")))
    return [target for target in found if not re.match(r"[a-z][a-z0-9+.-]*:", target)]


def anchors(text: str) -> set[str]:
    """Names of a document's headings, as Python-Markdown (and, for these, GitHub) makes them."""
    names = set()
    for heading in re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)|`", r"\1", heading)
        plain = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
        names.add(re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower()))
    return names


def code_lines(path: Path) -> list[str]:
    """Commands in a document's fenced code, one a line, without comments; continued lines joined."""
    lines = []
    for block in FENCE.finditer(path.read_text(encoding="utf-8")):
        if block["kind"].strip() in ("python", "text", "json"):
            continue
        text = block["text"].replace("\\\n", " ")
        lines += [re.sub(r"\s#.*", "", line).strip() for line in text.split("\n")]
    return [line for line in lines if line]


def inline_commands(path: Path) -> list[str]:
    """Commands in a document's inline code; a line break within is white space."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    return [" ".join(code.split()) for code in re.findall(r"`((?:livecc|python|make) [^`]+)`", text)]


def words(command: str) -> list[str]:
    """The words of a command line, as a shell splits them."""
    return shlex.split(command.replace("|", " "))
