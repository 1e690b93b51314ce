"""The command `fedmq`: which subcommands there are, and how an error becomes one line and an exit code.

Knows nothing of what the subcommands do; importing it loads no numpy, zmq or pygad.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import NoReturn

import click

from fedmq import __version__
from fedmq.cli.lazy import LazyGroup
from fedmq.errors import BadConfiguration, FedmqError, named

STDOUT, STDERR = 1, 2
INTERRUPTED = 130  # as a shell tells of SIGINT

# name: (module, one line for the overview), in the order of the overview
COMMANDS = {
    "demo": ("fedmq.deploy.demo", "Train split XOR across processes on this machine."),
    "broker": ("fedmq.broker.cli", "Run the broker between an aggregator and its trainers."),
    "aggregator": ("fedmq.aggregator.cli", "Run one training to its end, or continue it."),
    "trainer": ("fedmq.trainer.cli", "Train on this machine's rows, for whoever publishes rounds."),
    "spawn": ("fedmq.deploy.spawn", "Keep several trainers running on this machine, each with its part of the rows."),
    "watch": ("fedmq.dashboard.terminal", "Watch runs on this terminal, live or from their folders."),
    "dashboard": ("fedmq.dashboard.cli", "Watch runs in a browser."),
    "keys": ("fedmq.security.commands", "Make a federation's keys; say who is let in."),
    "deploy": ("fedmq.deploy.cli", "Put fedmq on hosts over SSH, and look after it there."),
    "sink": ("fedmq.dashboard.sink", "Write what happens in live runs for TensorBoard or MLflow."),
    "runs": ("fedmq.runs.commands", "List, compare and plot runs; look after them; pause or stop a live one."),
    "config": ("fedmq.cli.config", "Write a file of settings for a service, or check one."),
    "doctor": ("fedmq.deploy.doctor", "Look for what usually goes wrong, and say what to do."),
}


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="fedmq")
def fedmq() -> None:
    """Federated learning over a message queue.

    A broker stands between an aggregator that publishes rounds and trainers that keep their rows to themselves.

    \b
    See it work, in one terminal:
      fedmq demo
    By hand, in four:
      fedmq broker
      fedmq aggregator --task xor
      fedmq trainer --name alice --data xor:1/2
      fedmq trainer --name bob --data xor:2/2

    Each option OPTION of a command can also come from the environment (FEDMQ_OPTION) or from --config FILE.toml.

    Exit codes: 0 done, 1 target not reached, 2 usage, 69 no broker, 77 not let in, 78 bad configuration or rows,
    130 interrupted.
    """


def main() -> NoReturn:
    """Run the command line. Errors are one line on stderr; a traceback only with --debug."""
    _open_streams()
    sys.exit(_run(debug="--debug" in sys.argv or bool(os.environ.get("FEDMQ_DEBUG"))))


def _run(*, debug: bool) -> int | None:
    """The exit code, once everything is said."""
    try:
        code: int | None = fedmq.main(prog_name="fedmq", standalone_mode=False)
        sys.stdout.flush()
        return code
    except click.exceptions.Abort:
        said, code = "interrupted", INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        said, code = _line(error), error.exit_code
    except FedmqError as error:
        if debug:
            raise
        said, code = str(error), error.exit_code
    except Exception as error:
        if debug:
            raise
        said, code = _unexpected(error)
    click.echo(f"fedmq: {said}", err=True)
    return code


def _open_streams() -> None:
    """Whatever is closed leads nowhere, and takes no file's place; what the terminal cannot show becomes a `?`."""
    while (nowhere := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        os.set_inheritable(nowhere, True)  # the services of a demo have it, too
    os.close(nowhere)
    sys.stdout = sys.stdout or open(STDOUT, "w", closefd=False)  # noqa: SIM115 - as long as the process
    sys.stderr = sys.stderr or open(STDERR, "w", closefd=False)  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")


def _unexpected(error: Exception) -> tuple[str, int]:
    """What to say of an error that nobody knows, and the exit code; what is left of the output is given up."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)
        return (
            f"expected room for what is written, got: {error.strerror}; make room and start it again",
            BadConfiguration.exit_code,
        )
    if isinstance(error, PermissionError) and error.filename is not None:
        said = f"{error.filename}: expected to be allowed to use it, got: {error.strerror}; start it as its owner"
        return said, BadConfiguration.exit_code
    return f"unexpected {named(error)}; --debug shows where", 1


def _line(error: click.ClickException) -> str:
    """What click says, as one line, and where to read how it is right."""
    said = " ".join(error.format_message().split())
    path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx is not None else "fedmq"
    return f"{said.rstrip('.')}; {path} --help shows how"
