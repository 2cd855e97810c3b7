"""Python that a document prints is Python, and what it imports from the package is there."""

import ast
import re

import pytest

import livecc_jax
from tests.docs.pages import FENCE, ROOT, documents

BLOCKS = [
    (f"{path.relative_to(ROOT)}:{i}", block["text"])
    for path in documents()
    for i, block in enumerate(FENCE.finditer(path.read_text(encoding="utf-8")))
    if block["kind"].strip() == "python"
]


def defined(module):
    """Names that a module of the package defines or imports, read from its source."""
    path = ROOT / module.replace(".", "/")
    path = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {t.id for t in node.targets if isinstance(t, ast.Name)}
        elif isinstance(node, ast.AnnAssign):
            names.add(node.target.id)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


@pytest.mark.parametrize("text", [t for _, t in BLOCKS], ids=[n for n, _ in BLOCKS])
def test_printed_python(text):
    tree = compile(text, "page", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("livecc_jax."):
            assert {alias.name for alias in node.names} <= defined(node.module)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "livecc_jax":
            assert node.attr in livecc_jax.__all__ or (ROOT / "livecc_jax" / node.attr).exists()


def test_pages_that_code_names_exist():
    """A message or a docstring that sends somebody to a page sends them to one that is there."""
    folders = ("livecc_jax", "tests", "benchmarks", "configs", "launch", "docs")
    files = [f for d in folders for f in (ROOT / d).rglob("*") if f.suffix in (".py", ".sh")]
    for file in [*files, ROOT / "launch_tpu.sh", ROOT / "Makefile", ROOT / "setup.py"]:
        if file.is_relative_to(ROOT / "tests/docs"):
            continue
        text = file.read_text(encoding="utf-8")
        for page in re.findall(r"\b((?:docs|benchmarks)/[\w/.-]*\.md)\b", text):
            assert (ROOT / page).exists(), f"{file.relative_to(ROOT)} names {page}"
