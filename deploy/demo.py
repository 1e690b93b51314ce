"""The command `fedmq demo`: run a broker, an aggregator and trainers on this machine, and print the trained model."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import click
from click.core import ParameterSource

from fedmq.cli.echo import echo, unread_output_dropped
from fedmq.cli.options import (
    COUNT,
    NAME_OR_PATH,
    FiniteRange,
    UserPath,
    UserText,
    one_thread_for_arrays,
    option,
    service_options,
)
from fedmq.deploy.processes import Processes, free_port, listens
from fedmq.errors import BadConfiguration
from fedmq.names import names_of_sources, own_names
from fedmq.runtime.loop import stop_signals
from fedmq.runtime.run_folder import MODEL, REPORT, RUNS, STORE

if TYPE_CHECKING:
    from fedmq.models.trained_model import TrainedModel
    from fedmq.tasks.row_views import RowViews
    from fedmq.tasks.task import Task

ROWS_SHOWN_MAX = PARAMETERS_SHOWN_MAX = 16
LOOK_S = 0.02


@click.command()
@click.argument("task_argument", metavar="[TASK]", type=NAME_OR_PATH, required=False)
@option(
    "--task",
    "task_option",
    type=NAME_OR_PATH,
    metavar="NAME|FILE",
    help="The same as TASK. [default: xor]",
)
@option("--learner", type=NAME_OR_PATH, metavar="FILE.py:NAME", help="As for fedmq trainer: of each trainer.")
@click.option(
    "--data",
    "sources",
    type=UserText(),
    multiple=True,
    metavar="DATA",
    help="Rows of one trainer, as for fedmq trainer --data; repeat it for each. With --trainers, one table for all. "
    "[default: the task's own rows]",
)
@option(
    "--trainers",
    type=click.IntRange(1, 200),
    metavar="N",
    help="Number of trainers that share the task's own rows, or those of --data, in parts. [default: the task's]",
)
@option(
    "--holdout",
    type=FiniteRange(0, 0.9),
    metavar="SHARE",
    help="Share of the rows of each trainer that is scored and never trained on. [default: the task's]",
)
@option("--rounds", type=COUNT, metavar="N", help="Maximum number of rounds. [default: the task's]")
@option(
    "--seed",
    type=click.IntRange(0, 2**53),
    metavar="S",
    help="Seed of all random draws. [default: drawn, and printed]",
)
@option("--algorithm", type=NAME_OR_PATH, metavar="NAME", help="As for fedmq aggregator. [default: evolution]")
@option("--param", "parameters", multiple=True, metavar="NAME=VALUE", help="As for fedmq aggregator.")
@option("--from", "start", type=NAME_OR_PATH, metavar="RUN", help="As for fedmq aggregator.")
@option("--baselines", is_flag=True, help="Train each trainer alone and all rows pooled as well, and compare.")
@option("--out", type=UserPath(path_type=Path), metavar="DIR", help="The run's folder. [default: runs/<run>]")
@option("--dashboard", is_flag=True, help="Serve a page of the run, until the run is over and no browser reads it.")
@option("--dashboard-port", type=click.IntRange(1, 65535), default=8550, metavar="PORT", help="The page's port.")
@option("--quiet", is_flag=True, help="Print errors only.")
@service_options
def demo(
    task_argument: str | None,
    task_option: str | None,
    learner: str | None,
    sources: tuple[str, ...],
    trainers: int | None,
    holdout: float | None,
    rounds: int | None,
    seed: int | None,
    algorithm: str | None,
    parameters: tuple[str, ...],
    start: str | None,
    baselines: bool,
    out: Path | None,
    dashboard: bool,
    dashboard_port: int,
    quiet: bool,
) -> None:
    """Train a model on split rows across processes, in about a second.

    Starts a broker, an aggregator and the trainers as separate processes on 127.0.0.1; each trainer holds its part of
    the rows. TASK is xor, parity4, linear, a FILE.toml of fedmq new, or a FILE.py that defines `task` and, without
    --data, rows(part, parts). Exit code 0 when the run is over.

    \b
    Examples:
      fedmq demo
      fedmq demo tumor.toml --data north.csv --data south.csv --data west.csv
      fedmq demo tumor.toml --data tumor.csv --trainers 10
      fedmq demo --task parity4 --trainers 4
      fedmq demo --task linear --algorithm averaging --seed 7
      fedmq demo --task FILE.py --trainers 3 --out runs/mine
      fedmq demo --dashboard
    """
    one_thread_for_arrays()
    from fedmq.aggregator.cli import new_name
    from fedmq.data.readers import load_data, load_rows
    from fedmq.models.networks import Code
    from fedmq.models.torch_model import Torch
    from fedmq.tasks.row_views import RowViews
    from fedmq.tasks.task_file import find_task

    typed = click.get_current_context().get_parameter_source("task_option") == ParameterSource.COMMANDLINE
    if task_argument and typed:
        raise click.UsageError(f"expected TASK or --task, got {task_argument} and {task_option}: give one")
    task_name = task_argument or task_option or "xor"
    task = find_task(task_name, algorithm).with_holdout(holdout)
    rows_of = _rows_of(task, task_name, sources, trainers)
    names = () if task.schema is None else tuple(task.schema.names())
    views = {}  # an error in the rows is reported once, before any file is written
    for one, source in rows_of.items() if sources or baselines else ():
        views[one] = RowViews(task, load_rows(source) if task.schema is None else load_data(source, names))
    if baselines and not task.holdout:
        raise click.UsageError("--baselines: expected rows to compare on, got none: add --holdout 0.2")
    name = new_name(task.name)
    folder = out or RUNS / name
    if (folder / REPORT).exists():
        raise BadConfiguration(f"--out {folder}: expected a new folder, this one holds a finished run; choose another")
    arguments = ["--task", task_name, "--min-trainers", str(len(rows_of))]
    arguments += ["--run", name, "--out", str(folder)]
    for flag, value in (
        ("--holdout", holdout),
        ("--rounds", rounds),
        ("--seed", seed),
        ("--algorithm", algorithm),
        ("--from", start),
    ):
        arguments += [] if value is None else [flag, str(value)]
    arguments += [text for pair in parameters for text in ("--param", pair)]
    arguments += ["--quiet"] if quiet else []
    own = ["--learner", learner] if learner else []
    score = (
        ["--score", task_name] if isinstance(task.model, Code | Torch) and not own else []
    )  # local: needs no signature
    page = ["--port", str(dashboard_port), "--runs", str(folder.parent), "--until-over", name]
    try:
        code = _run(arguments, rows_of, [*own, *score], (dashboard_port, page) if dashboard else None)
    except SystemExit:
        again = shlex.join(["fedmq", *sys.argv[1:], *([] if out else ["--out", str(folder)])])
        unfinished = (folder / STORE).exists() and not (folder / REPORT).exists()
        echo("fedmq: interrupted" + f"; continue with: {again}" * unfinished, err=True)
        raise
    if baselines and (folder / MODEL).exists():
        _compare(folder, views, quiet=quiet)
    if not quiet and (folder / MODEL).exists():
        with unread_output_dropped():
            _show(task, None if sources else task_name, folder)
    raise SystemExit(code)


def _rows_of(task: Task, task_name: str, sources: Sequence[str], trainers: int | None) -> dict[str, str]:
    """Return the rows of each trainer, as --data names them, by the name of the trainer.

    Raises:
        BadConfiguration: the task has no rows of its own, and none are given.
        BadData: its own rows cannot be used.
    """
    from fedmq.tasks.task_file import task_rows

    if sources:
        if trainers is not None and len(sources) > 1:
            raise click.UsageError("expected one --data with --trainers, which split its rows, or one for each trainer")
        if trainers is not None:
            return {f"site-{part}": f"{sources[0]}:{part}/{trainers}" for part in range(1, trainers + 1)}
        return dict(zip(names_of_sources(sources), sources, strict=True))
    if task.schema is not None:
        raise BadConfiguration(f"{task_name}: expected --data with the table of each trainer, got none: repeat --data")
    count = trainers or task.trainers
    task_rows(task_name, 1, count)
    names = own_names(count)
    return {name: f"{task_name}:{part}/{count}" for part, name in enumerate(names, 1)}


def _compare(folder: Path, views: Mapping[str, RowViews], *, quiet: bool) -> None:
    """Train without federation as well, and add that to the report."""
    from fedmq.algorithms.baselines import baselines
    from fedmq.observe.event_text import baseline_lines
    from fedmq.runs.report import Report, add_baselines, read_report

    report = read_report(folder)
    assert isinstance(report, Report)
    config = report.config
    found = baselines(config.algorithm, config.parameters, config.task, config.seed, config.limits.rounds_max, views)
    report = add_baselines(folder, found)
    if not quiet and report.held_out is not None:
        echo(f"What federation buys, on {report.held_out.rows} held-out rows of {report.held_out.trainers} trainers:")
        for line in baseline_lines(report.baselines):
            echo(f"  {line}")


def _run(
    arguments: list[str], rows_of: Mapping[str, str], options: list[str], page: tuple[int, list[str]] | None
) -> int:
    """Run all services, with the rows of each trainer by its name; return the exit code of the aggregator.

    It returns after the last reader of the page has disconnected.
    `page` is a port and the arguments of the dashboard, which starts before the run.

    Raises:
        SystemExit: a signal ended the demo; all services have stopped.
    """
    for number in stop_signals(signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _end)
    port = free_port()
    broker = f"tcp://127.0.0.1:{port}"
    with Processes() as processes:
        processes.start("broker", "broker", "--port", str(port))
        reader = None
        if page is not None:
            reader = processes.start("dashboard", "dashboard", *page[1], "--broker", broker, quiet=False)
            while reader.poll() is None and not listens(page[0]):
                time.sleep(LOOK_S)
        aggregator = processes.start("aggregator", "aggregator", *arguments, "--broker", broker, quiet=False)
        for name, data in rows_of.items():
            few = ("--min-rows", "1")  # the rows of a demo need no protection
            processes.start(name, "trainer", "--name", name, "--data", data, "--broker", broker, *few, *options)
        code = _wait(processes, aggregator)
        if reader is not None and code in (0, 1):
            reader.wait()
        return code


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)  # a shell's exit code for a signal


def _wait(processes: Processes, aggregator: subprocess.Popen[bytes]) -> int:
    while True:
        try:
            return int(aggregator.wait(0.2))
        except subprocess.TimeoutExpired:
            exited = [name for name in processes.exited() if name != "aggregator"]
        if exited:
            code = processes.running[exited[0]].returncode
            echo(f"fedmq demo: {', '.join(exited)} ended with exit code {code}; see above", err=True)
            return code if code > 0 else 1


def _show(task: Task, task_name: str | None, folder: Path) -> None:
    """Print the predictions for the task's own rows if they are few, or the parameters; then the next command."""
    from fedmq.models.networks import Code
    from fedmq.models.trained_model import load_model
    from fedmq.observe.genes_text import gene_lines
    from fedmq.runs.report import read_findings

    trained, findings = load_model(folder / MODEL), read_findings(folder)
    if findings is not None and findings.genes:
        for line in gene_lines(findings):
            echo(f"  {line}")
    elif isinstance(trained.model, Code):
        echo(f"  parameters: {' '.join(f'{value:.4g}' for value in trained.parameters[:PARAMETERS_SHOWN_MAX])}")
    elif task_name is not None:
        _show_predictions(task, task_name, trained)
    report = json.loads((folder / REPORT).read_text())
    names = ", ".join(one["name"] for one in report["trainers"])
    echo(f"No trainer received rows of another: {names} exchanged only rounds and results with the aggregator.")
    echo(f"Next: fedmq runs show {folder}")


def _show_predictions(task: Task, task_name: str, trained: TrainedModel) -> None:
    from fedmq.tasks.task_file import task_rows

    rows = task.fit(task_rows(task_name, 1, 1))
    predictions = trained.predict(rows.inputs)
    if len(predictions) > ROWS_SHOWN_MAX:
        return
    for inputs, target, prediction in zip(rows.inputs, rows.targets, predictions, strict=True):
        text = " ".join(f"{value:g}" for value in inputs)
        mark = "" if task.metric != "accuracy" else "  right" if prediction == target else "  wrong"
        echo(f"  {text} -> {prediction:.6g}   (expected {target:g}){mark}")
