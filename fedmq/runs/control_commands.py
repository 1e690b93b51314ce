"""The commands `fedmq runs …` that say something to a live run, through the broker, and wait until it has heard.

Knows the run's folder only to find its name; what is done about it the run's own aggregator decides.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedmq.cli.options import broker_option, check_name
from fedmq.errors import BadConfiguration
from fedmq.names import NAME_PATTERN
from fedmq.runtime.run_folder import folder_of

if TYPE_CHECKING:
    from fedmq.protocol.messages import Action


def _ask(
    action: Action, run: str, broker: str | None, keys: Path | None, told: str, trainer: str | None = None
) -> None:
    """Have a live run do something, and wait until it has heard."""
    from fedmq.runs.control_client import open_operator
    from fedmq.runtime.clock import SystemClock
    from fedmq.runtime.loop import serve
    from fedmq.security.keyring import find_broker

    name = _name(run, action)
    clock = SystemClock()
    address, credentials = find_broker(broker, keys, "aggregator")
    operator, link = open_operator(address, credentials, name, action, clock=clock, trainer=trainer)
    try:
        serve(operator, link, clock)
    finally:
        link.close()
    if not operator.acked_request:
        raise click.Abort
    click.echo(told)


def _name(run: str, action: Action) -> str:
    """Of a run by its folder, by its folder's name below `runs`, or by its own name."""
    from fedmq.runs.maintenance import open_store
    from fedmq.runs.report import read_report
    from fedmq.runtime.lock import is_locked
    from fedmq.runtime.run_folder import STORE

    name, folder = run, folder_of(run)
    if (folder / STORE).exists():
        store, config = open_store(folder)
        store.close()
        name = config.run
        if (report := read_report(folder)) is not None and not is_locked(folder):
            raise BadConfiguration(f"{folder}: the run is over after {report.rounds} rounds; it cannot {action}")
    if not re.match(NAME_PATTERN, name):
        raise BadConfiguration(f"expected the name or the folder of a run, got {run!r}; fedmq runs ls lists them")
    return name


trainer_argument = click.argument("trainer", callback=check_name)


@click.command()
@click.argument("run")
@broker_option
def pause(run: str, broker: str | None, keys: Path | None) -> None:
    """Let the live run RUN close its open round, and open no other until it is resumed.

    \b
    Examples:
      fedmq runs pause xor-20260101-120000-ab12
    """
    _ask("pause", run, broker, keys, f"{run} is paused; fedmq runs resume {run} goes on")


@click.command()
@click.argument("run")
@broker_option
def resume(run: str, broker: str | None, keys: Path | None) -> None:
    """Let the paused run RUN go on.

    \b
    Examples:
      fedmq runs resume xor-20260101-120000-ab12
    """
    _ask("resume", run, broker, keys, f"{run} goes on")


@click.command()
@click.argument("run")
@broker_option
def stop(run: str, broker: str | None, keys: Path | None) -> None:
    """End the live run RUN now.

    Its aggregator writes the report and the best model so far, and ends. An aggregator that is started on its folder
    again goes on with it.

    \b
    Examples:
      fedmq runs stop runs/xor-20260101-120000-ab12
    """
    _ask("stop", run, broker, keys, f"{run} is stopped; fedmq runs show {run} shows what it came to")


@click.command()
@click.argument("run")
@broker_option
def checkpoint(run: str, broker: str | None, keys: Path | None) -> None:
    """Let the live run RUN keep its state when its open round closes.

    Without being asked it does so every hundred rounds.

    \b
    Examples:
      fedmq.algorithms.checkpoint xor-20260101-120000-ab12
    """
    _ask("checkpoint", run, broker, keys, f"{run} keeps its state at the next close of a round")


@click.command()
@click.argument("run")
@trainer_argument
@broker_option
def drain(run: str, trainer: str, broker: str | None, keys: Path | None) -> None:
    """Invite TRAINER to no further round of the live run RUN.

    Its result of the open round still counts. It lasts as long as this life of the aggregator. What keeps a trainer
    out for good is fedmq keys revoke.

    \b
    Examples:
      fedmq runs drain xor-20260101-120000-ab12 alice
    """
    told = f"{trainer} is drained from {run}; fedmq runs readmit {run} {trainer} undoes it"
    _ask("drain", run, broker, keys, told, trainer)


@click.command()
@click.argument("run")
@trainer_argument
@broker_option
def ban(run: str, trainer: str, broker: str | None, keys: Path | None) -> None:
    """Refuse from now on whatever TRAINER sends to the live run RUN.

    It lasts as long as this life of the aggregator. What keeps a trainer out for good is fedmq keys revoke.

    \b
    Examples:
      fedmq runs ban xor-20260101-120000-ab12 alice
    """
    told = f"{trainer} is banned from {run}; fedmq runs readmit {run} {trainer} undoes it"
    _ask("ban", run, broker, keys, told, trainer)


@click.command()
@click.argument("run")
@trainer_argument
@broker_option
def readmit(run: str, trainer: str, broker: str | None, keys: Path | None) -> None:
    """Let TRAINER, who was drained or banned, take part in the live run RUN again.

    \b
    Examples:
      fedmq runs readmit xor-20260101-120000-ab12 alice
    """
    _ask("readmit", run, broker, keys, f"{trainer} takes part in {run} again", trainer)


COMMANDS = (pause, resume, stop, checkpoint, drain, ban, readmit)
