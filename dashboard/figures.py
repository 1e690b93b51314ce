"""Figures of runs: convergence, round times, participation, decision surface; drawn without a screen.

The only module that imports matplotlib.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from fedmq.models.trained_model import TrainedModel
from fedmq.observe.run_state import RoundRecord, RunState
from fedmq.runtime.atomic_files import write_whole
from fedmq.runtime.printable import printable

# Okabe and Ito's palette, distinct for every kind of color vision: https://jfly.uni-koeln.de/color/
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
BLUE, ORANGE, GREEN, VERMILLION, _, SKY, BLACK = PALETTE
GRAY, PALE = "#8A8A8A", "#EDEDED"
STYLES = ("-", "--", ":", "-.")  # for more curves than colors
SETTINGS: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "fedmq",  # the same figure gives the same bytes
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "grid.color": "#E5E5E5",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
}
DPI = 150
TRAINERS_MAX = 40  # rows of the map that are readable
CELLS_MAX = 60  # rounds up to which lines separate the cells
GRID = 160  # points of the surface along an axis
LOG_FROM = 20  # a maximum of so many medians is drawn on a logarithmic scale


def draw_run(run_state: RunState, surface: tuple[int, TrainedModel] | None, inputs: tuple[float, float]) -> Figure:
    """Draw one run. `surface` is a round and its best model, drawn over the range `inputs`."""
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(10.5, 7.2), layout="constrained")
        figure.suptitle(_heading(run_state), x=0.01, ha="left", fontsize=11)
        grid = figure.add_gridspec(6, 2, width_ratios=(1.25, 1.0))
        rounds = [one for one in run_state.rounds if one.best is not None]
        fitness = figure.add_subplot(grid[:2, 0])
        metric = figure.add_subplot(grid[2:4, 0], sharex=fitness)
        times = figure.add_subplot(grid[4:, 0], sharex=fitness)
        _draw_fitness(fitness, rounds)
        _draw_metric(metric, run_state, rounds)
        _draw_times(times, [one for one in run_state.rounds if one.round_s is not None])
        times.set_xlabel("round")
        times.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in (fitness, metric):
            axes.tick_params(labelbottom=False)
        below = 3 if surface is not None else 6
        _draw_participation(figure, figure.add_subplot(grid[:below, 1]), run_state)
        if surface is not None:
            _draw_surface(figure, figure.add_subplot(grid[3:, 1]), *surface, inputs)
        return figure


def draw_comparison(run_states: Sequence[RunState], names: Sequence[str]) -> Figure:
    """Draw the curves of several runs under these names: fitness by round, the metric by the time of open rounds."""
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(10.5, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        for index, (run_state, name) in enumerate(zip(run_states, names, strict=True)):
            rounds = [one for one in run_state.rounds if one.best is not None]
            look: dict[str, Any] = {
                "color": PALETTE[index % len(PALETTE)],
                "linestyle": STYLES[index // len(PALETTE) % len(STYLES)],
                "label": _label(f"{name}: {run_state.algorithm}, seed {run_state.seed}"),
            }
            numbers = [one.round for one in rounds]
            left.plot(numbers, [one.best.fitness for one in rounds if one.best], **look)
            spent = np.cumsum([one.round_s or 0.0 for one in rounds])
            right.plot(spent, [one.best.value for one in rounds if one.best], drawstyle="steps-post", **look)
        left.set(title="Best fitness", xlabel="round", ylabel="minus the loss per row")
        left.xaxis.set_major_locator(MaxNLocator(integer=True))
        metrics = sorted({run_state.metric for run_state in run_states if run_state.metric})
        right.set(title=_label(" and ".join(metrics).capitalize()) or "Metric", xlabel="seconds of open rounds")
        if metrics == ["accuracy"]:
            _as_shares(right)
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=2)
        return figure


def save(figure: Figure, path: Path, mode: int) -> None:
    """Write `figure` in the format of the file's extension, with this mode; equal figures give equal bytes.

    Raises:
        OSError: the file cannot be written.
    """
    FigureCanvasAgg(figure)
    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix)
    with mpl.rc_context(SETTINGS):
        content = io.BytesIO()
        figure.savefig(content, format=path.suffix[1:], dpi=DPI, metadata=undated)
    write_whole(path, content.getvalue(), mode=mode)


def _label(text: str) -> str:
    """Return text of a run as it is written: printable, and no formula where it has dollar signs."""
    return printable(text).replace("$", r"\$")


def _heading(run_state: RunState) -> str:
    end = "not over yet" if run_state.finished is None else run_state.finished.verdict
    rule = f" ({run_state.robust})" if run_state.robust else ""
    count = max(one.round for one in run_state.rounds if one.closed_at is not None)
    about = f"{run_state.run}   {run_state.task}, {run_state.algorithm}{rule}, seed {run_state.seed}"
    return _label(f"{about}: {end}, {count} rounds")


def _draw_fitness(axes: Axes, rounds: Sequence[RoundRecord]) -> None:
    numbers = [one.round for one in rounds]
    bests = [one.best for one in rounds if one.best is not None]
    mark = "o" if len(rounds) <= 30 else ""
    best, mean = [one.fitness for one in bests], [one.fitness_mean for one in bests]
    axes.plot(numbers, best, color=BLUE, marker=mark, markersize=3, label="best")
    axes.plot(numbers, mean, color=ORANGE, marker=mark, markersize=3, label="mean")
    worst = [one.fitness_worst for one in bests]
    # The worst, and the first few means, may be far below the other values.
    low, high = float(np.quantile([*best, *mean], 0.02)), max(best)
    margin = (high - low or abs(high) or 1.0) * 0.12
    seen = "worst" if max(worst) > low - margin else None
    axes.plot(numbers, worst, color=GRAY, linewidth=0.9, linestyle=":", label=seen)
    axes.set_ylim(low - margin, high + margin)
    axes.set(title="Fitness", ylabel="minus the loss per row")
    _legend_above(axes)


def _draw_metric(axes: Axes, run_state: RunState, rounds: Sequence[RoundRecord]) -> None:
    values = [one.best.value for one in rounds if one.best is not None]
    axes.plot([one.round for one in rounds], values, color=GREEN, drawstyle="steps-post")
    axes.set(title="Accuracy" if run_state.metric == "accuracy" else "Loss, summed over all rows")
    if run_state.target is not None:
        axes.axhline(run_state.target, color=BLACK, linewidth=0.8, linestyle="--")
        axes.annotate(
            "target", (1.0, run_state.target), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8
        )
    if run_state.metric == "accuracy":
        _as_shares(axes)
    elif min(values) > 0 and max(values) > LOG_FROM * min(values):
        axes.set_yscale("log")


def _as_shares(axes: Axes) -> None:
    axes.set_ylim(-0.02, 1.08)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0], ["0 %", "25 %", "50 %", "75 %", "100 %"])


def _draw_times(axes: Axes, rounds: Sequence[RoundRecord]) -> None:
    took = [(one.round_s or 0.0) * 1000 for one in rounds]
    median = float(np.median(took))
    width = min(10.0, max(0.5, 260.0 / (rounds[-1].round - rounds[0].round + 2)))  # in points: bars do not touch
    for why, color in (("complete", SKY), ("buffer", BLUE), ("deadline", VERMILLION)):
        bars = [(one.round, 0, ms) for one, ms in zip(rounds, took, strict=True) if one.why == why]
        if bars:
            axes.vlines(*zip(*bars, strict=True), color=color, linewidth=width, label=why)
    axes.axhline(median, color=BLACK, linewidth=0.8, linestyle="--", label=f"median {median:.1f} ms")
    if median > 0 and max(took) > LOG_FROM * median:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set(title="Round time", ylabel="ms")
    _legend_above(axes)


def _draw_participation(figure: Figure, axes: Axes, run_state: RunState) -> None:
    """Draw the time of each trainer's result for each round, as far back as the run state holds."""
    closed = [one.round for one in run_state.rounds if one.closed_at is not None]
    first = max(closed[0], min((one.round for one in run_state.works), default=closed[0]))
    last = closed[-1]
    names = sorted(run_state.trainers)[:TRAINERS_MAX]
    works = [one for one in run_state.works if one.trainer in names and first <= one.round <= last]
    took = np.full((len(names), last - first + 1), np.nan)
    for one in works:
        took[names.index(one.trainer), one.round - first] = max(0.01, (one.ended_at - one.began_at) * 1000)
    answered = took[np.isfinite(took)]
    wide = answered.size > 0 and answered.max() > LOG_FROM * np.median(answered)
    axes.set_facecolor(PALE)
    image = axes.imshow(
        took,
        cmap="cividis",
        norm=LogNorm() if wide else None,
        aspect="auto",
        interpolation="nearest",
        extent=(first - 0.5, last + 0.5, len(names) - 0.5, -0.5),
    )
    if answered.size:
        figure.colorbar(image, ax=axes, label="ms to the result")
    late = [(one.round, names.index(one.trainer)) for one in works if one.staleness]
    if late:
        axes.plot(*zip(*late, strict=True), linestyle="", marker="x", markersize=4, color=VERMILLION, label="late")
    axes.grid(visible=False)
    for edge in np.arange(1, len(names)) - 0.5:
        axes.axhline(edge, color="white", linewidth=1.0 if len(names) <= 20 else 0.4)
    if last - first < CELLS_MAX:
        for edge in np.arange(first, last) + 0.5:
            axes.axvline(edge, color="white", linewidth=1.0)
    axes.set_yticks(range(len(names)), [_label(name) for name in names], fontsize=9 if len(names) <= 12 else 6)
    more = "" if len(run_state.trainers) <= len(names) else f", {len(names)} of {len(run_state.trainers)} trainers"
    axes.set(title=f"Results of trainers{more}", xlabel="round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if answered.size < took.size:
        axes.plot([], [], linestyle="", marker="s", markersize=8, color=PALE, label="no result")
    if axes.get_legend_handles_labels()[0]:
        _legend_above(axes)


def _legend_above(axes: Axes) -> None:
    """Place the legend on the line of the title, above the curves."""
    axes.legend(ncols=3, loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2, fontsize=8)


def _draw_surface(figure: Figure, axes: Axes, number: int, trained: TrainedModel, inputs: tuple[float, float]) -> None:
    low, high = inputs
    line = np.linspace(low, high, GRID)
    rows = np.stack([part.ravel() for part in np.meshgrid(line, line)], axis=1)
    extent = (low, high, low, high)
    look: dict[str, Any] = {"origin": "lower", "extent": extent, "interpolation": "nearest", "aspect": "equal"}
    network = trained.network()
    if network.output == "softmax" and network.outputs > 2:
        classes = trained.predict(rows).reshape(GRID, GRID)
        colors = [PALETTE[one % len(PALETTE)] for one in range(network.outputs)]
        axes.imshow(classes, cmap=ListedColormap(colors), vmin=-0.5, vmax=network.outputs - 0.5, alpha=0.75, **look)
        handles = [Patch(color=color, alpha=0.75, label=f"class {one}") for one, color in enumerate(colors)]
        axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.02, 0.5))
    else:
        softmax = network.output == "softmax"
        values = trained.probabilities(rows)[:, -1] if softmax else trained.predict(rows).reshape(len(rows), -1)[:, 0]
        scale: dict[str, Any] = {"vmin": 0.0, "vmax": 1.0} if softmax else {}
        image = axes.imshow(values.reshape(GRID, GRID), cmap="cividis", **scale, **look)
        figure.colorbar(image, ax=axes, label="probability of class 1" if softmax else "value", shrink=0.9)
        if softmax and values.min() < 0.5 < values.max():
            axes.contour(line, line, values.reshape(GRID, GRID), levels=[0.5], colors="white", linewidths=1.4)
    axes.grid(visible=False)
    axes.set(title=f"Best model after round {number}", xlabel="first input", ylabel="second input")
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
