"""The page docs/reference/algorithms.md has every parameter of the built-in algorithms, with its default."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from fedmq.algorithms.registry import BUILTIN, find_algorithm

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "algorithms.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", PAGE, flags=re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("name", BUILTIN)
def test_page_lists_every_parameter_with_its_default(name: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \| .*? \| ([^|]+) \| [^|]+ \|$", SECTIONS[name], flags=re.MULTILINE)
    shown = {parameter: default.strip("`") for parameter, default in rows}
    defaults = msgspec.structs.asdict(find_algorithm(name).parameters)
    assert shown == {key: written(value) for key, value in defaults.items()}


def written(value: object) -> str:
    """Return a default as the page shows it."""
    if value is None:
        return "none"
    if value is msgspec.UNSET:
        return "PyGAD's"
    if isinstance(value, tuple):
        return f"[{', '.join(f'{one:g}' for one in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
