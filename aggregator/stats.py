"""The command `fedmq stats`: statistics of the columns over all sites, without training."""

from __future__ import annotations

import shutil
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedmq.aggregator.cli import new_name, run_training
from fedmq.cli.echo import echo, echo_json
from fedmq.cli.options import (
    COUNT,
    NAME_OR_PATH,
    SECONDS,
    UserPath,
    edge_options,
    one_thread_for_arrays,
    option,
    service_options,
)
from fedmq.errors import BadConfiguration, RunFailed
from fedmq.runtime.run_folder import RUNS, STORE, folder_of

if TYPE_CHECKING:
    from fedmq.algorithms.findings import Findings
    from fedmq.tasks.task import Task

PIPED_COLUMNS = 130
ALGORITHM = "statistics"


@click.command()
@click.argument("subject", metavar="TASK|RUN", type=NAME_OR_PATH)
@click.option("--columns", metavar="A,B", help="Ask about these columns only. [default: all of the task]")
@click.option("--correlation", is_flag=True, help="Ask for the correlation of each pair of columns, too.")
@option("--min-trainers", type=COUNT, metavar="N", help="As for fedmq aggregator. [default: the task's]")
@option("--wait", "wait_s", type=SECONDS, metavar="SECONDS", help="As for fedmq aggregator. [default: for ever]")
@option("--out", type=UserPath(path_type=Path), metavar="DIR", help="The run's folder. [default: runs/<run>]")
@option("--json", "as_json", is_flag=True, help="Print the statistics as JSON.")
@edge_options
@service_options
def stats(
    subject: str,
    columns: str | None,
    correlation: bool,
    min_trainers: int | None,
    wait_s: float | None,
    out: Path | None,
    as_json: bool,
    broker: str | None,
    keys: Path | None,
    connect_timeout: float | None,
) -> None:
    """Print statistics of the columns of a TASK over the rows of all sites, or those that a RUN has begun with.

    For a task, the trainers at the broker are asked for sums only: counts, missing values, means, deviations,
    quantiles, histograms, and rows by category and class. It takes three rounds. No row leaves its site, and smallest
    and largest values are known within bounds. Trainers of the task must be there, as for fedmq aggregator.

    \b
    Examples:
      fedmq stats tumor.toml
      fedmq stats tumor.toml --columns mean_radius,mean_area --correlation
      fedmq stats tumor.toml --json
      fedmq stats runs/tumor-20260101-120000-ab12
    """
    one_thread_for_arrays()
    if (folder_of(subject) / STORE).exists():
        if columns or out or correlation:
            raise click.UsageError("expected a task with --columns, --correlation and --out, got a run: leave them out")
        folder = folder_of(subject)
    else:
        task = _task(subject, columns)
        name = new_name(f"{task.name}-stats")
        folder = out or RUNS / name
        report = run_training(
            task,
            name,
            folder,
            algorithm=ALGORITHM,
            parameters={"correlation": True} if correlation else {},
            wait_s=wait_s,
            quiet=True,
            broker=broker,
            keys=keys,
            connect_timeout=connect_timeout,
            limits={"min_trainers": min_trainers},
        )
        if report.why == "failed":
            raise RunFailed(report.failure)
    from fedmq.runs.report import read_findings

    findings = read_findings(folder)
    if findings is None or not findings.columns:
        raise BadConfiguration(f"{subject}: expected a run with statistics of its columns, got one without")
    if as_json:
        echo_json(findings)
    else:
        _print(findings, folder)


def _task(name_or_path: str, columns: str | None) -> Task:
    """Return the task, of all rows and with the columns that are asked for.

    Raises:
        BadConfiguration: there is no such task or column.
    """
    import msgspec

    from fedmq.tasks.builtin import TASK_NAMES
    from fedmq.tasks.table_task import is_task_data, read_task_file, task_of
    from fedmq.tasks.task_file import find_task

    if not is_task_data(name_or_path):
        if columns:
            raise BadConfiguration(f"--columns: expected a FILE.toml, whose columns have names, got {name_or_path}")
        if name_or_path not in TASK_NAMES and not name_or_path.endswith(".py"):
            raise BadConfiguration(
                f"expected a task ({', '.join(TASK_NAMES)}, a FILE.toml or a FILE.py) or a run, got "
                f"{name_or_path!r:.80}: fedmq runs ls lists the runs"
            )
        return find_task(name_or_path, ALGORITHM)
    file = read_task_file(Path(name_or_path))
    if columns:
        chosen = [name.strip() for name in columns.split(",") if name.strip()]
        for name in chosen:
            if name not in file.columns:
                near = get_close_matches(name, file.columns, 1)
                hint = f", nearest: {near[0]}" if near else ""
                raise BadConfiguration(f"--columns: expected columns of {name_or_path}, got {name!r:.80}{hint}")
        kept = {
            name: one if name in chosen else msgspec.structs.replace(one, kind="ignored")
            for name, one in file.columns.items()
        }
        file = msgspec.structs.replace(file, columns=kept)
    return task_of(msgspec.structs.replace(file, model=None, holdout=0.0), ALGORITHM)


def _print(findings: Findings, folder: Path) -> None:
    from fedmq.observe.console import PrintableConsole
    from fedmq.observe.statistics_table import classes_line, correlation_table, statistics_table

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPED_COLUMNS
    echo(f"{findings.num_examples} rows at all sites together")
    if findings.classes:
        echo(f"classes: {classes_line(findings.classes)}")
    console = PrintableConsole(width=width)
    console.print(statistics_table(findings, width))
    if findings.correlations:
        echo("correlations, the strongest first")
        console.print(correlation_table(findings))
    echo(f"kept in {folder / 'result.json'}")
