"""What a run leaves in its folder: `report.json`, `model.npz` and `history.csv`.

Knows the figures, not how they came about. Files appear whole or not at all.
"""

from __future__ import annotations

import csv
import hashlib
import io
import statistics
from pathlib import Path

import msgspec

from fedmq.algorithms.base import Evaluation
from fedmq.errors import BadConfiguration
from fedmq.models.trained_model import TrainedModel
from fedmq.observe import events
from fedmq.runs.store import Close, Description
from fedmq.runtime.atomic_files import write_whole
from fedmq.runtime.run_folder import HISTORY, MODEL, REPORT, writing


class TrainerReport(msgspec.Struct, frozen=True):
    """One trainer's part in a run."""

    name: str
    num_examples: int
    results: int
    late: int
    rejected: int
    resent: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """`report.json`. Times in seconds, traffic in bytes as the aggregator saw it in its last life."""

    run: str
    task: str
    strategy: str
    robust: str | None = None  # the rule against liars; None: of a run from before one could choose
    seed: int
    solved: bool
    rounds: int
    metric: str
    value: float | None
    train_s: float  # that rounds were open, from the first publication to the last close
    wall_s: float  # since the run was begun
    round_s_median: float | None
    trainers: list[TrainerReport]
    rejections: dict[str, int]
    bytes_up: int
    bytes_down: int
    model: str | None  # file name in this folder
    model_sha256: str | None  # of that file


def make_report(
    description: Description,
    closes: list[Close],
    evaluation: Evaluation | None,
    trainers: list[TrainerReport],
    *,
    solved: bool,
    rejections: dict[str, int],
    bytes_up: int,
    bytes_down: int,
    ended: float,
) -> tuple[Report, TrainedModel | None]:
    """The report of a run and its model (None when nothing has been scored). `ended` is in seconds since 1970."""
    task = description.task
    model = None if evaluation is None else TrainedModel(task.model, evaluation.genes, task.name)
    report = Report(
        run=description.run,
        task=task.name,
        strategy=description.strategy,
        robust=description.robust,
        seed=description.seed,
        solved=solved,
        rounds=closes[-1].round if closes else 0,
        metric=task.metric,
        value=None if evaluation is None else task.value(evaluation.loss, evaluation.correct, evaluation.rows),
        train_s=sum(close.round_s for close in closes),
        wall_s=ended - description.started,
        round_s_median=statistics.median(close.round_s for close in closes) if closes else None,
        trainers=sorted(trainers, key=lambda one: one.name),
        rejections=rejections,
        bytes_up=bytes_up,
        bytes_down=bytes_down,
        model=None if model is None else MODEL,
        model_sha256=None if model is None else hashlib.sha256(model.to_bytes()).hexdigest(),
    )
    return report, model


def write_report(folder: Path, report: Report, model: TrainedModel | None, closes: list[Close]) -> None:
    """Write the files of a finished run; the report last, so that who sees it sees the others."""
    if model is not None:
        _write(folder / MODEL, model.to_bytes())
    _write(folder / HISTORY, _history(closes).encode())
    _write(folder / REPORT, msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def read_report(folder: Path) -> Report | None:
    """The report in `folder`, or None when the run is not finished.

    Raises:
        BadConfiguration: the file is not a report.
    """
    path = folder / REPORT
    try:
        return msgspec.json.decode(path.read_bytes(), type=Report)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise BadConfiguration(f"{path}: expected the report of a run, got {error}") from error


def _write(path: Path, content: bytes) -> None:
    with writing(path):
        write_whole(path, content)


def _history(closes: list[Close]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    figures = [field.name for field in msgspec.structs.fields(events.Best)]
    writer.writerow(["round", "why", "results", "members", "round_s", "closed", *figures])
    for close in closes:
        best = [""] * len(figures) if close.best is None else msgspec.structs.astuple(close.best)
        writer.writerow([close.round, close.why, close.results, len(close.members), close.round_s, close.closed, *best])
    return text.getvalue()
