"""The commands `fedmq runs plot` and `fedmq runs compare`: runs in folders, as figures and as a table."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click

from fedmq.cli.echo import echo, echo_json
from fedmq.cli.options import COUNT, FILE, FiniteRange, one_thread_for_arrays, option, require
from fedmq.errors import BadConfiguration
from fedmq.runtime.atomic_files import SHARED_FILE, writing
from fedmq.runtime.run_folder import FIGURE, folder_of
from fedmq.runtime.safe_files import PRIVATE_FILE

if TYPE_CHECKING:
    from fedmq.models.trained_model import TrainedModel
    from fedmq.observe.run_state import RunState

FORMATS = (".png", ".svg", ".pdf")
FORMATS_TEXT = f"File to write, in the format of its extension: {', '.join(FORMATS)}"
COORDINATE = FiniteRange(-1e9, 1e9)
PIPED_COLUMNS = 200
COLUMN_WIDTH_MIN = 14  # of a run, with the space between columns
SETTINGS = ("task", "algorithm", "robust", "seed", "rounds_max")  # the other rows are outcomes


@click.command()
@click.argument("run")
@option("-o", "--output", type=FILE, metavar="FILE", help=f"{FORMATS_TEXT}. [default: {FIGURE} in the run's folder]")
@option("--round", "number", type=COUNT, metavar="K", help="Draw the best model of round K. [default: the last]")
@option("--inputs", nargs=2, type=COORDINATE, default=(-0.5, 1.5), metavar="LOW HIGH", help="Axes of the surface.")
def plot(run: str, output: Path | None, number: int | None, inputs: tuple[float, float]) -> None:
    """Draw RUN (a folder, or a name below runs), live or finished, as one figure.

    It shows fitness, metric and time by round, the work of each trainer, and the decision surface of a model with two
    inputs. Needs matplotlib: pip install 'fedmq[plot]'.

    \b
    Examples:
      fedmq runs plot xor-20260101-120000-ab12
      fedmq runs plot runs/by-hand -o xor.svg --round 3
      fedmq runs plot runs/flowers -o flowers.png --inputs 0 7
    """
    one_thread_for_arrays()
    folder = folder_of(run)
    run_state = _run_state(folder)
    if run_state.best is None:
        raise BadConfiguration(f"{folder}: expected a closed round with a score, got none yet: draw it later")
    if not inputs[0] < inputs[1]:
        raise BadConfiguration(f"--inputs: expected LOW below HIGH, got {inputs[0]:g} {inputs[1]:g}")
    target, mode = (folder / FIGURE, PRIVATE_FILE) if output is None else (output, SHARED_FILE)
    figures = _figures(target)
    if number is not None and number > (last := _last_scored(run_state)):
        raise BadConfiguration(f"{folder}: expected --round of a closed round, at most {last}, got {number}")
    surface = _surface_model(folder, run_state, number)
    with writing(target, "choose another -o"):
        figures.save(figures.draw_run(run_state, surface, inputs), target, mode)
    echo(target)


@click.command()
@click.argument("runs", nargs=-1, required=True)
@option("-o", "--output", type=FILE, metavar="FILE", help=f"{FORMATS_TEXT}.")
@option("--json", "as_json", is_flag=True, help="One JSON array.")
def compare(runs: tuple[str, ...], output: Path | None, as_json: bool) -> None:
    """Compare RUNS (folders, or names below runs): a line for each figure, marked if it differs.

    With -o, also draw their curves: the fitness by round, the metric by time. That needs matplotlib: pip install
    'fedmq[plot]'.

    \b
    Examples:
      fedmq runs compare runs/one runs/two
      fedmq runs compare runs/one runs/two -o curves.svg
      fedmq runs compare runs/* --json
    """
    one_thread_for_arrays()
    states = [_run_state(folder_of(run)) for run in runs]
    rows = [{"folder": run, **comparison_row(state)} for run, state in zip(runs, states, strict=True)]
    if output is not None:
        figures = _figures(output)
        with writing(output, "choose another -o"):
            figures.save(figures.draw_comparison(states, runs), output, SHARED_FILE)
    if as_json:
        echo_json(rows)
        return
    _print(rows)
    if output is not None:
        echo(output)


def comparison_row(run_state: RunState) -> dict[str, Any]:
    """Return the figures of one run for `compare`; times in seconds, traffic in bytes at the aggregator."""
    closed = [one for one in run_state.rounds if one.round_s is not None]
    return {
        "run": run_state.run,
        **{name: getattr(run_state, name) for name in SETTINGS},
        "solved": run_state.finished is not None and run_state.finished.solved,
        "rounds": closed[-1].round if closed else 0,
        "metric": run_state.metric,
        "value": None if run_state.best is None else run_state.best.value,
        "train_s": run_state.train_s,
        "round_s_median": statistics.median(one.round_s or 0.0 for one in closed) if closed else None,
        "trainers": len(run_state.trainers),
        "results": run_state.results,
        "late": run_state.late,
        "rejected": sum(run_state.rejections.values()),
        "bytes_up": run_state.bytes_up,
        "bytes_down": run_state.bytes_down,
    }


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.text import Text

    from fedmq.observe.console import PrintableConsole, PrintableTable

    table = PrintableTable(box=None, padding=(0, 2, 0, 0), show_header=False)
    for _ in range(2):  # the mark and the name of the figure
        table.add_column(no_wrap=True)
    for _ in rows:
        table.add_column(overflow="fold")  # long names of runs wrap
    named = any(Path(row["folder"]).name != row["run"] for row in rows)  # else the names of the runs say it all
    for name in [name for name in rows[0] if named or name != "folder"]:
        texts = [_text(row[name]) for row in rows]
        differs = name not in ("folder", "run") and len(set(texts)) > 1
        style = "bold" if name in ("folder", "run") or (differs and name in SETTINGS) else ""
        table.add_row("≠" if differs else "", Text(name, style="dim"), *(Text(text, style=style) for text in texts))
    width = PrintableConsole().width if sys.stdout.isatty() else PIPED_COLUMNS
    PrintableConsole(width=max(width, COLUMN_WIDTH_MIN * (2 + len(rows)))).print(table, soft_wrap=True)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else f"{value}"


def _run_state(folder: Path) -> RunState:
    from fedmq.runs.status import observe_run
    from fedmq.runtime.run_folder import EVENTS

    run_state = observe_run(folder)
    if not run_state.run:
        raise BadConfiguration(
            f"{folder}: expected the folder of a run, but {EVENTS} is missing or holds no events; "
            "fedmq runs ls lists runs"
        )
    return run_state


def _last_scored(run_state: RunState) -> int:
    return max(one.round for one in run_state.rounds if one.best is not None)


def _surface_model(folder: Path, run_state: RunState, number: int | None) -> tuple[int, TrainedModel] | None:
    """Return the model to draw the surface of, with its round; None if it has no surface."""
    import numpy as np

    from fedmq.models.networks import Code
    from fedmq.models.trained_model import load_model
    from fedmq.observe.events import BEST_PARAMETERS_MAX
    from fedmq.runtime.run_folder import MODEL

    model, config = run_state.model, run_state.config
    if config is not None and model is not None and not isinstance(model, Code) and model.inputs == 2:
        bests = [one for one in run_state.bests if number is None or one.round <= number]
        if bests:
            parameters = np.frombuffer(bests[-1].parameters, "<f8").astype(np.float64)
            return number or bests[-1].round, config.task.trained(parameters)
        if number is None and (folder / MODEL).exists():
            return _last_scored(run_state), load_model(folder / MODEL)
    if number is not None:
        raise BadConfiguration(
            f"{folder}: --round {number}: expected a model with two inputs and at most {BEST_PARAMETERS_MAX} "
            "parameters, because events hold no others"
        )
    return None


def _figures(target: Path) -> ModuleType:
    """Load matplotlib, and check that it can write `target`."""
    require("matplotlib", "plot")
    from fedmq.dashboard import figures

    if target.suffix not in FORMATS:
        raise BadConfiguration(f"{target}: expected a name that ends in {', '.join(FORMATS)}")
    return figures
