"""Refuse imports that run upward between layers, circles between files, and kernels outside `kernels/`.

    python .ci/check_imports.py

Layers are listed from the lowest to the highest; a file may import from its own layer and from lower
ones. Imports inside functions count too, and so do imports for type checking.
"""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "livecc_jax"
LAYERS = (
    ("redact", "shipped"),
    ("errors", "version", "bounded_json", "writing", "directory_lock"),
    ("text", "parallel", "families", "reports"),
    ("timeline",),
    ("kernels",),
    ("media",),
    ("model",),
    ("data",),
    ("decoding", "checkpoints"),
    ("train", "stream"),
    ("world",),
    ("verify", "planning", "evaluate"),
    ("produce", "serving"),
    ("api",),
    ("commands",),
    ("cli",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
KERNEL = re.compile(r"\bpallas_call\(|import (pallas|mosaic_gpu|triton)\b|core_map\(")
# JAX's own splash attention kernel is wrapped in the model; no kernel of ours is defined there.
NOT_KERNELS = ("model/attention_splash.py",)


def imported(tree: ast.AST, modules: set[str]) -> set[str]:
    """Names of the package's modules that a file imports."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in modules else node.module)
    return found & modules


def layer_of(module: str) -> str:
    """`livecc_jax.model.rope` lies in `model`; the package's own `__init__` lies on top."""
    return [*module.split("."), "cli"][1]


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one node (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            component = []
            while not component or component[-1] != node:
                component.append(stack.pop())
            if len(component) > 1:
                found.append(sorted(component))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def problems() -> list[str]:
    """A sentence for each rule that a file breaks."""
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted((ROOT / PACKAGE).rglob("*.py"))
    }
    graph, said = {}, []
    for module, path in files.items():
        text = path.read_text(encoding="utf-8")
        graph[module] = imported(ast.parse(text), set(files)) - {module}
        if layer_of(module) not in LEVEL:
            said.append(f"{path.relative_to(ROOT)}: {layer_of(module)} is in no layer of this script")
        inside = path.relative_to(ROOT / PACKAGE).as_posix()
        if layer_of(module) != "kernels" and inside not in NOT_KERNELS and KERNEL.search(text):
            said.append(f"{path.relative_to(ROOT)}: defines a kernel outside {PACKAGE}/kernels")
    if said:
        return said
    for module, others in graph.items():
        for other in sorted(others):
            lower, upper = layer_of(other), layer_of(module)
            same_height = LEVEL[lower] == LEVEL[upper] and lower != upper
            if LEVEL[lower] > LEVEL[upper]:
                said.append(f"{module} imports {other}: {upper} is below {lower}")
            elif same_height and any(layer_of(m) == upper for m in reachable(graph, other)):
                said.append(f"{module} imports {other}, which leads back to {upper}")
    folders: dict[str, set[str]] = {}
    for module, others in graph.items():
        folder = module.rpartition(".")[0] if files[module].name != "__init__.py" else module
        for other in others:
            theirs = other.rpartition(".")[0] if files[other].name != "__init__.py" else other
            if theirs != folder and PACKAGE not in (theirs, folder):
                folders.setdefault(folder, set()).add(theirs)
                folders.setdefault(theirs, set())
    for name, found in (("files", circles(graph)), ("folders", circles(folders))):
        said += [f"these {name} import each other: {', '.join(circle)}" for circle in found]
    return said


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """Every module that importing `start` imports."""
    seen, waiting = {start}, [start]
    while waiting:
        new = graph[waiting.pop()] - seen
        seen |= new
        waiting += new
    return seen


if __name__ == "__main__":
    found = problems()
    print("\n".join(found) or "imports: in one direction, no circles, kernels in kernels/")
    sys.exit(bool(found))
