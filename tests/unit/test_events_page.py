"""docs/events.md documents each event and field of the code, with a valid example."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from fedmq.algorithms.findings import CORRELATED_OBSERVED_MAX, FRONT_NUMBERS_MAX, GENES_OBSERVED_MAX
from fedmq.observe.event_log import LOG_BYTES_MAX, apply_line
from fedmq.observe.events import BEST_PARAMETERS_MAX, AnyEvent, Best
from fedmq.observe.run_state import STALLED_S, RunState

PAGE = (Path(__file__).parents[2] / "docs" / "events.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### (\S+)\n(.*?)(?=^##|\Z)", PAGE, flags=re.MULTILINE | re.DOTALL))
KINDS: dict[str, Any] = {str(kind.__struct_config__.tag): kind for kind in get_args(AnyEvent)}


def test_page_has_a_section_for_each_event_only() -> None:
    assert set(SECTIONS) == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_table_lists_the_fields_of_the_event_in_order(name: str) -> None:
    named = re.findall(r"^\| `([^`]+)` \|", SECTIONS[name], flags=re.MULTILINE)
    assert named == [field.encode_name for field in msgspec.structs.fields(KINDS[name])]


@pytest.mark.parametrize("name", KINDS)
def test_example_is_a_valid_line_of_the_event(name: str) -> None:
    (example,) = re.findall(r"^```json\n(.*)\n```", SECTIONS[name], flags=re.MULTILINE)
    fields = [field.encode_name for field in msgspec.structs.fields(KINDS[name])]
    assert list(json.loads(example)) == ["at", "event", *fields]
    assert apply_line(RunState(), example.encode()).seq == 1


def test_fields_of_best_are_documented() -> None:
    assert all(f"`{field.name}`" in SECTIONS["round-closed"] for field in msgspec.structs.fields(Best))


def test_documented_limits_equal_the_code() -> None:
    assert f"beyond {LOG_BYTES_MAX >> 20} MiB" in PAGE
    assert f"at most {BEST_PARAMETERS_MAX}" in PAGE
    assert f"first {GENES_OBSERVED_MAX} genes" in SECTIONS["findings-changed"]
    assert f"at most {FRONT_NUMBERS_MAX // 2} candidates" in SECTIONS["findings-changed"]
    assert f"the {CORRELATED_OBSERVED_MAX} names" in SECTIONS["findings-changed"]
    assert f"for {STALLED_S:.0f} s" in SECTIONS["stalled"]
