"""The command `fedmq trainer`."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from fedmq.errors import BadConfiguration
from fedmq.options import check_name, edge_options, one_thread_for_arrays, option, service_options
from trainer.join import join

if TYPE_CHECKING:
    from fedmq.keyring import Membership


@click.group(invoke_without_command=True)
@option(
    "--name",
    callback=check_name,
    metavar="NAME",
    help="Who this is; each trainer has its own name, and keeps it when it comes back. "
    "[default: the host's name; with keys the key's]",
)
@option(
    "--data",
    metavar="SPEC",
    help="The rows: xor:1/2, parity4:3/4, linear:bob, FILE.py:1/2, a file (.csv .npz .npy .parquet), a folder of "
    "them, or module:function.",
)
@option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    default=lambda: os.environ.get("STATE_DIRECTORY"),
    show_default="$STATE_DIRECTORY; without it in memory only",
    help="Where results that nobody has acknowledged yet outlive a kill.",
)
@edge_options
@service_options
@click.pass_context
def trainer(
    ctx: click.Context,
    name: str | None,
    data: str | None,
    state: Path | None,
    broker: str | None,
    keys: Path | None,
    connect_timeout: float | None,
) -> None:
    """Train on this machine's rows until it is stopped.

    Takes part in every run that is published at the broker, one round at a time. The rows never leave; scores and
    candidate models do. It can be started before the broker, killed and started again at any moment; SIGTERM and
    Ctrl-C end it within five seconds, with exit code 0. Rows that cannot be used, or do not fit the task that is
    published, end it with exit code 78.

    \b
    Examples:
      fedmq trainer --name alice --data xor:1/2
      fedmq trainer --name clinic-7 --data rows.csv --broker tcp://127.0.0.1:5550
      fedmq trainer --name plant-2 --data mypackage.rows:load --log-level info
      fedmq trainer join TOKEN
      fedmq trainer --keys keys --data rows.csv
    """
    if ctx.invoked_subcommand is not None:
        return _check_nothing_is_given(ctx)
    if data is None:
        raise click.UsageError("Missing option '--data': the rows, such as --data rows.csv.", ctx)
    one_thread_for_arrays()
    from fedmq import __version__
    from fedmq.clock import SystemClock
    from fedmq.keyring import find_broker
    from fedmq.loop import serve
    from fedmq.seal import TrainerSeal
    from fedmq.sockets import TrainerSockets
    from fedmq.streams import stream
    from trainer.answer import on_rows
    from trainer.data import load_rows
    from trainer.service import Trainer
    from trainer.session import Session
    from trainer.spool import FileSpool
    from trainer.worker import ThreadWorker

    address, membership = find_broker(broker, keys, "trainer")
    name = _name(name, membership)
    rows = load_rows(data)
    link = TrainerSockets(address, name, membership)
    clock = SystemClock()
    spool = None if state is None else FileSpool(state / name)
    kept = [] if spool is None else spool.load(name, len(rows.inputs))
    session = Session(name, len(rows.inputs), __version__, stream(0, "jitter", name), kept)
    service = Trainer(
        link,
        session,
        ThreadWorker(on_rows(rows, name), link.wake, clock),
        clock=clock,
        broker=address,
        connect_timeout_s=connect_timeout,
        spool=spool,
        seal=None if membership is None else TrainerSeal(membership),
    )
    line = f"trainer {name}: {len(rows.inputs)} rows, broker {address}"
    try:
        serve(service, link, clock, ready=lambda: click.echo(line))
    finally:
        link.close()


def _check_nothing_is_given(ctx: click.Context) -> None:
    """Options of `fedmq trainer` itself mean nothing to a command below it."""
    given = [name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if given:
        raise click.UsageError(f"expected --{given[0].replace('_', '-')} after {ctx.invoked_subcommand}.", ctx)


trainer.add_command(join)


def _name(given: str | None, membership: Membership | None) -> str:
    """Who this is: with keys the one that they were made for."""
    if membership is None:
        return given or socket.gethostname().split(".")[0]
    name = membership.identity.name
    if given not in (None, name):
        raise BadConfiguration(f"expected --name {name}, for whom the key was made, got {given}; leave --name out")
    return name
