"""Hooks of MkDocs (mkdocs.yml): pages that are not files of `docs/`, and links that leave it.

- `reference/cli/`: one page a command, written from the parser that `livecc` itself uses, and
  `reference/config.md`: the fields of a config with the comments beside them.
- `project/`: the changelog, the guide for contributors, and `results/`: all of benchmarks/results.
- A link to another file of the repository, such as a module, becomes its name: a site has no such file.

`site_path` and `repository_path` say where a file of the repository stands in the site, and back, so
that a test can follow links without MkDocs.
"""

from __future__ import annotations

import argparse
import ast
import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
CLI = "reference/cli"
RESULTS = "benchmarks/results"
PROJECT_PAGES = {
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "benchmarks/README.md": "results/benchmarks.md",
    "benchmarks/ablations/README.md": "results/run_ablations.md",
    "data/README.md": "project/data.md",
    "livecc_jax/kernels/README.md": "project/kernels.md",
}
CONFIG_PAGE = "reference/config.md"
CONFIG_SOURCES = (
    "livecc_jax/train/config.py", "livecc_jax/parallel/mesh.py", "livecc_jax/model/lora.py",
)  # fmt: skip
COMMANDS_PAGE = "reference/commands.md"
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")


def site_path(repository_path: str) -> str | None:
    """Returns where a file of the repository stands in the site; None if it does not."""
    if repository_path in PROJECT_PAGES:
        return PROJECT_PAGES[repository_path]
    for folder, place in (("docs/", ""), (f"{RESULTS}/", "results/")):
        if repository_path.startswith(folder) and not repository_path.endswith(".py"):
            return place + repository_path.removeprefix(folder)
    return None


def repository_path(site_path: str) -> str:
    """Returns which file of the repository a page of the site is; the inverse of `site_path`."""
    for path, place in PROJECT_PAGES.items():
        if site_path == place:
            return path
    folder, _, name = site_path.partition("/")
    return f"{RESULTS}/{name}" if folder == "results" else f"docs/{site_path}"


def included_files() -> Iterator[str]:
    """Yields the repository paths of files outside `docs/` that the site has."""
    yield from (path for path in PROJECT_PAGES if (ROOT / path).is_file())
    for file in sorted((ROOT / RESULTS).rglob("*")):
        if file.is_file() and file.suffix in (".md", ".txt", ".svg", ".png", ".json", ".jsonl"):
            yield file.relative_to(ROOT).as_posix()


def rewrite_links(markdown: str, path: str) -> str:
    """Makes the links of a page those of the site.

    Args:
        markdown: The page.
        path: Its path in the repository.
    """
    here = site_path(path) or path

    def rewrite(match: re.Match[str]) -> str:
        image, text, target = match.groups()
        if re.match(r"[a-z][a-z0-9+.-]*:|#|/", target):
            return match[0]
        file, mark, anchor = target.partition("#")
        full = posixpath.normpath(posixpath.join(posixpath.dirname(path), file))
        place = site_path(full)
        if place is None:
            return text
        relative = posixpath.relpath(place, posixpath.dirname(here) or ".")
        return f"{image}[{text}]({relative}{mark}{anchor})"

    code = [m.span() for m in CODE.finditer(markdown)]  # what looks like a link there is none
    return LINK.sub(
        lambda m: m[0] if any(a <= m.start() < b for a, b in code) else rewrite(m), markdown
    )


def written_pages() -> dict[str, str]:
    """Returns the pages of the command line and of configs: site path to Markdown."""
    sys.path.insert(0, str(ROOT))
    from livecc_jax.commands.parser import build_parser

    parser = build_parser()
    [commands] = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    helps = {action.dest: action.help or "" for action in commands._choices_actions}
    rows = "".join(f"| [`livecc {n}`](cli/{n}.md) | {_cell(helps[n])} |\n" for n in commands.choices)
    overview = (
        "# Command line\n\nOne page a command, written from the parser of `livecc` itself. "
        "`livecc COMMAND --help` prints the same.\n\n| command | |\n|---|---|\n"
        f"{rows}\n{_options(parser)}"
    )
    pages = {COMMANDS_PAGE: overview, CONFIG_PAGE: config_page()}
    for name, command in commands.choices.items():
        about = _paragraphs(command.description or "")
        more = f"\n```text\n{command.epilog.strip()}\n```\n" if command.epilog else ""
        usage = " ".join(command.format_usage().split()).removeprefix("usage: ")
        pages[f"{CLI}/{name}.md"] = (
            f"# livecc {name}\n\n{about}\n\n```text\n{_wrap(usage)}\n```\n\n{_options(command)}{more}"
        )
    return pages


def config_page() -> str:
    """Returns the page of all fields of a config: names, types and defaults, and the comments there."""
    classes = {}
    for file in CONFIG_SOURCES:
        source = (ROOT / file).read_text(encoding="utf-8")
        found = [n for n in ast.parse(source).body if isinstance(n, ast.ClassDef)]
        classes |= {node.name: (node, source.split("\n")) for node in found}

    def rows(name: str, prefix: str) -> Iterator[tuple[str, str, str, str]]:
        definition, lines = classes[name]
        for node in definition.body:
            if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
                continue
            kind, path = ast.unparse(node.annotation), f"{prefix}{node.target.id}"
            if kind in classes:
                yield from rows(kind, f"{path}.")
                continue
            said = [lines[node.end_lineno - 1].partition("  # ")[2]]
            above = node.lineno - 2
            while lines[above].strip().startswith("# "):
                said.insert(0, lines[above].strip().removeprefix("# "))
                above -= 1
            default = ast.unparse(node.value) if node.value else ""
            yield path, kind, default, " ".join(filter(None, said))

    table = "".join(
        f"| `{path}` | `{kind}` | `{default}` | {_cell(said)} |\n"
        for path, kind, default, said in rows("Config", "")
    )
    return (
        "# Fields of a config\n\nA config file of `livecc train` is one value of one dataclass, and "
        "`--field.sub value` on the command line changes a field. This table is written from "
        f"`{CONFIG_SOURCES[0]}`.\n\n| field | type | default | |\n|---|---|---|---|\n{table}"
    )


