"""The command `fedmq demo`: run a broker, an aggregator and trainers on this machine, and print the trained model."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import click

from fedmq.cli.echo import echo, unread_output_dropped
from fedmq.cli.options import COUNT, NAME_OR_PATH, UserPath, one_thread_for_arrays, option, service_options
from fedmq.deploy.processes import Processes, free_port, listens
from fedmq.errors import BadConfiguration
from fedmq.runtime.loop import stop_signals
from fedmq.runtime.run_folder import MODEL, REPORT, RUNS, STORE

if TYPE_CHECKING:
    from fedmq.models.trained_model import TrainedModel
    from fedmq.tasks.task import Task

ROWS_SHOWN_MAX = PARAMETERS_SHOWN_MAX = 16
LOOK_S = 0.02
TRAINER_NAMES = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi")


@click.command()
@option(
    "--task",
    "task_name",
    type=NAME_OR_PATH,
    default="xor",
    metavar="NAME|FILE.py",
    help="xor, parity4, linear or a file.",
)
@option(
    "--trainers",
    type=click.IntRange(1, 200),
    metavar="N",
    help="Number of trainers that share the rows. [default: the task's]",
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
@option("--out", type=UserPath(path_type=Path), metavar="DIR", help="The run's folder. [default: runs/<run>]")
@option("--dashboard", is_flag=True, help="Serve a page of the run, until the run is over and no browser reads it.")
@option("--dashboard-port", type=click.IntRange(1, 65535), default=8550, metavar="PORT", help="The page's port.")
@option("--quiet", is_flag=True, help="Print errors only.")
@service_options
def demo(
    task_name: str,
    trainers: int | None,
    rounds: int | None,
    seed: int | None,
    algorithm: str | None,
    parameters: tuple[str, ...],
    out: Path | None,
    dashboard: bool,
    dashboard_port: int,
    quiet: bool,
) -> None:
    """Train a model on split rows across processes, in about a second.

    Starts a broker, an aggregator and the trainers as separate processes on 127.0.0.1; each trainer holds its part of
    the rows. A FILE.py defines `task` and rows(part, parts). Exit code 0 when the run is over.

    \b
    Examples:
      fedmq demo
      fedmq demo --task parity4 --trainers 4
      fedmq demo --task linear --algorithm averaging --seed 7
      fedmq demo --task FILE.py --trainers 3 --out runs/mine
      fedmq demo --dashboard
    """
    one_thread_for_arrays()
    from fedmq.aggregator.cli import new_name
    from fedmq.models.networks import Code
    from fedmq.tasks.task_file import find_task, task_rows

    task = find_task(task_name)
    count = trainers or task.trainers
    task_rows(task_name, 1, count)  # report an error in the rows once, before any file is written
    name = new_name(task.name)
    folder = out or RUNS / name
    if (folder / REPORT).exists():
        raise BadConfiguration(f"--out {folder}: expected a new folder, this one holds a finished run; choose another")
    arguments = ["--task", task_name, "--min-trainers", str(count)]
    arguments += ["--run", name, "--out", str(folder)]
    for flag, value in (("--rounds", rounds), ("--seed", seed), ("--algorithm", algorithm)):
        arguments += [] if value is None else [flag, str(value)]
    arguments += [text for pair in parameters for text in ("--param", pair)]
    arguments += ["--quiet"] if quiet else []
    score = ["--score", task_name] if isinstance(task.model, Code) else []  # local code needs no signature
    page = ["--port", str(dashboard_port), "--runs", str(folder.parent), "--until-over", name]
    try:
        code = _run(arguments, task_name, count, score, (dashboard_port, page) if dashboard else None)
    except SystemExit:
        again = shlex.join(["fedmq", *sys.argv[1:], *([] if out else ["--out", str(folder)])])
        unfinished = (folder / STORE).exists() and not (folder / REPORT).exists()
        echo("fedmq: interrupted" + f"; continue with: {again}" * unfinished, err=True)
        raise
    if not quiet and (folder / MODEL).exists():
        with unread_output_dropped():
            _show(task, task_name, folder)
    raise SystemExit(code)


def _run(arguments: list[str], task_name: str, count: int, score: list[str], page: tuple[int, list[str]] | None) -> int:
    """Run all services; return the exit code of the aggregator after the last reader of the page has disconnected.

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
        for part in range(1, count + 1):
            name = TRAINER_NAMES[part - 1] if count <= len(TRAINER_NAMES) else f"trainer-{part}"
            data = f"{task_name}:{part}/{count}"
            few = ("--min-rows", "1")  # the rows of a demo need no protection
            processes.start(name, "trainer", "--name", name, "--data", data, "--broker", broker, *few, *score)
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


def _show(task: Task, task_name: str, folder: Path) -> None:
    """Print the predictions for the rows of a small task, or the parameters; then the next command."""
    from fedmq.models.networks import Code
    from fedmq.models.trained_model import load_model

    trained = load_model(folder / MODEL)
    if isinstance(trained.model, Code):
        echo(f"  parameters: {' '.join(f'{value:.4g}' for value in trained.parameters[:PARAMETERS_SHOWN_MAX])}")
    else:
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
