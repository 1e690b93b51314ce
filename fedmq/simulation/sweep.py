"""Sweeps: a simulation with each combination of some settings, and with several seeds each."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any, NamedTuple

import numpy as np

from fedmq.errors import BadConfiguration, FedmqError
from fedmq.models.arrays import Floats
from fedmq.runs.charts import Series, line_chart
from fedmq.simulation.processes import forked_pool
from fedmq.simulation.run import Chart, frame_of, page_of
from fedmq.simulation.simulate import simulate
from fedmq.tasks.task import Task

# Settings of a sweep that are not parameters of the algorithm.
ARGUMENTS = ("algorithm", "split", "trainers", "rounds", "holdout", "dropout", "stragglers", "sample", "epsilon")
RUNS_MAX = 10_000
# Student's t for an interval of 95 %, by degrees of freedom from 1 on; beyond, that of the normal distribution is near.
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
T95_OF_MANY = 1.96
Settings = tuple[tuple[str, Any], ...]


class SweptRun(NamedTuple):
    """One run of a sweep: its settings and seed, and the value of the metric after each round.

    `noise` is the standard deviation that the noise of a private run alone gives to its accuracy.
    """

    settings: Settings
    seed: int
    metric: str
    value: float
    curve: tuple[float, ...]
    bytes_up: int
    model_sha256: str
    noise: float = 0.0


class Interval(NamedTuple):
    """A mean over seeds, and half the width of its interval of 95 %, by Student's t; NaN with one seed."""

    mean: float
    half: float

    @classmethod
    def of(cls, values: Sequence[float], noise: float = 0.0) -> Interval:
        """Return the interval of these values, which is at least that of their `noise`, a standard deviation.

        An accuracy of a private run is at most 1, also if noise makes it more: such values vary less than their noise.

        >>> Interval.of([1.0, 2.0, 3.0])
        Interval(mean=2.0, half=2.484...)
        """
        count, mean = len(values), math.fsum(values) / len(values)
        if count < 2:
            return cls(mean, math.nan)
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
        factor = _T95[count - 2] if count - 2 < len(_T95) else T95_OF_MANY
        return cls(mean, max(factor * deviation, T95_OF_MANY * noise) / math.sqrt(count))


@dataclass(frozen=True)
class Sweep:
    """The runs of a sweep."""

    runs: Sequence[SweptRun]

    @property
    def metric(self) -> str:
        """What the values of the runs are of."""
        return self.runs[0].metric

    def intervals(self) -> dict[Settings, Interval]:
        """Return the interval of the metric over the seeds, by settings."""
        return {
            settings: Interval.of([one.value for one in runs], max(one.noise for one in runs))
            for settings, runs in self._grouped().items()
        }

    @property
    def table(self) -> Any:
        """One row for each combination of settings: a data frame with pandas, else a list of dictionaries."""
        grouped = self._grouped()
        return frame_of(
            [
                {**dict(settings), "seeds": len(grouped[settings]), "mean": one.mean, "half": one.half}
                for settings, one in self.intervals().items()
            ]
        )

    def csv(self) -> str:
        """Return one line for each run."""
        text, names = io.StringIO(), [name for name, _ in self.runs[0].settings]
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*names, "seed", self.metric, "bytes_up", "model_sha256"])
        for one in self.runs:
            values = [value for _, value in one.settings]
            writer.writerow([*values, one.seed, one.value, one.bytes_up, one.model_sha256])
        return text.getvalue()

    def plot(self) -> Chart:
        """Return a chart of the metric by round for each combination: the mean over seeds between its interval."""
        found = self.intervals()
        head = "".join(f"<th>{escape(name)}</th>" for name, _ in self.runs[0].settings)
        rows = "".join(
            f"<tr>{''.join(f'<td>{escape(str(value))}</td>' for _, value in settings)}"
            f'<td class="number">{one.mean:.4g}</td><td class="number">± {one.half:.2g}</td></tr>'
            for settings, one in found.items()
        )
        table = f"<table><thead><tr>{head}<th>{self.metric}</th><th>95 %</th></tr></thead><tbody>{rows}</tbody></table>"
        grouped = self._grouped()
        every = [value for one in self.runs for value in one.curve if math.isfinite(value)]
        span = (min(every, default=0.0), max(every, default=1.0))
        charts = [_curve(settings, runs, self.metric, span) for settings, runs in grouped.items()]
        return page_of("<h1>Sweep</h1>", table, '<div class="pair">', *charts, "</div>")

    def _grouped(self) -> dict[Settings, list[SweptRun]]:
        grouped: dict[Settings, list[SweptRun]] = {}
        for one in self.runs:
            grouped.setdefault(one.settings, []).append(one)
        return grouped


