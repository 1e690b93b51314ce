"""The commands `fedmq runs …` on folders of runs; those to live runs are in `control_commands`."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedmq.cli.echo import echo, echo_json
from fedmq.cli.lazy import LazyGroup
from fedmq.cli.options import COUNT, FOLDER, one_thread_for_arrays, option
from fedmq.errors import BadConfiguration
from fedmq.runs.control_commands import COMMANDS, control_command
from fedmq.runtime.run_folder import RUNS, folder_of

if TYPE_CHECKING:
    from fedmq.protocol.run_config import RunConfig
    from fedmq.runs.report import EarlierReport, Report
    from fedmq.runs.status import RunSummary

ROUNDS_SHOWN = 10
ROUND = click.IntRange(0, 2**53)

# Commands that only show runs belong to the dashboard.
OBSERVERS = {
    "compare": ("fedmq.dashboard.plots", "Compare runs: their settings, what they came to, their curves."),
    "plot": ("fedmq.dashboard.plots", "Draw a run: convergence, round times, who took part, the decision surface."),
}


@click.group(cls=LazyGroup, lazy=OBSERVERS)
def runs() -> None:
    """List, compare and plot runs; look after them; pause or stop a live one, keep a trainer out of it.

    \b
    Examples:
      fedmq runs ls
      fedmq runs show runs/xor-20260101-120000-ab12
      fedmq runs plot runs/xor-20260101-120000-ab12 -o history.svg
    """
    one_thread_for_arrays()


for action in COMMANDS:
    runs.add_command(control_command(action))


@runs.command()
@click.argument("folder", type=FOLDER, default=RUNS)
@option("--json", "as_json", is_flag=True, help="One JSON array.")
def ls(folder: Path, as_json: bool) -> None:
    """List the runs in FOLDER (runs, when not given), the newest first.

    \b
    Examples:
      fedmq runs ls
      fedmq runs ls /var/lib/fedmq --json
    """
    found = sorted(_summaries(folder), key=lambda one: one.started, reverse=True)
    if as_json:
        echo_json(found)
        return
    if not found:
        echo(f"no runs in {folder}; make one with: fedmq demo")
        return
    from fedmq.observe.console import PrintableConsole, PrintableTable

    table = PrintableTable(box=None, padding=(0, 2, 0, 0))
    for column in ("folder", "task", "algorithm", "state", "rounds", "value", "seed"):
        table.add_column(column, justify="right" if column in ("rounds", "value", "seed") else "left", no_wrap=True)
    for one in found:
        value = "" if one.value is None else f"{one.value:.6g}"
        value += " held out" if value and one.value_of == "held-out" else ""
        table.add_row(one.folder, one.task, one.algorithm, one.state, str(one.rounds), value, str(one.seed))
    PrintableConsole(width=None if sys.stdout.isatty() else 200).print(table)


def _begun_with(config: RunConfig) -> dict[str, object]:
    """Return what only some runs have: an earlier model, and secure sums."""
    start = {"from": f"the model with sha256 {config.started_from}"} if config.started_from else {}
    return {**start, "secure": "the aggregator learns totals of answers only"} if config.secure else {**start}


@runs.command()
@click.argument("run")
@option("--json", "as_json", is_flag=True, help="The report as JSON, with result.json in it.")
def show(run: str, as_json: bool) -> None:
    """Show RUN (a folder, or a name below runs): results, trainers, last rounds, coefficients or importances.

    \b
    Examples:
      fedmq runs show xor-20260101-120000-ab12
      fedmq runs show runs/by-hand --json
    """
    import msgspec

    from fedmq.observe.event_text import trainer_note
    from fedmq.runs.maintenance import open_store
    from fedmq.runs.report import EarlierReport, Report, read_findings, read_report
    from fedmq.runs.status import observe_run, status_text, summarize
    from fedmq.runtime.lock import is_locked

    folder = folder_of(run)
    report = read_report(folder)
    if as_json:
        shown = msgspec.to_builtins(summarize(folder, time.time()) if report is None else report)
        echo_json({**shown, "result": msgspec.to_builtins(read_findings(folder))})
        return
    if isinstance(report, EarlierReport):  # its store has another schema
        _print_values({"run": report.run, "task": report.task, "strategy": report.strategy, "seed": report.seed})
        closes, secure = [], False
    else:
        store, config = open_store(folder)
        closes, secure = list(store.closes()), config.secure
        store.close()
        _print_values({"run": config.run, "task": config.task.name, "algorithm": config.algorithm})
        about = {**_begun_with(config), "parameters": _listed(config.parameters), "seed": config.seed}
        _print_values({**about, "limits": _listed(msgspec.to_builtins(config.limits))})
    rounds = report.rounds if report is not None else closes[-1].round if closes else 0
    _print_values({"state": status_text(folder, time.time()), "rounds": rounds})
    if isinstance(report, Report) and report.failure:
        _print_values({"failure": report.failure})
    if is_locked(folder):
        _print_values({"watch": f"fedmq watch {folder}", "stop": f"fedmq runs stop {folder}"})
    elif report is not None:
        _show_report(report, folder)
    else:
        _print_values({"continue": f"fedmq aggregator --out {folder}"})
    if report is None:
        for one in observe_run(folder).trainers.values():
            if note := trainer_note(one.reason, one.detail, silent=one.presence == "silent"):
                echo(f"trainer    {one.name}: {note}")
    for close in closes[-ROUNDS_SHOWN:]:
        best = close.best
        fitness = "" if best is None else f"  fitness best {best.fitness:.4f} mean {best.fitness_mean:.4f}"
        took = f"{close.round_s * 1000:.1f} ms"
        what = f"secure sum of {close.results}" if secure else f"{close.results} results"
        echo(f"round {close.round:>4}  {what}  {took}  {close.why}{fitness}")
    _show_findings(folder)


def _show_findings(folder: Path) -> None:
    from fedmq.observe.genes_text import gene_lines
    from fedmq.observe.regression_text import importance_lines, regression_lines
    from fedmq.runs.report import read_findings

    findings = read_findings(folder)
    if findings is not None:
        for line in (*regression_lines(findings), *importance_lines(findings), *gene_lines(findings)):
            echo(line)


def _print_values(values: dict[str, object]) -> None:
    for name, value in values.items():
        echo(f"{name:<10} {value}")


def _listed(values: dict[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value not in (None, [], ())) or "none"


def _show_report(report: Report | EarlierReport, folder: Path) -> None:
    from fedmq.observe.event_text import baseline_lines, differences_text, metrics_text, spread_text, trainer_note

    value = "nothing scored" if report.value is None else f"{report.value:.6g}"
    training = f"{report.train_s:.3f} s (whole run {report.wall_s:.3f} s)"
    traffic = f"{report.bytes_down} bytes down, {report.bytes_up} bytes up"
    of_rows = " on held-out rows" if report.value_of == "held-out" and report.value is not None else ""
    _print_values({report.metric: value + of_rows, "training": training, "traffic": traffic})
    for name, figures in (("held out", report.held_out), ("trained on", report.training)):
        if figures is not None:
            _print_values({name: metrics_text(figures)})
    for line in baseline_lines(report.baselines) if report.baselines else ():
        echo(f"{'':10} {line}")
    if report.privacy:
        _print_values({"privacy": report.privacy})
    if report.spread is not None:
        _print_values({"by trainer": spread_text(report.spread)})
    if report.model is not None:
        echo(f"model      {folder / report.model}  sha256 {report.model_sha256}")
    for one in report.trainers:
        note = trainer_note(one.reason, one.detail, silent=one.silent)
        echo(
            f"trainer    {one.name}: {one.num_examples} rows, {one.results} results, {one.late} late, "
            f"{one.rejected} rejected, {one.resent} sent again{', ' * bool(note)}{note}"
        )
        if one.differences:
            _print_values({"warning": differences_text(one.name, one.differences)})


def _summaries(folder: Path) -> list[RunSummary]:
    from fedmq.runs.status import summarize
    from fedmq.runtime.run_folder import STORE

    if (folder / STORE).exists():
        raise BadConfiguration(f"{folder}: expected a folder of runs, got a run; fedmq runs show {folder}")
    if not folder.is_dir() and folder != RUNS:  # that one is made by the first run
        raise BadConfiguration(f"{folder}: expected a folder of runs, there is none; check the path")
    found = []
    for path in sorted(folder.glob(f"*/{STORE}")):
        try:
            found.append(summarize(path.parent, time.time()))
        except BadConfiguration as error:
            echo(f"fedmq: left out: {error}", err=True)
    return found


@runs.command()
@click.argument("run")
@option("--json", "as_json", is_flag=True, help="One JSON object.")
def replay(run: str, as_json: bool) -> None:
    """Compute the model of RUN (a folder, or a name below runs) again, from its accepted results alone.

    The SHA-256 that it prints is that of model.npz, bit for bit, however often the run was interrupted. Exit code 78
    when model.npz or the report is not of this model.

    \b
    Examples:
      fedmq runs replay runs/xor-20260101-120000-ab12
    """
    from fedmq.runs.maintenance import check_model, replay_run

    folder = folder_of(run)
    again = replay_run(folder)
    if as_json:
        echo_json(again._asdict())
    else:
        for name, value in again._asdict().items():
            echo(f"{name:<12} {value}")
    check_model(folder, again)


@runs.command()
@click.argument("run")
def verify(run: str) -> None:
    """Check every row and file of the store of RUN, and report how far it is whole. Exit code 78 when it is not.

    \b
    Examples:
      fedmq runs verify runs/xor-20260101-120000-ab12
    """
    from fedmq.runs.maintenance import open_store

    folder = folder_of(run)
    store, _ = open_store(folder)
    with store:
        problems, rounds = store.verify(), 0
        with suppress(BadConfiguration):  # `problems` says so
            for close in store.closes():
                list(store.results(close.round))
                rounds = close.round
    if problems:
        for problem in problems:
            echo(problem)
        raise BadConfiguration(
            f"{folder}: damaged, whole up to round {rounds}; "
            f"fedmq runs recover {folder} --to-round {rounds} keeps that much"
        )
    echo(f"{folder}: whole, {rounds} rounds")


@runs.command()
@click.argument("run")
@option("--to-round", type=ROUND, metavar="N", help="The last round to keep. [default: all that are whole]")
def recover(run: str, to_round: int | None) -> None:
    """Make a damaged store of RUN usable again: keep its rounds up to one, as far as they are whole.

    The damaged files stay beside the new ones, with .damaged behind their names. The run can be continued after that:
    what the trainers still hold they send again, other rounds are done again.

    \b
    Examples:
      fedmq runs recover runs/xor-20260101-120000-ab12
      fedmq runs recover runs/xor-20260101-120000-ab12 --to-round 17
    """
    from fedmq.runs.maintenance import recover as recover_store

    folder = folder_of(run)
    kept = recover_store(folder, to_round)
    echo(f"{folder}: {kept} rounds kept; continue with: fedmq aggregator --out {folder}")


@runs.command()
@click.argument("run")
@option("--keep-rounds", type=COUNT, default=1000, help="How many of the last rounds to keep at least.")
def gc(run: str, keep_rounds: int) -> None:
    """Drop the old rounds of RUN, and give their room back.

    What is left begins at a checkpoint (there is one every hundred rounds), so the run can still be continued and
    replayed.

    \b
    Examples:
      fedmq runs gc runs/long-run --keep-rounds 200
    """
    from fedmq.runs.maintenance import open_store

    folder = folder_of(run)
    store, _ = open_store(folder)
    with store:
        dropped = store.keep_last(keep_rounds)
        store.shrink()
    echo(f"{folder}: {dropped} rounds dropped")
