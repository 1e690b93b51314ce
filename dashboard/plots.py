"""The commands `fedmq runs plot` and `fedmq runs compare`: what runs came to, as figures and as a table.

Reads folders of runs; knows nothing of live ones' networks, nor of how a figure is drawn.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click

from fedmq.cli.options import COUNT, FiniteRange, one_thread_for_arrays, option
from fedmq.errors import BadConfiguration
from fedmq.runtime.atomic_files import writing
from fedmq.runtime.run_folder import FIGURE, folder_of

if TYPE_CHECKING:
    from fedmq.models.trained_model import TrainedModel
    from fedmq.observe.run_state import RunState

FORMATS = (".png", ".svg", ".pdf")
PIPED_COLUMNS = 200
COLUMN_LETTERS = 14  # for a run at the least, and the room between
SETTINGS = ("task", "strategy", "robust", "seed", "rounds_max")  # the others are what came out

output_option = option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help=f"Where to; its ending says in which format: {', '.join(FORMATS)}.",
)


@click.command()
@click.argument("run")
@option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help=f"A .png, .svg or .pdf. [default: {FIGURE} in the run's folder]",
)
@option(
    "--round",
    "number",
    type=COUNT,
    metavar="K",
    help="The surface of that round's model. [default: the last]",
)
@option(
    "--inputs",
    nargs=2,
    type=FiniteRange(-1e9, 1e9),
    default=(-0.5, 1.5),
    metavar="LOW HIGH",
    help="Both axes of the surface.",
)
def plot(run: str, output: Path | None, number: int | None, inputs: tuple[float, float]) -> None:
    """Draw RUN (a folder, or a name below runs), over or not, as one figure.

    It shows the fitness, the metric and the time of each round, who answered when, and for a model with two inputs its
    decision surface. Needs matplotlib: pip install 'fedmq[plot]'.

    \b
    Examples:
      fedmq runs plot xor-20260101-120000-ab12
      fedmq runs plot runs/by-hand -o xor.svg --round 3
      fedmq runs plot runs/flowers -o flowers.png --inputs 0 7
    """
    one_thread_for_arrays()
    folder = folder_of(run)
    view = _view(folder)
    if view.best is None:
        raise BadConfiguration(f"{folder}: expected a closed round with a score, there is none yet; draw it later")
    if not inputs[0] < inputs[1]:
        raise BadConfiguration(f"--inputs: expected LOW below HIGH, got {inputs[0]:g} {inputs[1]:g}")
    figures = _figures()
    target = _checked(output or folder / FIGURE)
    if number is not None and number > (last := max(one.round for one in view.rounds if one.best is not None)):
        raise BadConfiguration(f"{folder}: --round {number}: expected a round that is closed, the last one is {last}")
    surface = _model(folder, view, number)
    _save(figures, figures.draw_run(view, surface, inputs), target)
    click.echo(target)


@click.command()
@click.argument("runs", nargs=-1, required=True)
@output_option
@option("--json", "as_json", is_flag=True, help="One JSON array.")
def compare(runs: tuple[str, ...], output: Path | None, as_json: bool) -> None:
    """Compare RUNS (folders, or names below runs): a line for each figure, marked where they differ.

    With -o their curves are drawn, too: the fitness by round, the metric by time. That needs matplotlib: pip install
    'fedmq[plot]'.

    \b
    Examples:
      fedmq runs compare runs/one runs/two
      fedmq runs compare runs/one runs/two -o curves.svg
      fedmq runs compare runs/* --json
    """
    one_thread_for_arrays()
    import msgspec

    views = [_view(folder_of(run)) for run in runs]
    rows = [row_of(view) for view in views]
    if output is not None:
        figures, target = _figures(), _checked(output)
        _save(figures, figures.draw_comparison(views), target)
    if as_json:
        click.echo(msgspec.json.encode(rows).decode())
        return
    _print(rows)
    if output is not None:
        click.echo(output)


def row_of(view: RunState) -> dict[str, Any]:
    """What `compare` says of one run; times in seconds, traffic in bytes as the aggregator saw it."""
    closed = [one for one in view.rounds if one.round_s is not None]
    return {
        "run": view.run,
        "task": view.task,
        "strategy": view.strategy,
        "robust": view.robust,
        "seed": view.seed,
        "rounds_max": view.rounds_max,
        "solved": view.finished is not None and view.finished.solved,
        "rounds": closed[-1].round if closed else 0,
        "metric": view.metric,
        "value": None if view.best is None else view.best.value,
        "train_s": view.train_s,
        "round_s_median": statistics.median(one.round_s or 0.0 for one in closed) if closed else None,
        "trainers": len(view.trainers),
        "results": view.results,
        "late": view.late,
        "rejected": sum(view.rejections.values()),
        "bytes_up": view.bytes_up,
        "bytes_down": view.bytes_down,
    }


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from fedmq.observe.event_text import printable

    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for _ in range(2):  # the mark and the name of the figure keep their room,
        table.add_column(no_wrap=True)
    for _ in rows:  # and names of runs go on below where there are too many
        table.add_column(overflow="fold")
    for name in rows[0]:
        texts = [printable(_text(row[name])) for row in rows]
        differs = name != "run" and len(set(texts)) > 1
        style = "bold" if name == "run" or (differs and name in SETTINGS) else ""
        table.add_row("≠" if differs else "", Text(name, style="dim"), *(Text(text, style=style) for text in texts))
    width = Console().width if sys.stdout.isatty() else PIPED_COLUMNS
    Console(width=max(width, COLUMN_LETTERS * (2 + len(rows)))).print(table, soft_wrap=True)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else f"{value}"


def _view(folder: Path) -> RunState:
    from fedmq.observe.event_log import read_run_state
    from fedmq.runtime.run_folder import EVENTS

    view = read_run_state(folder / EVENTS)
    if not view.run:
        raise BadConfiguration(f"{folder}: expected the folder of a run with {EVENTS} in it; fedmq runs ls lists runs")
    return view


def _model(folder: Path, view: RunState, number: int | None) -> tuple[int, TrainedModel] | None:
    """The model whose surface is drawn, and the round that was closed with it; None where there is nothing to draw.

    Raises:
        BadConfiguration: that of one round is wanted, and was not told.
    """
    import numpy as np

    from fedmq.models.code import Code
    from fedmq.models.trained_model import TrainedModel, load_model
    from fedmq.runtime.run_folder import MODEL

    model = view.model
    if model is not None and not isinstance(model, Code) and model.inputs == 2:
        told = [one for one in view.bests if number is None or one.round <= number]
        if told:
            return number or told[-1].round, TrainedModel(
                model, np.frombuffer(told[-1].genes, "<f8").astype(np.float64), view.task
            )
        if number is None and (folder / MODEL).exists():
            return max(one.round for one in view.rounds if one.best is not None), load_model(folder / MODEL)
    if number is not None:
        raise BadConfiguration(
            f"{folder}: --round {number}: expected a model with two inputs and few weights, of which each round is told"
        )
    return None


def _figures() -> ModuleType:
    try:
        from fedmq.dashboard import figures
    except ModuleNotFoundError as error:
        raise BadConfiguration("plots need matplotlib: pip install 'fedmq[plot]'") from error
    return figures


def _checked(path: Path) -> Path:
    if path.suffix not in FORMATS:
        raise BadConfiguration(f"{path}: expected a name that ends in {', '.join(FORMATS)}")
    return path


def _save(figures: ModuleType, figure: Any, path: Path) -> None:
    with writing(path, "choose another -o"):
        figures.save(figure, path)
