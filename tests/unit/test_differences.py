"""Sites that are unlike the others are named: another unit, values far off, labels that are reversed."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from fedmq.algorithms.differences import column_summary, differing_columns, reversed_labels
from fedmq.algorithms.evaluation.figures import Metrics
from fedmq.algorithms.registry import find_algorithm
from fedmq.models.networks import MLP
from fedmq.observe import events
from fedmq.observe.event_text import event_line
from fedmq.simulation import Federation
from fedmq.tables.schema import Column, Schema, Target
from fedmq.tables.table import Table
from fedmq.tasks.task import Task

SITES = ("east", "north", "south")
ROWS = 150
TASK = Task(
    name="ill",
    model=MLP((2, 2)),
    loss="cross-entropy",
    metric="accuracy",
    schema=Schema(
        columns=(Column(name="sugar"), Column(name="age")),
        target=Target(name="ill", kind="class", classes=("no", "yes")),
    ),
    holdout=0.3,
    trainers=3,
)


def table(seed: int, *, unit: float = 1.0, flipped: bool = False, share: float = 0.5) -> Table:
    """A site's rows: sugar around 95 mg/dl, higher for the ill, of which there is a share."""
    random = np.random.default_rng(seed)
    ill = random.random(ROWS) < share
    sugar = random.normal(95.0, 8.0, ROWS) + 30.0 * ill
    labels = np.where(ill ^ flipped, "yes", "no")
    columns = {"sugar": sugar / unit, "age": random.normal(50.0, 12.0, ROWS), "ill": labels}
    return Table("site", tuple(columns), columns, ROWS, np.arange(2, ROWS + 2))


def differing(tables: dict[str, Table]) -> tuple[dict[str, set[str]], list[str]]:
    """Return what is said of each site at the end, and the lines of the terminal."""
    federation = Federation(TASK, find_algorithm("newton", TASK, {"penalty": 1.0}), tables)
    assert federation.train(60.0) is not None
    found = [one for one in federation.events if isinstance(one, events.SiteDiffers)]
    last = {one.trainer: {each.column or each.reason for each in one.differences} for one in found}
    return last, [event_line(one, "accuracy") or "" for one in found]


def test_sites_that_are_alike_are_not_named() -> None:
    assert differing({name: table(place) for place, name in enumerate(SITES)}) == ({}, [])


def test_sites_with_other_shares_of_the_classes_are_not_named() -> None:
    tables = {
        name: table(place, share=share) for place, (name, share) in enumerate(zip(SITES, (0.1, 0.5, 0.9), strict=True))
    }
    assert differing(tables) == ({}, [])


def test_another_unit_is_named_with_its_column() -> None:
    tables = {"east": table(0), "north": table(1), "south": table(2, unit=18.0)}
    found, lines = differing(tables)
    assert found["south"] >= {"sugar"}
    assert found.keys() == {"south"}
    assert lines[0].startswith("the rows of south differ: sugar: mean ")
    assert "is the unit the same?" in lines[0]


def test_only_the_site_with_larger_numbers_is_named() -> None:
    tables = {name: table(place, unit=18.0) for place, name in enumerate(SITES)} | {"west": table(5)}
    found, lines = differing(tables)
    assert found == {"west": {"sugar"}}
    assert len(lines) == 1


def test_reversed_labels_are_named() -> None:
    tables = {"east": table(0), "north": table(1), "south": table(2, flipped=True)}
    found, lines = differing(tables)
    assert found == {"south": {"labels"}}
    assert "are its labels reversed?" in lines[-1]


def test_site_reads_in_its_own_log_that_its_unit_differs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "fedmq.trainer.round_handler"):
        differing({"east": table(0), "north": table(1), "south": table(2, unit=18.0)})
    said = [record.getMessage() for record in caplog.records if "all sites together" in record.getMessage()]
    assert any("column sugar: mean 6" in text for text in said)


@pytest.mark.parametrize(
    ("own", "others", "reason"),
    [
        ((90.0, 10.0), (5.0, 0.55), "unit"),
        ((0.0, 1.0), (0.0, 20.0), "unit"),
        ((0.0, 1.0), (9.0, 1.5), "far"),
        ((3.0, 1.0), (5.0, 1.5), None),
        ((50.0, 2.0), (52.0, 12.0), None),
    ],
)
def test_reason_of_a_column(own: tuple[float, float], others: tuple[float, float], reason: str | None) -> None:
    random = np.random.default_rng(1)
    spread = random.normal(0.0, 1.0, 400)
    spread = (spread - spread.mean()) / spread.std()
    site, rest = (column_summary((mean + deviation * spread)[:, None]) for mean, deviation in (own, others))
    assert [one.reason for one in differing_columns(("x",), site, rest)] == [reason] * (reason is not None)


def test_few_values_are_not_judged() -> None:
    few, many = column_summary(np.full((19, 1), 900.0)), column_summary(np.arange(50.0)[:, None])
    assert differing_columns(("x",), few, many) == ()
    metrics = {"a": Metrics(rows=9, trainers=1, auc=0.0), "b": Metrics(rows=90, trainers=1, auc=0.9)}
    assert reversed_labels(metrics) == {}


def test_missing_values_are_left_out_of_a_summary() -> None:
    found = column_summary(np.array([[1.0, np.nan], [3.0, np.nan]]))
    assert (found.counts.tolist(), found.means.tolist()) == ([2, 0], [2.0, 0.0])
    assert found.deviations.tolist() == [1.0, 0.0]
