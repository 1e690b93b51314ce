"""The files that a finished run leaves in its folder: `report.json`, `model.npz`, `result.json` and `history.csv`.

Each file appears whole or not at all.
"""

import csv
import hashlib
import io
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec
from msgspec.structs import replace

from fedmq.algorithms.base import Evaluation
from fedmq.algorithms.differences import Difference
from fedmq.algorithms.evaluation.figures import Baseline, Metrics, RowsOf, SiteSpread
from fedmq.algorithms.findings import Findings
from fedmq.errors import BadConfiguration, one_line
from fedmq.models.trained_model import TrainedModel
from fedmq.observe import events
from fedmq.protocol.run_config import RunConfig
from fedmq.runs.records import Close
from fedmq.runs.software import Software
from fedmq.runtime.atomic_files import write_whole
from fedmq.runtime.malformed import MALFORMED
from fedmq.runtime.run_folder import HISTORY, MODEL, REPORT, RESULT, writing_run_file
from fedmq.runtime.safe_files import read_regular

REPORT_BYTES_MAX = 16 << 20


class TrainerReport(msgspec.Struct, frozen=True):
    """One trainer's part in a run."""

    name: str
    num_examples: int
    results: int
    late: int
    rejected: int
    resent: int
    silent: bool = False  # at the end
    reason: str = ""  # of its goodbye
    detail: str = ""
    held_out: Metrics | None = None  # the model on its held-out rows, if it permits that
    differences: tuple[Difference, ...] = ()  # of its rows from those of the others, if it permits its own figures
    metrics: dict[str, float] = {}  # of its own training and scoring code, with its last result


