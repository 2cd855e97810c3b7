"""Every link of every document leads somewhere, in the repository and in the site."""

import posixpath

import pytest
import yaml

import livecc_jax
from tests.docs.pages import ROOT, anchors, documents, links, site_pages

WRITTEN = site_pages.written_pages()  # by site path; the site has them, the repository does not
MOST_LINES, MOST_WORDS = 220, 2600  # of a page that a person is to read


def name(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", documents(), ids=name)
def test_links_lead_somewhere(path):
    for target in links(path):
        file, _, anchor = target.partition("#")
        there = path if not file else (path.parent / file).resolve()
        place = posixpath.normpath(posixpath.join(posixpath.dirname(name(path)), file)) if file else ""
        written = WRITTEN.get(place.removeprefix("docs/"))
        if written is None:
            assert there.exists(), f"{target}: there is no such file"
            assert there == ROOT or ROOT in there.parents, f"{target}: is outside the repository"
        if anchor:
            text = there.read_text(encoding="utf-8") if written is None else written
            assert anchor in anchors(text), f"{target}: there is no such heading"


def test_links_of_the_site():
    """A link to a page of the site is rewritten to its place there, another one becomes its text."""
    rewrite = site_pages.rewrite_links
    assert rewrite("[a](../CHANGELOG.md#x)", "docs/data.md") == "[a](project/changelog.md#x)"
    assert rewrite("[a](../docs/data.md)", "benchmarks/README.md") == "[a](../data.md)"
    assert rewrite("![p](strip.svg)", "docs/index.md") == "![p](strip.svg)"
    assert rewrite("[`setup.py`](../setup.py) and", "docs/data.md") == "`setup.py` and"
    assert (
        rewrite("[a](https://x.org/y) `[b](c.md)`", "docs/data.md")
        == "[a](https://x.org/y) `[b](c.md)`"
    )
    assert rewrite("```\n[b](setup.py)\n```\n", "README.md") == "```\n[b](setup.py)\n```\n"
    for path in ("docs/formats/rows.md", "CHANGELOG.md", "benchmarks/results/streaming.md"):
        assert site_pages.repository_path(site_pages.site_path(path)) == path


def pages_of(nav):
    """Site paths of all pages that a navigation names."""
    for entry in nav:
        for child in entry.values() if isinstance(entry, dict) else [entry]:
            yield from pages_of(child) if isinstance(child, list) else [child]


def test_the_navigation_has_every_page_once():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    named = list(pages_of(site_pages.complete_navigation(nav)))
    assert len(named) == len(set(named))
    pages = {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")}
    pages |= {site_pages.site_path(f) for f in site_pages.included_files() if f.endswith(".md")}
    assert set(named) == pages | set(WRITTEN)


def test_new_pages_find_a_place():
    nav = [{"Handbook": []}, {"Commands": [{"Overview": site_pages.COMMANDS_PAGE}]}]
    nav.append({"Results": [{"Overview": "results/README.md"}]})
    completed = site_pages.complete_navigation(nav)
    handbook, commands, results = (pages for entry in completed for pages in entry.values())
    assert "data.md" in handbook
    assert {"livecc stream": "reference/cli/stream.md"} in commands
    assert "results/streaming.md" in results


def test_every_public_name_has_a_page():
    text = "".join(p.read_text() for p in (ROOT / "docs/reference/api").glob("*.md"))
    shown = [
        line.removeprefix("::: livecc_jax.") for line in text.split("\n") if line.startswith(":::")
    ]
    assert sorted(shown) == sorted(set(livecc_jax.__all__) - {"__version__"})


@pytest.mark.parametrize(
    "path", [p for p in documents() if "docs/" in name(p) or "/" not in name(p)], ids=name
)
def test_no_page_is_longer_than_a_person_reads(path):
    if path.name == "CHANGELOG.md":  # it is searched, not read
        return
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MOST_LINES
    assert len(text.split()) <= MOST_WORDS
