"""The command `fedmq spawn`: several trainers on this machine, each with its part of the rows.

Says which trainers there are to be. Whoever keeps them running knows how: the user's systemd (`user_units`), or this
process (`processes`) where there is none.
"""

from __future__ import annotations

import logging
import os
import signal
import socket

import click
from click.core import ParameterSource

from deploy import user_units
from deploy.inventory import COUNT_MAX, fill
from deploy.processes import Processes
from fedmq.loop import stop_signals
from fedmq.options import check_name, option
from fedmq.settings import settings_of
from trainer.cli import trainer


@click.command()
@click.argument("count", metavar="N", type=click.IntRange(1, COUNT_MAX))
@option(
    "--name",
    "prefix",
    metavar="PREFIX",
    default=lambda: socket.gethostname().split(".")[0],
    show_default="the host's name",
    callback=check_name,
    help="They are named PREFIX-1, PREFIX-2 and so on.",
)
@option("--foreground", is_flag=True, help="Run them below this command, also where systemd could have them.")
@click.pass_context
def spawn(ctx: click.Context, /, count: int, prefix: str, foreground: bool, **settings: object) -> None:
    """Keep N trainers running on this machine.

    The user's systemd has them: they come back when they are killed or hang, and do not end with this terminal. The
    same command again starts what does not run, starts again what has other settings now, and leaves the rest alone.
    Without a systemd that answers they run below this command instead: who ends is told and not started again, and
    Ctrl-C or SIGTERM ends them all within five seconds.

    All other options are those of fedmq trainer; in a text of theirs {part} and {n} are the trainer's number, {parts}
    is N, and {name} its name. Exit code 0, or that of the first trainer that failed.

    \b
    Examples:
      fedmq spawn 2 --data xor:{part}/{parts}
      fedmq spawn 4 --data rows-{part}.csv --name ward --min-rows 100
      fedmq spawn 2 --data rows.csv --keys keys-{name}
    """
    if settings["data"] is None:
        raise click.UsageError("Missing option '--data': the rows, such as --data xor:{part}/{parts}.", ctx)
    given, trainers = _given(ctx), {}
    for part in range(1, count + 1):
        name = f"{prefix}-{part}"
        own = [fill(word, part=part, parts=count, n=part, name=name) for word in given]
        trainers[name] = ["trainer", "--name", name, *own]
    keep = _run if foreground or not user_units.answers() else _hand_over
    raise SystemExit(keep(trainers))


# One list of what a trainer can be told: its own.
spawn.params += [param for param in trainer.params if param.name != "name"]


def _given(ctx: click.Context) -> list[str]:
    """The words for a trainer: what was set for it, in whatever way; the defaults are its own business."""
    words: list[str] = []
    for key, param in settings_of(trainer).items():
        name = str(param.name)
        if name == "name" or ctx.get_parameter_source(name) in (None, ParameterSource.DEFAULT):
            continue
        value = _log_level() if name == "log_level" else ctx.params[name]
        flag = f"--{key.replace('_', '-')}"
        words += [flag] * bool(value) if param.is_flag else [flag, str(value)]
    return words


def _log_level() -> str:
    """What was set for this process, too, and stands nowhere else."""
    return logging.getLevelName(logging.getLogger().level).lower()


def _hand_over(trainers: dict[str, list[str]]) -> int:
    """Let systemd have them; the first exit code of one that has ended, or 0."""
    codes = []
    for name, how, code in user_units.start(trainers):
        click.echo(f"{name}: {how}" if code == 0 else f"fedmq spawn: {name} {how}", err=code != 0)
        codes.append(code)
    if 0 in codes:
        click.echo(user_units.NEXT)
    return next((code for code in codes if code), 0)


def _run(trainers: dict[str, list[str]]) -> int:
    """Be their parent until all have ended, or a signal says so; the first exit code of one that failed, or 0."""
    heard, said = os.pipe()
    os.set_blocking(said, False)
    signal.set_wakeup_fd(said)
    for number in (*stop_signals(signal.SIGINT, signal.SIGHUP), signal.SIGCHLD):
        signal.signal(number, lambda _signal, _frame: None)  # as a byte in the pipe they cannot come at a wrong moment
    worst = 0
    with Processes() as processes:
        for name, words in trainers.items():
            processes.start(name, *words, quiet=False)
        while processes.running and os.read(heard, 1)[0] == signal.SIGCHLD:
            for name in processes.dead():
                code = processes.running.pop(name).returncode
                click.echo(f"fedmq spawn: {name} ended with exit code {code}; see above", err=True)
                worst = worst or (code if code >= 0 else 1)
    return worst
