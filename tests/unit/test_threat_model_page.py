"""The page about threats names tests: each exists, and each table has one in every row."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)


def test_each_test_that_is_named_exists() -> None:
    assert len(NAMED) > 30
    missing = [
        f"{path}::{name}"
        for path, name in NAMED
        if not (ROOT / path).is_file() or f"def {name}(" not in (ROOT / path).read_text(encoding="utf-8")
    ]
    assert missing == []


def test_each_threat_has_its_test() -> None:
    tables = re.findall(r"^\| threat \|.*?\n\n", PAGE, flags=re.MULTILINE | re.DOTALL)
    rows = [row for table in tables for row in table.strip().splitlines()[2:]]
    assert len(rows) == len(NAMED)
    assert [row for row in rows if "::" not in row] == []


def test_each_actor_says_what_is_left_open() -> None:
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    with_threats = [section for section in sections if "| threat |" in section]
    assert len(with_threats) == 7
    assert all("**Left open.**" in section for section in with_threats)
