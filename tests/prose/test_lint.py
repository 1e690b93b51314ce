"""The prose linter reports what it should, where it is, and skips code."""

from __future__ import annotations

from pathlib import Path

import lint
import pytest


def kinds(path: Path, text: str, *, warn: bool = False) -> list[tuple[int, str]]:
    """Return the line and the kind of each finding."""
    path.write_text(text, encoding="utf-8")
    found = [finding.removeprefix(f"{path}:").split(": ")[:2] for finding in lint.findings_of(path, warn)]
    return [(int(line), kind) for line, kind in found]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("page.md", "# Title\n\nIt heeds them.\n", [(3, "process-as-person")]),
        ("page.md", "Skip `heeded` in code.\n\n```sh\nheeded\n```\n", []),
        ("page.md", "word " * 26 + "end.\n", [(1, "long-sentence")]),
        ("page.md", "- " + "word " * 14 + "end.\n- " + "word " * 14 + "end.\n", []),
        ("page.md", "The behaviour is\nlearnt.\n", [(1, "american-spelling"), (2, "american-spelling")]),
        ("module.py", '"""One.\n\nHeeded once.\n"""\n', [(3, "process-as-person")]),
        ("module.py", "x = 1  # heeded later\n", [(1, "process-as-person")]),
        ("module.py", 'raise ValueError("heeded it in time")\n', [(1, "process-as-person")]),
        ("module.py", 'NAME = "heeded"\n', []),
        ("module.py", "def test_result_is_heeded() -> None: ...\n", [(1, "process-as-person")]),
        ("module.py", f"def test_{'long_' * 16}name() -> None: ...\n", [(1, "long-name")]),
        ("settings.toml", 'name = "x"  # never heeded\n', [(1, "process-as-person")]),
    ],
)
def test_finding_has_line_and_kind(tmp_path: Path, name: str, text: str, expected: list[tuple[int, str]]) -> None:
    assert kinds(tmp_path / name, text) == expected


def test_warnings_are_reported_on_request_only(tmp_path: Path) -> None:
    text = "The store lacks a table.\n"
    assert kinds(tmp_path / "page.md", text) == []
    assert kinds(tmp_path / "page.md", text, warn=True) == [(1, "field-verb")]
