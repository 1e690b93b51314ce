"""The command `fedmq trainer`."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedmq.errors import BadConfiguration
from fedmq.options import check_name, edge_options, one_thread_for_arrays, option, service_options

if TYPE_CHECKING:
    from fedmq.shipping import Shipped


@click.command()
@option(
    "--name",
    default=lambda: socket.gethostname().split(".")[0],
    show_default="the host's name",
    callback=check_name,
    metavar="NAME",
    help="Who this is; each trainer has its own name, and keeps it when it comes back.",
)
@option(
    "--data",
    required=True,
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
@option(
    "--allow-code",
    is_flag=True,
    help="Run Python code that scores a run, if a pinned aggregator key signed it; in a sandbox.",
)
@option(
    "--score",
    metavar="FILE.py",
    help="Your own copy of a task that is scored by code: used in place of what travels with its rounds.",
)
@edge_options
@service_options
def trainer(
    name: str,
    data: str,
    state: Path | None,
    allow_code: bool,
    score: str | None,
    broker: str,
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
    """
    one_thread_for_arrays()
    from fedmq import __version__
    from fedmq.clock import SystemClock
    from fedmq.loop import serve
    from fedmq.sockets import TrainerSockets
    from fedmq.streams import stream
    from trainer.answer import on_rows
    from trainer.data import load_rows
    from trainer.policy import CodePolicy
    from trainer.service import Trainer
    from trainer.session import Session
    from trainer.spool import FileSpool
    from trainer.worker import ThreadWorker

    rows = load_rows(data)
    policy = CodePolicy(allowed=allow_code, own=None if score is None else _own_copy(score))
    link = TrainerSockets(broker, name)
    clock = SystemClock()
    spool = None if state is None else FileSpool(state / name)
    kept = [] if spool is None else spool.load(name, len(rows.inputs))
    session = Session(name, len(rows.inputs), __version__, stream(0, "jitter", name), kept)
    service = Trainer(
        link,
        session,
        ThreadWorker(on_rows(rows, name, policy), link.wake, clock),
        clock=clock,
        broker=broker,
        connect_timeout_s=connect_timeout,
        spool=spool,
    )
    line = f"trainer {name}: {len(rows.inputs)} rows, broker {broker}"
    try:
        serve(service, link, clock, ready=lambda: click.echo(line))
    finally:
        link.close()


def _own_copy(path: str) -> Shipped:
    from fedmq.shipping import ship

    own = ship(path)
    if own.code is None:
        raise BadConfiguration(f"--score {path}: expected a task with a Code model, got one that is data: leave it out")
    return own
