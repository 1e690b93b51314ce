"""What `fedmq.simulate` and `fedmq.train` return: the outcome of a run, for a script or a notebook."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from fedmq.algorithms.findings import Findings
from fedmq.errors import BadConfiguration
from fedmq.models.trained_model import TrainedModel
from fedmq.runs.charts import Series, line_chart
from fedmq.runs.records import Close
from fedmq.runs.report import Report
from fedmq.runtime.atomic_files import SHARED_FILE, write_whole, writing


class Fairness(NamedTuple):
    """How a figure differs between trainers, on the held-out rows of each: accuracy, or the root mean squared error.

    `tenth` is the value that a tenth of the trainers does not reach, `deviation` the standard deviation.
    """

    figure: str
    worst: float
    tenth: float
    median: float
    best: float
    deviation: float
    trainers: int


class Chart(NamedTuple):
    """A chart as one page of HTML with SVG in it; a notebook shows it in a frame, so that its style stays there."""

    html: str

    def __repr__(self) -> str:
        return f"Chart(of {len(self.html)} characters: save(path) writes it)"

    def _repr_html_(self) -> str:
        grow = "this.style.height = this.contentDocument.documentElement.scrollHeight + 'px'"
        size = 'width="100%" height="420" frameborder="0"'
        return f'<iframe srcdoc="{escape(self.html)}" onload="{grow}" {size}></iframe>'

    def save(self, path: Path | str) -> Path:
        """Write the chart to an HTML file; return its path."""
        target = Path(path)
        with writing(target):
            write_whole(target, self.html.encode(), mode=SHARED_FILE)
        return target


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """A run that is over.

    `report` is what a run's `report.json` has, and `model` the trained model, None if nothing was scored. `findings` is
    what the algorithm found beside it, such as coefficients. `folder` is the run's folder, None if it was kept in
    memory. `seconds` is how long it took here; times in the report and history of a simulation are virtual. `targets`
    are those of each virtual trainer's rows, (rows,); none of a run over services.
    """

    report: Report
    model: TrainedModel | None
    closes: Sequence[Close]
    findings: Findings | None = None
    folder: Path | None = None
    seconds: float = 0.0
    targets: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

    def __repr__(self) -> str:
        report, trainers = self.report, len(self.report.trainers)
        value = "nothing scored" if self.value is None else f"{report.metric} {self.value:.4g}"
        return f"Run({report.task} by {report.algorithm}: {value}, {report.rounds} rounds, {trainers} trainers)"

    @property
    def model_sha256(self) -> str | None:
        """The SHA-256 of the model's file: the same for the same task, rows, names, settings and seed."""
        return self.report.model_sha256

    @property
    def value(self) -> float | None:
        """The task's metric: on held-out rows if there are some, else on those trained on."""
        return self.report.value

    @property
    def history(self) -> Any:
        """One row for each closed round: a data frame if pandas is installed, else a list of dictionaries.

        Its columns are `round`, `results`, `members`, `round_s`, `closed`, and the figures of the best model.
        """
        rows = [
            {
                "round": close.round,
                "results": close.results,
                "members": len(close.members),
                "round_s": close.round_s,
                "closed": close.closed,
                **({} if close.best is None else msgspec.structs.asdict(close.best)),
            }
            for close in self.closes
        ]
        return frame_of(rows)

    @property
    def fairness(self) -> Fairness | None:
        """How the model differs between trainers; None without two of them that have held-out rows."""
        measured = [one.held_out for one in self.report.trainers if one.held_out is not None]
        errors = any(one.rmse is not None for one in measured)
        found = [one.rmse if errors else one.accuracy for one in measured]
        known = np.sort([value for value in found if value is not None])
        if len(known) < 2:
            return None
        worst_first = known[::-1] if errors else known
        return Fairness(
            figure="rmse" if errors else "accuracy",
            worst=float(worst_first[0]),
            tenth=float(worst_first[max(0, math.ceil(0.1 * len(known)) - 1)]),
            median=float(np.median(known)),
            best=float(worst_first[-1]),
            deviation=float(known.std()),
            trainers=len(known),
        )

    def plot(self) -> Chart:
        """Return a chart of the metric by round.

        Raises:
            BadConfiguration: no round has scored a model.
        """
        scored = [(float(close.round), close.best) for close in self.closes if close.best is not None]
        if not scored:
            raise BadConfiguration("expected a run that has scored a model, got none: train more rounds")
        held_out = [(number, best.value) for number, best in scored if best.value_of == "held-out"]
        training = [(number, best.value) for number, best in scored if best.value_of == "training"]
        training += [(number, best.training) for number, best in scored if best.training is not None]
        series = [
            Series("held-out rows", held_out),
            Series("training rows", sorted(training), "other" if held_out else "main"),
        ]
        figure = line_chart(
            f"{self.report.task}, {self.report.algorithm}",
            "round",
            self.report.metric,
            [one for one in series if one.points],
        )
        return page_of(figure)

    def plot_split(self) -> Chart:
        """Return a table of who has which rows: by class, or by quantiles of a numeric target.

        Raises:
            BadConfiguration: the run was not simulated.
        """
        from fedmq.simulation.split_page import split_page

        if not self.targets:
            raise BadConfiguration("expected a simulated run, got one over services: their rows are at the sites")
        return split_page(self.targets)


def frame_of(rows: list[dict[str, Any]]) -> Any:
    """Return rows as a data frame if pandas is installed, else as they are."""
    try:
        import pandas as pd
    except ImportError:
        return rows
    return pd.DataFrame(rows)


def page_of(*figures: str) -> Chart:
    """Return charts and tables as one page with the style of reports."""
    style = resources.files("fedmq.runs").joinpath("report.css").read_text(encoding="utf-8")
    body = "".join(figures)
    return Chart(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>fedmq</title><style>{style}</style></head>'
        f"<body><main>{body}</main></body></html>\n"
    )
