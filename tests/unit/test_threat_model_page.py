"""The threat model and the pages on reliability and privacy name a test for each row, and every named test exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = {
    name: (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    for name in ("threat-model", "reliability", "privacy")
}
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)(?:\[[^`]+\])?`")


@pytest.mark.parametrize("page", PAGES)
def test_named_tests_exist(page: str) -> None:
    named = TEST.findall(PAGES[page])
    assert named
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (ROOT / path).is_file() or f"def {name}(" not in (ROOT / path).read_text(encoding="utf-8")
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_each_row_names_a_test(page: str) -> None:
    tables = re.findall(r"^\|[^\n]*\| shown by \|\n.*?\n\n", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    assert tables or page == "privacy"
    rows = [row for table in tables for row in table.strip().splitlines()[2:]]
    assert [row for row in rows if not TEST.search(row)] == []