def sweep(
    task: Task | str | None = None,
    data: object = None,
    *,
    over: Mapping[str, Sequence[Any]],
    seeds: int = 5,
    seed: int = 0,
    processes: int = 1,
    on_run: Callable[[SweptRun], None] = lambda _run: None,
    **arguments: Any,
) -> Sweep:
    """Simulate each combination of settings with each of `seeds` seeds, from `seed` on.

    `over` has the values of each setting: a parameter of the algorithm, or one of `ARGUMENTS`. So many `processes` each
    train one run at a time. `on_run` gets each run when it is done; the other arguments are those of `simulate`.

    Raises:
        BadConfiguration: no values, or too many runs; and as `simulate`.

    >>> found = sweep("xor", over={"population": [50, 100]}, seeds=2, rounds=3)
    >>> [dict(settings)["population"] for settings in found.intervals()]
    [50, 100]
    """
    empty = [name for name, values in over.items() if not values]
    combinations = [tuple(zip(over, values, strict=True)) for values in itertools.product(*over.values())]
    if empty or not over or seeds < 1 or len(combinations) * seeds > RUNS_MAX:
        raise BadConfiguration(
            f"sweep: expected values for each setting, and 1 to {RUNS_MAX} runs, got {len(combinations)} x {seeds}"
        )
    points = [(settings, seed + number) for settings in combinations for number in range(seeds)]
    work = partial(_swept, task, data, arguments)
    runs = []
    with ExitStack() as until_done:
        each = map if processes == 1 else until_done.enter_context(forked_pool(processes)).map
        for one in each(work, points):
            runs.append(one)
            on_run(one)
    return Sweep(runs)


def _swept(
    task: Task | str | None, data: object, arguments: Mapping[str, Any], point: tuple[Settings, int]
) -> SweptRun:
    settings, seed = point
    chosen = dict(settings)
    own = {name: chosen.pop(name) for name in ARGUMENTS if name in chosen}
    parameters = {**(arguments.get("parameters") or {}), **chosen}
    try:
        run = simulate(task, data, **{**arguments, **own, "parameters": parameters, "seed": seed, "progress": False})
    except FedmqError as error:  # not all of them can be sent from one process to another
        raise BadConfiguration(f"{text_of_settings(settings)}: {error}") from error
    curve = tuple(math.nan if close.best is None else close.best.value for close in run.closes)
    value = math.nan if run.value is None else run.value
    noise = None if run.findings is None else run.findings.figures.get("noise of accuracy")
    return SweptRun(
        settings,
        seed,
        run.report.metric,
        value,
        curve,
        run.report.bytes_up,
        run.model_sha256 or "",
        noise if isinstance(noise, float) else 0.0,
    )


def text_of_settings(settings: Settings) -> str:
    """Return settings as people write them: `learning_rate=0.1 split=iid`."""
    return " ".join(f"{name}={value}" for name, value in settings)


def _curve(settings: Settings, runs: Sequence[SweptRun], metric: str, span: tuple[float, float]) -> str:
    rounds = max(len(one.curve) for one in runs)
    curves = np.array([_extended(one.curve, rounds) for one in runs])
    scored = [place for place in range(rounds) if np.isfinite(curves[:, place]).all()]
    found = [(float(place + 1), Interval.of(curves[:, place].tolist())) for place in scored]

    def bound(sign: int) -> list[tuple[float, float]]:
        """Return one side of the interval within the chart: that of a few seeds may be much wider."""
        return [(number, float(np.clip(one.mean + sign * one.half, *span))) for number, one in found]

    series = [
        Series("mean", [(number, one.mean) for number, one in found]),
        Series("", bound(-1), "guide"),
        Series("interval of 95 %", bound(1), "guide"),
    ]
    return line_chart(text_of_settings(settings), "round", metric, series, y_range=span if span[0] < span[1] else None)


def _extended(curve: Sequence[float], rounds: int) -> Floats:
    """Return the values of so many rounds: a run that has ended keeps its last one."""
    last = curve[-1] if curve else math.nan
    return np.array([*curve, *[last] * (rounds - len(curve))])