class _Figures(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a run. Times in seconds, traffic in bytes at the aggregator in its last life."""

    solved: bool
    why: Literal["", events.End] = ""  # it ended; "" in reports of older versions
    failure: str = ""  # why it failed, in one line
    rounds: int
    value: float | None  # of the task's metric; None: nothing was scored
    value_of: RowsOf = "training"  # the rows that it is of
    held_out: Metrics | None = None  # the model on rows that were not trained on
    training: Metrics | None = None  # the same of the rows trained on
    baselines: list[Baseline] = []  # the same algorithm without federation, where that was asked for
    spread: SiteSpread | None = None  # of trainers whose own figures are permitted
    train_s: float  # while rounds were open
    wall_s: float  # since the run began
    round_s_median: float | None
    trainers: list[TrainerReport]
    rejections: dict[str, int]
    bytes_up: int
    bytes_down: int
    epsilon_spent: float | None = None  # of a private run, with the delta of its config; None: its answers had no noise
    model: str | None  # name of a file in this folder
    model_sha256: str | None  # of that file


class Report(_Figures, frozen=True, kw_only=True):
    """`report.json`."""

    config: RunConfig
    software: list[Software] = []  # the different versions of the run's lives, oldest first

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to do: target reached, nothing left to learn, or the rounds used up."""
        if self.why == "":
            return self.solved or self.rounds >= self.config.limits.rounds_max
        return self.why in ("solved", "done", "rounds")

    @property
    def run(self) -> str:
        return self.config.run

    @property
    def privacy(self) -> str:
        """What a private run has spent, for people, with a warning of a large delta; "" of another run."""
        privacy, rows = self.config.privacy, sum(one.num_examples for one in self.trainers)
        return "" if privacy is None else privacy.text(self.rounds, rows)

    @property
    def task(self) -> str:
        return self.config.task.name

    @property
    def algorithm(self) -> str:
        return self.config.algorithm

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def metric(self) -> str:
        return self.config.task.metric


class EarlierReport(_Figures, frozen=True, kw_only=True):
    """`report.json` of fedmq 0.1, before there was a `RunConfig`."""

    privacy: ClassVar[str] = ""

    run: str
    task: str
    strategy: str
    robust: str | None = None
    seed: int
    metric: str
    is_finished: ClassVar[bool] = True

    @property
    def algorithm(self) -> str:
        """Return the name that `strategy` has now."""
        return self.strategy


def make_report(
    config: RunConfig,
    closes: list[Close],
    evaluation: Evaluation | None,
    trainers: list[TrainerReport],
    *,
    why: events.End,
    failure: str,
    rejections: dict[str, int],
    bytes_up: int,
    bytes_down: int,
    ended: float,
    software: Sequence[Software] = (),
) -> tuple[Report, TrainedModel | None]:
    """Return the report of a run and its model, None if nothing was scored. `ended` is in seconds since 1970."""
    task = config.task
    measured = None if evaluation is None else evaluation.measured
    if measured is not None:
        trainers = [replace(one, held_out=measured.trainers.get(one.name)) for one in trainers]
    model = None if evaluation is None else task.trained(evaluation.parameters, evaluation.preparation)
    report = Report(
        config=config,
        software=list(software),
        solved=why == "solved",
        why=why,
        failure=failure,
        rounds=closes[-1].round if closes else 0,
        value=None if evaluation is None else task.value(*evaluation.score[:3]),
        value_of="training" if evaluation is None else evaluation.score.of,
        held_out=None if measured is None else measured.held_out,
        training=None if measured is None else measured.training,
        spread=None if measured is None else measured.spread(),
        train_s=sum(close.round_s for close in closes),
        wall_s=ended - config.started,
        round_s_median=statistics.median(close.round_s for close in closes) if closes else None,
        trainers=sorted(trainers, key=lambda one: one.name),
        rejections=rejections,
        bytes_up=bytes_up,
        bytes_down=bytes_down,
        epsilon_spent=None if config.privacy is None else config.privacy.spent(_asked(closes, why)),
        model=None if model is None else MODEL,
        model_sha256=None if model is None else hashlib.sha256(model.to_bytes()).hexdigest(),
    )
    return report, model


def _asked(closes: list[Close], why: events.End) -> int:
    """Return how many rounds have been asked at most: the next one, too, if the run may have ended in it."""
    closed = closes[-1].round if closes else 0
    return closed if why in ("solved", "done", "rounds") else closed + 1


def write_report(
    folder: Path, report: Report, model: TrainedModel | None, closes: list[Close], findings: Findings | None = None
) -> None:
    """Write the files of a finished run, the report last: a reader that finds it finds the others."""
    if findings is not None:
        _write(folder / RESULT, msgspec.json.format(msgspec.json.encode(findings), indent=2) + b"\n")
    if model is not None:
        _write(folder / MODEL, model.to_bytes())
    _write(folder / HISTORY, _history(closes).encode())
    _write(folder / REPORT, msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def add_baselines(folder: Path, found: Sequence[Baseline]) -> Report:
    """Return the report in `folder` with baselines, the run itself among them, and write it."""
    report = read_report(folder)
    assert isinstance(report, Report)
    together = Baseline(rows="together", held_out=report.held_out)
    report = replace(
        report,
        baselines=[
            *(one for one in found if one.rows == "alone"),
            together,
            *(one for one in found if one.rows == "pooled"),
        ],
    )
    _write(folder / REPORT, msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    return report


def read_report(folder: Path) -> Report | EarlierReport | None:
    """Return the report in `folder`, or None if the run is not finished.

    Raises:
        BadConfiguration: the file is not a report.
    """
    path = folder / REPORT
    try:
        fields = msgspec.json.decode(read_regular(path, REPORT_BYTES_MAX), type=dict[str, Any])
        if "config" in fields:
            return msgspec.convert(fields, Report)
        for trainer in fields.get("trainers", ()):
            trainer.setdefault("num_examples", trainer.pop("samples", None))
        return msgspec.convert(fields, EarlierReport)
    except (FileNotFoundError, NotADirectoryError):
        return None
    # A TypeError or AttributeError: JSON of another shape. A BadConfiguration: the task's own checks.
    except (OSError, *MALFORMED, TypeError, AttributeError, BadConfiguration) as error:
        raise BadConfiguration(f"{path}: expected the report of a run, got {one_line(error)}") from error


def read_findings(folder: Path) -> Findings | None:
    """Return what a finished run found beside the model, or None if its algorithm finds nothing.

    Raises:
        BadConfiguration: the file is not such a result.
    """
    path = folder / RESULT
    try:
        return msgspec.json.decode(read_regular(path, REPORT_BYTES_MAX), type=Findings)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, *MALFORMED) as error:
        raise BadConfiguration(f"{path}: expected the result of a run, got {one_line(error)}") from error


def _write(path: Path, content: bytes) -> None:
    with writing_run_file(path):
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
