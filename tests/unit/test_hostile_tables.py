"""A hostile aggregator asks a trainer with a table: nothing ends it, and its memory is bounded before the work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from table_rows import COLUMNS, patients, table_task

from fedmq.algorithms.base import PREPARATION, ArrayBounds, Demand, Query, WorkLimits, encode_query
from fedmq.algorithms.boosting.query import TreeHistograms, empty_trees
from fedmq.algorithms.evaluation.held_out import Fitted, HeldOut, held_out_plan
from fedmq.algorithms.statistics.query import SPREAD_CELLS, Histograms, Moments, Spread, num_columns
from fedmq.errors import BadTable, FedmqError, LimitExceeded, WorkError
from fedmq.exact.elementary import log, softmax
from fedmq.models.trees import Trees
from fedmq.protocol.codec import decode, encode
from fedmq.protocol.messages import Round
from fedmq.tables import encoding
from fedmq.tables.preparation import Preparation
from fedmq.tables.schema import CATEGORIES_MAX, COLUMNS_MAX, Column
from fedmq.tasks.task import Task
from fedmq.trainer.decline import decline_of
from fedmq.trainer.round_handler import on_rows

TABLE = patients(60)
CELLS = [str(cell) for name in TABLE.names for cell in TABLE.columns[name].tolist()]
BAR = 1.7976931348623157e308


def ask(task: Task, query: Query, arrays: Mapping[str, Any], limits: WorkLimits | None = None) -> dict[str, Any]:
    message = Round(run="run", term=1, round=1, seed=0, deadline_s=9.0, task=task, query=encode_query(query))
    packet = decode(encode("round/run", message, dict(arrays)))
    return on_rows(TABLE, "south", limits=limits)(packet, lambda: False)


def prepared(task: Task, shift: float = 0.0, scale: float = 1.0, fill: float = 0.0) -> dict[str, Any]:
    assert task.schema is not None
    size = len(task.schema.columns)
    return {name: np.full(size, one) for name, one in zip(PREPARATION, (shift, scale, fill), strict=True)}


def test_features_of_many_categories_are_refused_before_they_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = tuple(map(str, range(CATEGORIES_MAX)))
    columns = tuple(Column(name=name, kind="category", categories=levels) for name in ("color", "smoker", "grade"))
    task = table_task("ill", schema_columns=columns)
    query = Fitted()
    monkeypatch.setattr(Preparation, "features", lambda *_: pytest.fail("features were computed"))
    arrays = {**held_out_plan(task, query, np.zeros(task.model.num_parameters)).arrays, **prepared(task)}
    with pytest.raises(LimitExceeded, match="take a smaller model"):
        ask(task, query, arrays, WorkLimits(memory_bytes=200 << 10))
    monkeypatch.setattr(Fitted, "demand", lambda *_: Demand(0, 0))
    with pytest.raises(LimitExceeded, match="list fewer categories"):
        ask(task, query, arrays, WorkLimits(memory_bytes=200 << 10))


@pytest.mark.parametrize("shift", [0.0, BAR, -BAR])
@pytest.mark.parametrize("scale", [5e-324, 1e-300, BAR])
@pytest.mark.parametrize("kind", [HeldOut, Fitted])
def test_extreme_preparation_gives_an_answer_or_one_line(shift: float, scale: float, kind: type[HeldOut]) -> None:
    for target in ("ill", "days", "visits"):
        task = table_task(target, 0.3)
        plan = held_out_plan(task, kind(), np.full(task.model.num_parameters, BAR))
        answers_or_declines(task, kind(), {**plan.arrays, **prepared(task, shift, scale, -shift)})


@pytest.mark.parametrize("fields", [{"depth": 12}, {"cells": 1 << 22}, {"level": 2}, {"trees": 4}])
def test_odd_forest_gives_an_answer_or_one_line(fields: dict[str, int]) -> None:
    categories = tuple(len(one.categories) if one.kind == "category" else 0 for one in COLUMNS)
    model = Trees(5, 2, "softmax", trees=4, depth=fields.pop("depth", 3), categories=categories)
    task = table_task("ill", model=model)
    rising = np.array([3.0, -1.0, 1e300, -1e300])
    for column, node in ((BAR, 0), (-7.5, 1 << 20), (4.0, 3)):
        trees = empty_trees(model)
        trees[:, : model.nodes] = column
        forest = np.repeat(trees.reshape(1, -1), fields.get("trees", 0), axis=0)
        arrays = {
            "nodes": np.array([[0, min(node, 1 << model.depth)]]),
            "tree": trees,
            "forest": forest,
            "start": np.full(2, BAR),
            "edges": rising,
            "edge_counts": np.array([4, 0, 0, 0, 0]),
        }
        query = TreeHistograms(**{"cells": 23, **fields})
        answers_or_declines(task, query, arrays)


def test_edges_that_do_not_rise_give_an_answer_or_one_line() -> None:
    task = table_task("ill")
    for edges in (np.arange(8.0)[::-1], np.zeros(8), np.array([BAR, -BAR] * 4)):
        answers_or_declines(task, Histograms(), {"edges": np.tile(edges, (num_columns(task), 1))})
    for bits in (-3, 124):
        answers_or_declines(task, Moments(), {"fraction_bits": np.full(num_columns(task), bits)})


def answers_or_declines(task: Task, query: Query, arrays: Mapping[str, Any]) -> None:
    """Check that the answer fits the query, or that the trainer declines in words without a cell of its table."""
    with np.errstate(all="ignore"):
        try:
            ask(task, query, arrays)
        except FedmqError as error:
            detail = decline_of(error).detail
            assert detail
            assert "in the work" not in detail
            assert not [cell for cell in CELLS if len(cell) > 6 and cell in detail]


def test_thousands_of_unknown_names_are_compared_with_few_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def matches(word: str, others: Any, n: int) -> list[str]:
        compared.append(max(len(word), *map(len, others)))
        return []

    monkeypatch.setattr(encoding, "get_close_matches", matches)
    columns = tuple(Column(name=f"{place}".rjust(200, "n")) for place in range(COLUMNS_MAX))
    task = table_task("ill", schema_columns=columns, weight="", offset="")
    with pytest.raises(BadTable, match="and 4088 more faults"):
        ask(task, Moments(), {"fraction_bits": np.zeros(num_columns(task), np.int64)})
    assert len(compared) <= encoding.HINTS_MAX
    assert max(compared) <= encoding.CHARACTERS_COMPARED_MAX


@pytest.mark.parametrize("far", [np.nan, np.inf, -np.inf])
def test_outputs_of_a_model_that_overflows_have_no_finite_loss_and_no_error(far: float) -> None:
    with np.errstate(all="ignore"):
        shares, log_sum = softmax(np.array([[far, 0.0], [1.0, 0.0]]))
        assert not np.isfinite(log(np.array([np.abs(far)]))).any()
    assert np.array_equal(shares[:, 1], [0.5, 0.5])
    assert np.isfinite(log_sum[1])


def test_answer_beyond_its_bounds_is_declined_without_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Spread, "answer", lambda *_: {"exponents": ArrayBounds((5, SPREAD_CELLS), np.int64, 0, 3)})
    task = table_task("ill")
    with pytest.raises(WorkError) as caught:
        ask(task, Spread(columns=num_columns(task)), {})
    detail = decline_of(caught.value).detail
    assert detail == "expected a usable answer to Spread, got numbers beyond its bounds"
