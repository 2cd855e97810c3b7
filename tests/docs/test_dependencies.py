"""CONTRIBUTING gives each dependency its reason, size and licence."""

import ast
import re

from tests.docs.pages import ROOT


def declared():
    """Names of packages that setup.py asks for, with every extra."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            match = re.fullmatch(r"([A-Za-z][\w.-]*)(\[\w+\])?[<>=!~][^ ]*( ?;.*)?", node.value)
            found |= {match[1].lower()} if match else set()
    return found


def test_every_dependency_has_a_row():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rows = [line for line in text.split("\n") if line.startswith("| ")]
    listed = {
        w.lower()
        for line in rows
        for cell in line.split("|")[1:3]
        for w in re.findall(r"[\w.-]+", cell)
    }
    assert len(declared()) > 20
    assert declared() <= listed


def test_no_row_is_of_a_package_that_is_gone():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    table = text[text.index("| package | why |") : text.index("| extra | package |")]
    rows = [line.split("|")[1].strip().lower() for line in table.strip().split("\n")[2:]]
    assert set(rows) <= declared()
