"""The commands `fedmq runs …` that send a control command to a live run through the broker, and wait for its effect.

The run's own aggregator decides what to do.
"""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from fedmq.cli.echo import echo
from fedmq.cli.options import broker_option, check_name
from fedmq.errors import BadConfiguration
from fedmq.names import NAME_PATTERN
from fedmq.runtime.run_folder import folder_of

if TYPE_CHECKING:
    from fedmq.protocol.messages import Action


class ControlCommand(NamedTuple):
    """A control command: its help, and the line to print once it has taken effect."""

    help: str
    printed: str
    more: str = ""  # a second paragraph of the help


BARRED = "It lasts until the aggregator ends. To exclude a trainer for good: fedmq keys revoke."
UNDO = "undo with fedmq runs readmit {run} {trainer}"
COMMANDS: dict[Action, ControlCommand] = {
    "pause": ControlCommand(
        "Let the live run RUN close its open round, and open no other until it is resumed.",
        "{run} is paused; continue with fedmq runs resume {run}",
    ),
    "resume": ControlCommand("Let the paused run RUN continue.", "{run} continues"),
    "stop": ControlCommand(
        "End the live run RUN now.",
        "{run} is stopped; see its results with fedmq runs show {run}",
        "Its aggregator writes the report and the best model so far, and ends. An aggregator that is started on its "
        "folder again continues it.",
    ),
    "checkpoint": ControlCommand(
        "Let the live run RUN save its state when its open round closes.",
        "{run} saves its state when the open round closes",
        "Otherwise it saves its state every hundred rounds.",
    ),
    "drain": ControlCommand(
        "Invite TRAINER to no further round of the live run RUN.",
        f"{{trainer}} is drained from {{run}}; {UNDO}",
        f"Its result of the open round still counts. {BARRED}",
    ),
    "ban": ControlCommand(
        "Reject from now on all messages of TRAINER to the live run RUN.",
        f"{{trainer}} is banned from {{run}}; {UNDO}",
        BARRED,
    ),
    "readmit": ControlCommand(
        "Let TRAINER, which was drained or banned, take part in the live run RUN again.",
        "{trainer} takes part in {run} again",
    ),
}
TRAINER_ACTIONS: tuple[Action, ...] = ("drain", "ban", "readmit")


def control_command(action: Action) -> click.Command:
    """Return the click command for a control command."""
    text, printed, more = COMMANDS[action]

    def control(run: str, broker: str | None, keys: Path | None, trainer: str | None = None) -> None:
        _control(action, run, broker, keys, trainer)
        echo(printed.format(run=run, trainer=trainer))

    command = broker_option(control)
    trainer = ""
    if action in TRAINER_ACTIONS:
        command, trainer = click.argument("trainer", callback=check_name)(command), " alice"
    example = f"\b\nExamples:\n  fedmq runs {action} xor-20260101-120000-ab12{trainer}"
    paragraphs = [text, more, example] if more else [text, example]
    return click.command(action, help="\n\n".join(paragraphs))(click.argument("run")(command))


def _control(action: Action, run: str, broker: str | None, keys: Path | None, trainer: str | None) -> None:
    """Have a live run do something, and wait until it has acknowledged."""
    from fedmq.runs.control_client import open_control_client
    from fedmq.runtime.clock import SystemClock
    from fedmq.runtime.loop import serve
    from fedmq.security.keyring import find_broker

    name = _name(run, action)
    clock = SystemClock()
    address, credentials = find_broker(broker, keys, "aggregator")
    client, link = open_control_client(address, credentials, name, action, clock=clock, trainer=trainer)
    with closing(link):
        serve(client, link, clock)
    if not client.acked_request:
        raise click.Abort


def _name(run: str, action: Action) -> str:
    """Return the name of a run that is given by its folder, its folder's name below `runs`, or its own name."""
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
