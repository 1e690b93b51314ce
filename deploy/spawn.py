"""The command `fedmq spawn`: several trainers on this machine, each with its part of the rows.

The user's systemd runs them (`user_units`), or this process (`processes`) if there is no systemd.
"""

import logging
import os
import signal
import socket

import click
from click.core import ParameterSource

from fedmq.cli.echo import echo
from fedmq.cli.options import check_name, option
from fedmq.cli.settings import settable_options
from fedmq.deploy import user_units
from fedmq.deploy.inventory import COUNT_MAX, fill
from fedmq.deploy.processes import Processes
from fedmq.runtime.loop import stop_signals
from fedmq.trainer.cli import trainer


@click.command()
@click.argument("count", metavar="N", type=click.IntRange(1, COUNT_MAX))
@option(
    "--name",
    "prefix",
    metavar="PREFIX",
    default=lambda: socket.gethostname().split(".")[0],
    show_default="the host's name",
    callback=check_name,
    help="Trainers are named PREFIX-1, PREFIX-2 and so on.",
)
@option("--foreground", is_flag=True, help="Run them as children of this command, even if systemd is available.")
@click.pass_context
def spawn(ctx: click.Context, /, count: int, prefix: str, foreground: bool, **settings: object) -> None:
    """Keep N trainers running on this machine.

    The user's systemd runs them: it restarts trainers that crash or hang, and they outlive this terminal. Repeat the
    command to start missing trainers and restart trainers with changed settings; the others keep running. Without
    systemd they run as children of this command: an ended trainer is reported and not restarted, and Ctrl-C or SIGTERM
    ends them all within five seconds.

    All other options are those of fedmq trainer. In their values {part} and {n} are the trainer's number, {parts} is N,
    and {name} is its name. Exit code 0, or that of the first trainer that failed.

    \b
    Examples:
      fedmq spawn 2 --data xor:{part}/{parts}
      fedmq spawn 4 --data rows-{part}.csv --name ward --min-rows 100
      fedmq spawn 2 --data rows.csv --keys keys-{name}
    """
    if settings["data"] is None:
        raise click.UsageError("Missing option '--data': expected rows, such as --data xor:{part}/{parts}.", ctx)
    given, trainers = _given(ctx), {}
    for part in range(1, count + 1):
        name = f"{prefix}-{part}"
        own = [fill(argument, part=part, parts=count, n=part, name=name) for argument in given]
        trainers[name] = ["trainer", "--name", name, *own]
    run = _run_children if foreground or not user_units.is_available() else _run_units
    raise SystemExit(run(trainers))


# The options of a trainer are defined once, in its own command.
spawn.params += [param for param in trainer.params if param.name != "name"]


def _given(ctx: click.Context) -> list[str]:
    """Return the arguments for each trainer: all options that were set; its defaults stay its own."""
    arguments: list[str] = []
    for key, param in settable_options(trainer).items():
        name = str(param.name)
        if name == "name" or ctx.get_parameter_source(name) in (None, ParameterSource.DEFAULT):
            continue
        # Click does not keep the log level.
        level = logging.getLevelName(logging.getLogger().level).lower()
        value = level if name == "log_level" else ctx.params[name]
        flag = f"--{key.replace('_', '-')}"
        arguments += [flag] * bool(value) if param.is_flag else [flag, str(value)]
    return arguments


def _run_units(trainers: dict[str, list[str]]) -> int:
    """Start the trainers as units of systemd; return the first exit code of an ended one, or 0."""
    codes = []
    for name, result, code in user_units.start(trainers):
        echo(f"{name}: {result}" if code == 0 else f"fedmq spawn: {name} {result}", err=code != 0)
        codes.append(code)
    if 0 in codes:
        for line in user_units.NEXT.splitlines():
            echo(line)
    return next((code for code in codes if code), 0)


def _run_children(trainers: dict[str, list[str]]) -> int:
    """Run the trainers as children until all end or a signal arrives; return the first failed exit code, or 0."""
    signals, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup)
    for number in (*stop_signals(signal.SIGINT, signal.SIGHUP), signal.SIGCHLD):
        signal.signal(number, lambda _signal, _frame: None)  # read from the pipe below, between two steps
    worst = 0
    with Processes() as processes:
        for name, arguments in trainers.items():
            processes.start(name, *arguments, quiet=False)
        while processes.running and os.read(signals, 1)[0] == signal.SIGCHLD:
            for name in processes.exited():
                code = processes.running.pop(name).returncode
                echo(f"fedmq spawn: {name} ended with exit code {code}; see above", err=True)
                worst = worst or (code if code >= 0 else 1)
    return worst
