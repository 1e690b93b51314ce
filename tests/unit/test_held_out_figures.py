"""Figures on held-out rows, wherever figures are shown: they say which rows they are of, and they end the run."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from test_terminal_view import drawn, state_of

from fedmq.aggregator.event_publisher import EventPublisher
from fedmq.aggregator.outbox import Outbox
from fedmq.algorithms.base import Evaluation
from fedmq.algorithms.checkpoint import dump, load
from fedmq.algorithms.evaluation.figures import Measured, Metrics
from fedmq.models.networks import MLP
from fedmq.observe import events
from fedmq.observe.event_text import best_text, event_line, held_out_text, metrics_text
from fedmq.observe.run_state import RunState
from fedmq.runs.records import Close
from fedmq.runs.report import TrainerReport, make_report, write_report
from fedmq.tasks.task import Task
from fedmq.testing import run_config

TASK = Task(name="rare", model=MLP((3, 2)), loss="cross-entropy", metric="accuracy", target=0.97)
RARE = Metrics(  # a model that says no to 100 rows of which 4 are positive
    rows=100,
    trainers=3,
    loss=20.0,
    correct=96,
    accuracy=0.96,
    balanced_accuracy=0.5,
    auc=0.5,
    log_loss=0.2,
    brier=0.04,
    confusion=((96, 0), (4, 0)),
)
TRAINERS = {
    name: msgspec.structs.replace(RARE, trainers=1, accuracy=accuracy, confusion=())
    for name, accuracy in {"north": 0.99, "south": 0.9, "west": 0.97}.items()
}
MEASURED = Measured(held_out=RARE, training=msgspec.structs.replace(RARE, accuracy=1.0), trainers=TRAINERS)
EVALUATION = Evaluation(np.zeros(8), 0.5, 400, 400, 1.0, -0.1, -0.2, -0.3, 0.0, measured=MEASURED)
CONFIG = run_config("run", TASK, "evolution", started=1000.0)


def publisher(run_state: RunState | None = None) -> EventPublisher:
    return EventPublisher(Outbox(CONFIG, 1, None, lambda _: b""), TASK, run_state)


def best() -> events.Best:
    found = publisher().best_of(EVALUATION)
    assert found is not None
    return found


def test_best_has_the_metric_on_held_out_rows_and_that_on_training_rows_beside_it() -> None:
    found = best()
    assert (found.value, found.value_of, found.training) == (0.96, "held-out", 1.0)
    assert (found.balanced_accuracy, found.auc, found.rmse) == (0.5, 0.5, None)


def test_best_without_held_out_rows_is_as_before() -> None:
    nothing = replace(EVALUATION, measured=Measured(held_out=Metrics(rows=0, trainers=3)))
    for evaluation in (replace(EVALUATION, measured=None), nothing):
        found = publisher().best_of(evaluation)
        assert found is not None
        assert (found.value, found.value_of, found.training, found.auc) == (1.0, "training", None, None)
        assert "value_of" not in msgspec.to_builtins(found)


def test_figure_of_a_private_run_is_shown_once() -> None:
    alone = replace(EVALUATION, loss=RARE.loss, correct=RARE.correct, rows=RARE.rows)
    found = publisher().best_of(alone)
    assert found is not None
    assert (found.value, found.value_of, found.training) == (0.96, "held-out", None)
    assert "training" not in held_out_text(found, "accuracy")


def test_rare_class_shows_balanced_accuracy_and_auc_beside_accuracy_everywhere(tmp_path: Path) -> None:
    figures = ("96%", "50.0%", "0.500")
    closed = events.RoundClosed(round=3, why="complete", results=3, round_s=0.1, present=3, best=best())
    line = event_line(closed, "accuracy")
    assert line is not None
    assert all(one in line for one in (*figures, "held out", "100% on training rows"))
    for width in (80, 130):
        shown = drawn(state_of(closed), width=width)
        assert all(one in shown for one in (*figures, "held out", "100% on training rows"))
    assert "accuracy 96.0%, balanced 50.0%, AUC 0.5000" in metrics_text(RARE)
    closes = [Close(3, "complete", ("north",), 3, 0.1, 1001.0, best(), bytes(32))]
    trainers = [TrainerReport(name, 30, 3, 0, 0, 0) for name in ("north", "south", "west", "silent")]
    report, model = make_report(
        CONFIG,
        closes,
        EVALUATION,
        trainers,
        why="rounds",
        failure="",
        rejections={},
        bytes_up=1,
        bytes_down=2,
        ended=1010.0,
    )
    write_report(tmp_path, report, model, closes)
    content = json.loads((tmp_path / "report.json").read_text())
    assert (content["value"], content["value_of"]) == (0.96, "held-out")
    assert (content["held_out"]["auc"], content["held_out"]["confusion"]) == (0.5, [[96, 0], [4, 0]])
    assert content["training"]["accuracy"] == 1.0
    assert [one["held_out"] and one["held_out"]["accuracy"] for one in content["trainers"]] == [0.99, None, 0.9, 0.97]
    assert (content["spread"]["worst"], content["spread"]["best"]) == ("south", "north")
    with (tmp_path / "history.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["value"], row["value_of"], row["auc"], row["training"]) == ("0.96", "held-out", "0.5", "1.0")


def test_accuracy_without_held_out_rows_claims_none() -> None:
    found = publisher().best_of(replace(EVALUATION, measured=None))
    assert found is not None
    assert held_out_text(found, "accuracy") == ""
    assert "held out" not in best_text(found, "accuracy")


def test_figures_of_trainers_reach_their_lines_on_the_terminal() -> None:
    joined = [events.TrainerJoined(trainer=name, num_examples=40) for name in ("north", "silent")]
    state = state_of(*joined, events.ModelMeasured(round=3, measured=MEASURED.for_observers()))
    assert state.measured == MEASURED.for_observers()
    shown = drawn(state, width=80).splitlines()
    assert any("north" in line and "99.0%" in line for line in shown)
    assert any("held out" in line for line in shown)


def test_event_about_a_model_is_small_however_many_classes_and_trainers() -> None:
    many = Metrics(rows=5, trainers=1, confusion=((1,) * 40,) * 40)
    measured = Measured(held_out=many, trainers={f"trainer-{place}": RARE for place in range(200)})
    assert len(msgspec.json.encode(measured.for_observers())) < 8192
    assert MEASURED.for_observers().held_out.confusion == RARE.confusion


def test_spread_of_values_is_by_error() -> None:
    trainers = {name: Metrics(rows=9, trainers=1, accuracy=0.1, rmse=error) for name, error in (("a", 2.0), ("b", 1.0))}
    found = Measured(held_out=RARE, trainers=trainers).spread()
    assert found is not None
    assert (found.figure, found.worst, found.worst_value, found.best, found.deviation) == ("rmse", "a", 2.0, "b", 0.5)
    assert Measured(held_out=RARE, trainers={"a": RARE}).spread() is None


def test_figures_survive_a_checkpoint() -> None:
    assert load(dump(MEASURED), Measured) == MEASURED
    assert load(dump(EVALUATION), Evaluation).measured == MEASURED


@pytest.mark.parametrize(("held_out", "reached"), [(0.99, True), (0.96, False)])
def test_target_counts_for_held_out_rows(held_out: float, reached: bool) -> None:
    measured = Measured(held_out=Metrics(rows=100, trainers=1, correct=round(100 * held_out)))
    assert TASK.reached(*replace(EVALUATION, measured=measured).score[:3]) is reached