def _options(parser: argparse.ArgumentParser) -> str:
    """Returns a table for each group of a parser's arguments."""
    tables = []
    for group in parser._action_groups:
        rows = []
        for action in group._group_actions:
            if isinstance(action, argparse._SubParsersAction) or action.help == argparse.SUPPRESS:
                continue
            rows.append(f"| {_name(action)} | {_cell(_help(action))} |\n")
        if rows:
            name = {"positional arguments": "Arguments", "options": "Options"}.get(group.title or "")
            about = f"{_paragraphs(group.description)}\n\n" if group.description else ""
            title = name or f"Options: {group.title}"
            tables.append(f"## {title}\n\n{about}| | meaning |\n|---|---|\n{''.join(rows)}")
    return "\n".join(tables)


def _name(action: argparse.Action) -> str:
    """Returns an argument as it is typed, in code."""
    metavar = action.metavar if action.metavar is not None else action.dest.upper()
    if isinstance(metavar, tuple):
        metavar = " ".join(metavar)
    if action.choices and action.metavar is None:
        metavar = "{" + ",".join(map(str, action.choices)) + "}"
    if not action.option_strings:
        return f"`{metavar}{' ...' if action.nargs in ('+', '*') else ''}`".replace("|", "\\|")
    many = " ..." if action.nargs in ("+", "*") else ""
    value = "" if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction) else metavar
    return ", ".join(f"`{o}{' ' * bool(value)}{value}{many}`" for o in action.option_strings)


def _help(action: argparse.Action) -> str:
    return (action.help or "") % {**vars(action), "prog": "livecc"}


def _cell(text: str) -> str:
    return _paragraphs(" ".join(text.split())).replace("|", "\\|")


def _paragraphs(text: str) -> str:
    """Returns a description as Markdown; outside code, nothing of it is markup."""
    parts = re.split(r"(`[^`]*`)", text.strip())
    return "".join(p if i % 2 else re.sub(r"([<>*_\[\]])", r"\\\1", p) for i, p in enumerate(parts))


def _wrap(usage: str, width: int = 88) -> str:
    """Breaks a usage line between its arguments."""
    lines = [""]
    for part in re.findall(r"\[(?:[^\[\]]|\[[^\]]*\])*\]|\S+", usage):
        if lines[-1] and len(lines[-1]) + len(part) >= width:
            lines.append("      ")
        lines[-1] += f" {part}" if lines[-1].strip() else part
    return "\n".join(lines)


def complete_navigation(nav: list[Any]) -> list[Any]:
    """Adds pages to a navigation that names none of them: commands, results, and new pages of docs/.

    Commands follow their overview, results follow theirs, and any other page comes last in the
    handbook, until somebody gives it a place.

    Args:
        nav: The navigation of mkdocs.yml; it is changed.
    """
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    results = sorted(p for f in included_files() if f.startswith(RESULTS) and (p := site_path(f)))
    results = [page for page in results if page.endswith(".md")]
    commands = sorted(page for page in written_pages() if page.startswith(f"{CLI}/"))
    followers = {COMMANDS_PAGE: commands, "results/README.md": results}
    named: set[str] = set()

    def visit(entries: list[Any]) -> None:
        for entry in entries:
            for child in entry.values() if isinstance(entry, dict) else [entry]:
                if isinstance(child, list):
                    visit(child)
                else:
                    named.add(child)

    def follow(entries: list[Any]) -> None:
        here = [v for entry in entries if isinstance(entry, dict) for v in entry.values()]
        for child in here:
            if isinstance(child, list):
                follow(child)
        for page in (p for overview, some in followers.items() if overview in here for p in some):
            if page not in named:
                entries.append({f"livecc {Path(page).stem}": page} if page in commands else page)

    visit(nav)
    follow(nav)
    missing = sorted(pages - named)
    if missing:
        [handbook] = [e["Handbook"] for e in nav if isinstance(e, dict) and "Handbook" in e]
        handbook += missing
    return nav


def on_config(config: Any) -> Any:
    """Completes the navigation."""
    complete_navigation(config.nav)
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that are written here."""
    from mkdocs.structure.files import File

    for place, text in written_pages().items():
        files.append(File.generated(config, place, content=text))
    for path in included_files():
        place = site_path(path)
        if path.endswith(".md"):
            text = (ROOT / path).read_text(encoding="utf-8")
            files.append(File.generated(config, place, content=text))
        else:
            files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Makes the links of a page those of the site."""
    place = page.file.src_uri
    if place in (COMMANDS_PAGE, CONFIG_PAGE) or place.startswith(f"{CLI}/"):
        return markdown
    return rewrite_links(markdown, repository_path(place))
