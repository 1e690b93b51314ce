"""The README and the pages of docs/: links lead somewhere, every page can be reached and begins with what it is for.

Knows nothing of what the pages say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
PICTURES = [path for path in sorted((ROOT / "docs").rglob("*")) if path.suffix in {".png", ".svg"}]
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", flags=re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:)([^)\s]+)\)")


def links_of(page: Path) -> Iterator[tuple[str, Path, str]]:
    """The links of a page, without those to other sites: as written, the file, and the heading in it or ""."""
    for _, _, link in LINK.findall(CODE.sub("", page.read_text())):
        name, _, heading = link.partition("#")
        yield link, (page.parent / name).resolve() if name else page, heading


def anchors_of(page: Path) -> set[str]:
    """What its headings are called in links: small letters, no punctuation, hyphens for spaces."""
    blocks = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", blocks, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def reached() -> set[Path]:
    """All files that can be reached from the README by links."""
    found, ahead = {README}, [README]
    while ahead:
        page = ahead.pop()
        if page.suffix == ".md":
            further = {target for _, target, _ in links_of(page) if target.is_file()} - found
            found |= further
            ahead += further
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    lost = [
        link
        for link, target, heading in links_of(page)
        if not target.exists() or (heading and heading not in anchors_of(target))
    ]
    assert lost == []


def test_every_page_and_picture_can_be_reached_from_the_readme() -> None:
    there = reached()
    assert [str(path.relative_to(ROOT)) for path in (*PAGES, *PICTURES) if path not in there] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_picture_says_what_is_in_it(page: Path) -> None:
    assert [link for mark, text, link in LINK.findall(page.read_text()) if mark and len(text.split()) < 3] == []


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if not re.match(r"\d{4}-", page.name)],  # a decision begins with its context
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_a_page_begins_with_a_sentence_about_itself(page: Path) -> None:
    title, first = [line for line in page.read_text().splitlines() if line and not line.startswith("<!--")][:2]
    assert title.startswith("# ")
    assert re.match(r"[\w*`]", first), first
