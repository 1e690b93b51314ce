"""The page about events names what the code has: each kind, each field, and an example that is one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from fedmq.observe.event_log import LOG_BYTES_MAX, apply_line
from fedmq.observe.events import BEST_PARAMETERS_MAX, AnyEvent, Best
from fedmq.observe.run_state import STALLED_S, RunState

PAGE = (Path(__file__).parents[2] / "docs" / "events.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### (\S+)\n(.*?)(?=^##|\Z)", PAGE, flags=re.MULTILINE | re.DOTALL))
KINDS: dict[str, Any] = {str(kind.__struct_config__.tag): kind for kind in get_args(AnyEvent)}


def test_each_kind_of_event_has_a_section_and_no_other() -> None:
    assert set(SECTIONS) == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_the_fields_of_each_event_are_in_its_table_in_order(name: str) -> None:
    named = re.findall(r"^\| `([^`]+)` \|", SECTIONS[name], flags=re.MULTILINE)
    assert named == [field.encode_name for field in msgspec.structs.fields(KINDS[name])]


@pytest.mark.parametrize("name", KINDS)
def test_the_example_of_each_event_is_a_whole_line_of_it(name: str) -> None:
    (example,) = re.findall(r"^```json\n(.*)\n```", SECTIONS[name], flags=re.MULTILINE)
    fields = [field.encode_name for field in msgspec.structs.fields(KINDS[name])]
    assert list(json.loads(example)) == ["at", "event", *fields]
    assert apply_line(RunState(), example.encode()).seq == 1


def test_the_fields_of_the_figures_are_explained() -> None:
    assert all(f"`{field.name}`" in SECTIONS["round-closed"] for field in msgspec.structs.fields(Best))


def test_the_limits_are_those_of_the_code() -> None:
    assert f"beyond {LOG_BYTES_MAX >> 20} MiB" in PAGE
    assert f"at most {BEST_PARAMETERS_MAX}" in PAGE
    assert f"for {STALLED_S:.0f} s" in SECTIONS["stalled"]
