"""Algorithms and learners by name: built in, installed, in a file; and queries from the wire. No network, no time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmq import MLP, Linear, Task, Trees
from fedmq.algorithms import registry
from fedmq.algorithms.additive import Additive
from fedmq.algorithms.averaging.query import EvolutionLearner, GradientLearner, Train
from fedmq.algorithms.base import Query, encode_query
from fedmq.algorithms.conformance import check_first_plan
from fedmq.algorithms.evaluation.query import Evaluate
from fedmq.algorithms.evolution.query import Evolve
from fedmq.algorithms.registry import algorithm_names, decode_query, find_algorithm
from fedmq.errors import BadConfiguration, QueryRefused
from fedmq.tasks.task_file import find_task

EXAMPLE = Path(__file__).parents[2] / "examples" / "openai_es.py"
XOR = find_task("xor")


@pytest.mark.parametrize(
    "query",
    [Evolve(elites=3), Train(GradientLearner()), Train(EvolutionLearner(spread=0.1)), Evaluate(fraction_bits=8)],
)
def test_query_is_decoded_as_it_was_encoded(query: Query) -> None:
    decoded, learner = decode_query(encode_query(query))
    assert decoded == query
    assert learner.query is type(query)


@pytest.mark.parametrize(
    "query",
    [
        {"kind": "evolve", "elites": -1},
        {"kind": "evolve", "elites": 1, "population": 1},
        {"kind": "evolve", "elites": 1, "generations": 10**9},
        {"kind": "evolve", "elites": 1, "proposals": -1},
        {"kind": "evolve", "elites": 1, "mutation": [0.0, np.inf]},
        {"kind": "evolve", "elites": 1, "mutation": [np.nan, 0.0]},
        {"kind": "evolve", "elites": 1, "code": "x"},
        {"kind": "train", "learner": {"type": "evolution", "population": 1}},
        {"kind": "train", "learner": {"type": "evolution", "spread": -1.0}},
        {"kind": "train", "learner": {"type": "evolution", "spread": np.nan}},
        {"kind": "train", "learner": {"type": "gradient", "epochs": 0}},
        {"kind": "train", "learner": {"type": "gradient", "learning_rate": np.inf}},
        {"kind": "train", "elites": 3},
        {"kind": "evaluate", "fraction_bits": 31},
        {"kind": "shell", "command": "true"},
        {"kind": 7},
        {"elites": 3},
        [],
        7,
        None,
    ],
)
def test_unknown_or_malformed_query_is_refused(query: Any) -> None:
    with pytest.raises(QueryRefused) as refused:
        decode_query(msgspec.msgpack.encode(query))
    assert refused.value.reason == "query"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xc1",
        b"\x81\xa4kind\xa2\xff\xfe",
        b"\x91" * 4000,
        b"\x81\xa4kind" + b"\x91" * 4000,
        b"\x82\xa4kind\xa6evolve\xa1x" + b"\x91" * 4000,
    ],
    ids=["empty", "reserved", "text", "nested", "nested kind", "nested field"],
)
def test_bytes_that_are_no_query_are_refused(raw: bytes) -> None:
    with pytest.raises(QueryRefused):
        decode_query(raw)


@given(st.integers(0, 40), st.binary(max_size=4))
def test_damaged_query_is_decoded_or_refused(place: int, damage: bytes) -> None:
    raw = bytes(encode_query(Train(EvolutionLearner(spread=0.1))))
    with contextlib.suppress(QueryRefused):
        decode_query(raw[:place] + damage + raw[place + len(damage) :])


def test_query_without_declarations_cannot_be_made() -> None:
    class Free(Query, frozen=True, tag="free"):
        """Declares nothing."""

    for method, arguments in (
        ("arrays", (XOR,)),
        ("answer", (XOR, {}, 1)),
        ("evaluations", ({},)),
        ("demand", (XOR, {}, 1)),
    ):
        with pytest.raises(NotImplementedError):
            getattr(Free(), method)(*arguments)


def test_model_too_large_for_a_round_is_refused_before_the_run() -> None:
    task = Task(name="wide", model=MLP((1000, 43, 2)), loss="cross-entropy", metric="accuracy", target=1.0)
    with pytest.raises(BadConfiguration) as refused:
        check_first_plan(find_algorithm("evolution", task), task)
    assert str(task.model.num_parameters) in str(refused.value)
    check_first_plan(find_algorithm("evolution", task, {"population": 50}), task)


ONE_LAYER = ("ridge", "newton")  # algorithms that train models with one layer only


@pytest.mark.parametrize("task", ["xor", "parity4", "linear"])
def test_first_round_of_built_in_tasks_fits(task: str) -> None:
    for name in algorithm_names():
        chosen = find_task(task)
        if name in ONE_LAYER and isinstance(chosen.model, MLP):
            chosen = msgspec.structs.replace(chosen, model=MLP((chosen.model.inputs, chosen.model.outputs)))
        elif name == "boosting":
            assert isinstance(chosen.model, MLP | Linear)
            trees = Trees(chosen.model.inputs, chosen.model.outputs, chosen.model.output)
            chosen = msgspec.structs.replace(chosen, model=trees)
        parameters = {"learner": "evolution", "method": "fedavg"} if name == "averaging" else {}
        check_first_plan(find_algorithm(name, chosen, parameters), chosen)


def test_algorithm_in_a_file_is_known_by_its_absolute_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLE.parent)
    strategy = find_algorithm("openai_es.py:OpenAIES", parameters={"pairs": 7})
    assert isinstance(strategy, Additive)
    assert strategy.name == f"{EXAMPLE}:OpenAIES"
    assert strategy.parameters.pairs == 7
    assert type(find_algorithm(strategy.name).init(XOR, 1).inner) is type(strategy.init(XOR, 1).inner)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("Mine = 7", "class Mine"),
        ("class Mine:\n    additive = False", "additive"),
        ("class Mine:\n    def __init__(self): 1 / 0", "__init__"),
    ],
)
def test_file_without_a_usable_algorithm_is_refused_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    with pytest.raises(BadConfiguration) as refused:
        find_algorithm(f"{tmp_path}/mine.py:Mine")
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="no such file"):
        find_algorithm(f"{tmp_path}/none.py:Mine")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a package whose metadata names an algorithm and the learner of a query of its own."""
    package, info = tmp_path / "es_package.py", tmp_path / "es_package-1.0.dist-info"
    package.write_text(
        EXAMPLE.read_text(encoding="utf-8")
        + "\n\nfrom fedmq.algorithms.base import Learner\n"
        + "class Mine(Evaluate, frozen=True, tag='mine'):\n    pass\n"
        + "LEARNER = Learner(Mine, lambda query, work: {})\n",
        encoding="utf-8",
    )
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: es-package\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(
        "[fedmq.algorithms]\nopenai-es = es_package:OpenAIES\nbroken = es_package:Nothing\n"
        "[fedmq.learners]\nmine = es_package:LEARNER\nlost = no_such_package:LEARNER\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    registry._installed.cache_clear()
    yield tmp_path
    registry._installed.cache_clear()


@pytest.mark.usefixtures("installed")
def test_installed_algorithm_is_found_by_its_entry_point() -> None:
    assert algorithm_names() == (*registry.BUILTIN, "broken", "openai-es")
    strategy = find_algorithm("openai-es", parameters={"pairs": 3})
    assert (strategy.name, strategy.additive) == ("openai-es", True)
    with pytest.raises(BadConfiguration, match="broken"):
        find_algorithm("broken")


@pytest.mark.usefixtures("installed")
def test_installed_query_is_decoded_and_a_broken_one_is_refused() -> None:
    query, learner = decode_query(msgspec.msgpack.encode({"kind": "mine"}))
    assert type(query) is learner.query
    with pytest.raises(QueryRefused):
        decode_query(msgspec.msgpack.encode({"kind": "lost"}))
