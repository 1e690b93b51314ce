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
        ("page.md", "# Title\n\nNobody answers.\n", [(3, "process-as-person")]),
        ("page.md", "Skip `nobody` in code.\n\n```sh\nwhoever\n```\n", []),
        ("page.md", "word " * 26 + "end.\n", [(1, "long-sentence")]),
        ("page.md", "- " + "word " * 14 + "end.\n- " + "word " * 14 + "end.\n", []),
        ("page.md", "The behaviour is\nlearnt.\n", [(1, "american-spelling"), (2, "american-spelling")]),
        ("module.py", '"""One.\n\nNobody else.\n"""\n', [(3, "process-as-person")]),
        ("module.py", "x = 1  # for whoever reads it\n", [(1, "process-as-person")]),
        ("module.py", 'raise ValueError("nobody has answered in time")\n', [(1, "process-as-person")]),
        ("module.py", 'NAME = "nobody"\n', []),
        ("module.py", "def test_nobody_is_asked() -> None: ...\n", [(1, "process-as-person")]),
        ("module.py", f"def test_{'long_' * 16}name() -> None: ...\n", [(1, "long-name")]),
        ("settings.toml", 'name = "x"  # for nobody\n', [(1, "process-as-person")]),
    ],
)
def test_finding_has_line_and_kind(tmp_path: Path, name: str, text: str, expected: list[tuple[int, str]]) -> None:
    assert kinds(tmp_path / name, text) == expected


def test_warnings_are_reported_on_request_only(tmp_path: Path) -> None:
    text = "The store lacks a table.\n"
    assert kinds(tmp_path / "page.md", text) == []
    assert kinds(tmp_path / "page.md", text, warn=True) == [(1, "field-verb")]
