"""docs/protocol.md agrees with the code: messages and fields, topics, reasons and limits."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from fedmq.algorithms.averaging.query import Descend, EvolutionLearner, GradientLearner, SumGradient, Train
from fedmq.algorithms.evaluation.query import Evaluate
from fedmq.algorithms.evolution.query import Evolve
from fedmq.broker import routing
from fedmq.errors import LeaveReason, RejectReason
from fedmq.models.networks import MLP, Code, Linear
from fedmq.protocol import codec as wire
from fedmq.protocol import messages, topics
from fedmq.protocol.messages import PROTOCOL_VERSION, ArrayInfo, Message
from fedmq.security import enrollment
from fedmq.security import tokens as token
from fedmq.security.enrollment import JoinRequest, RequestStatus
from fedmq.security.keys import PublicIdentity
from fedmq.tasks.task import Task
from fedmq.transport import address
from fedmq.transport.zeromq import endpoint

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "protocol.md").read_text(encoding="utf-8")
STRUCTS: list[Any] = [*get_args(Message), JoinRequest, RequestStatus]
MODELS: list[Any] = [MLP, Linear, Code]
NESTED: list[Any] = [
    ArrayInfo,
    Evolve,
    Train,
    EvolutionLearner,
    GradientLearner,
    Descend,
    SumGradient,
    Evaluate,
    Task,
    *MODELS,
    PublicIdentity,
    messages.Delta,
]


def section(heading: str) -> str:
    """Return the text between a heading and the next one."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert found, f"expected a heading {heading!r} on the page"
    return found[1]


def first_column(text: str) -> list[str]:
    """Return the code in the first cell of each table row in `text`."""
    return re.findall(r"^\| `([^`]+)` \|", text, flags=re.MULTILINE)


def limits() -> dict[str, float]:
    rows = re.findall(r"^\| `([\w.]+)` \| ([\d.]+) \|", section("Limits"), flags=re.MULTILINE)
    return {name: float(value) for name, value in rows}


def constants_of(module: Any, ending: str) -> set[str]:
    return {f"{module.__name__}.{name}" for name in vars(module) if re.fullmatch(rf"[A-Z][A-Z_]*{ending}", name)}


@pytest.mark.parametrize("struct", [*STRUCTS, *NESTED])
def test_table_of_each_struct_has_exactly_its_fields(struct: Any) -> None:
    named = first_column(section(struct.__name__))
    fields = {field.encode_name for field in msgspec.structs.fields(struct)} | ({"t"} if struct in STRUCTS else set())
    assert len(named) == len(set(named))
    assert set(named) == fields


@pytest.mark.parametrize("struct", [*STRUCTS, *NESTED[1:7], MLP, Linear, Code])
def test_tag_of_each_struct_is_in_its_section(struct: Any) -> None:
    assert f'"{struct.__struct_config__.tag}"' in section(struct.__name__)


def test_fields_of_every_header_are_described() -> None:
    named = re.findall(r"^`(\w+)`\n:", section("Fields of every header"), flags=re.MULTILINE)
    assert named == ["t", "v", "arrays", "run", "term"]


def test_version_of_page_is_the_protocol_version() -> None:
    assert f"Protocol version: **{PROTOCOL_VERSION}**" in PAGE


@pytest.mark.parametrize("struct", STRUCTS)
def test_table_of_each_struct_has_the_lowest_version_that_reads_it(struct: Any) -> None:
    (default,) = (field.default for field in msgspec.structs.fields(struct) if field.name == "v")
    assert re.findall(r"^\| `v` \| (\d+) \|", section(struct.__name__), flags=re.MULTILINE) == [str(default)]


def test_each_limit_has_the_value_of_its_constant() -> None:
    for name, value in limits().items():
        module, _, constant = name.rpartition(".")
        assert getattr(import_module(module), constant) == value, name


def test_each_limit_is_on_the_page() -> None:
    wanted = (
        constants_of(wire, "_MAX")
        | constants_of(messages, "_MAX")
        | constants_of(enrollment, "_MAX")
        | constants_of(token, "_MAX")
        | constants_of(endpoint, "_MS")
        | constants_of(routing, "_MAX")
    )
    of_tasks = {
        f"fedmq.protocol.messages.{name}_MAX" for name in ("CANDIDATES", "GENERATIONS", "MUTATION_EXPONENT", "TRAINERS")
    }
    elsewhere = {
        "fedmq.transport.zeromq.endpoint.LINGER_MS",
        "fedmq.broker.routing.FRAMES_MAX",
        *of_tasks,
    }  # not of the protocol, or imported
    assert wanted - elsewhere <= set(limits())


def test_each_topic_is_in_the_table() -> None:
    for_observers = {topics.EVENTS, topics.SNAPSHOTS, topics.WATCH}
    prefixes = {
        topics.ROUNDS,
        topics.BEACONS,
        topics.SUMS,
        topics.INBOX,
        topics.UP,
        topics.PRESENCE,
        topics.HERE + "/",
    } | for_observers
    assert {name.split("/")[0] + "/" for name in first_column(section("Topics"))} == prefixes


def test_each_port_is_in_the_table() -> None:
    ports = re.findall(r"^\| \+(\d) \|", section("Sockets"), flags=re.MULTILINE)
    assert ports == [str(offset) for offset in range(address.PORTS)]


def test_each_reason_of_a_rejection_is_in_the_table() -> None:
    assert first_column(section("Reasons of rejections")) == list(get_args(RejectReason))
    assert first_column(section("Reasons of a Goodbye")) == list(get_args(LeaveReason))


def test_each_dtype_is_named() -> None:
    assert set(re.findall(r"`([<|]\w\d)`", section("Frames"))) == {*wire.DTYPES, wire.BYTES_DTYPE}


def test_linked_pages_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert links
    assert all((DOCS / link).exists() for link in links)
