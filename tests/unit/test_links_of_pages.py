"""The README and the pages of docs/: links resolve, every page is reachable and starts with its purpose."""

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
LINK = re.compile(r"\[[^\]]*\]\((?!https?:)([^)\s]+)\)")


def links_of(page: Path) -> Iterator[tuple[str, Path, str]]:
    """Yield the links of a page, without those to other sites: as written, the file, and the heading in it or ""."""
    for link in LINK.findall(CODE.sub("", page.read_text())):
        name, _, heading = link.partition("#")
        yield link, (page.parent / name).resolve() if name else page, heading


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of its headings: lower case, no punctuation, hyphens for spaces."""
    blocks = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", blocks, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def reachable_files() -> set[Path]:
    """Return all files that links from the README reach, directly or through other pages."""
    found, ahead = {README}, [README]
    while ahead:
        page = ahead.pop()
        if page.suffix == ".md":
            further = {target for _, target, _ in links_of(page) if target.is_file()} - found
            found |= further
            ahead += further
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_page_resolve(page: Path) -> None:
    broken = [
        link
        for link, target, heading in links_of(page)
        if not target.exists() or (heading and heading not in anchors_of(target))
    ]
    assert broken == []


def test_every_page_and_picture_is_reachable_from_readme() -> None:
    reachable = reachable_files()
    assert [str(path.relative_to(ROOT)) for path in (*PAGES, *PICTURES) if path not in reachable] == []


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if not re.match(r"\d{4}-", page.name)],  # a decision starts with its context
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_page_starts_with_title_and_sentence(page: Path) -> None:
    title, first = [line for line in page.read_text().splitlines() if line and not line.startswith("<!--")][:2]
    assert title.startswith("# ")
    assert re.match(r"[\w*`]", first), first
