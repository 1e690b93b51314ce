"""The command `fedmq`: its subcommands, and how an error becomes one line and an exit code.

Importing it loads no numpy, zmq or pygad.
"""

import errno
import io
import logging
import os
import sys
from contextlib import suppress
from types import TracebackType
from typing import NoReturn

import click

from fedmq import __version__
from fedmq.cli.echo import drop_output, echo
from fedmq.cli.lazy import LazyGroup
from fedmq.errors import BadConfiguration, FedmqError, OutputClosed, named
from fedmq.observe.log_format import LogFormatter
from fedmq.runtime.descriptors import RAISE_LIMIT, raise_limit

STDOUT, STDERR = 1, 2
INTERRUPTED = 130  # as shells report SIGINT

# name: (module, one line for the overview), in the order of the overview
COMMANDS = {
    "new": ("fedmq.cli.new", "Write a task file from a table."),
    "check": ("fedmq.cli.check", "Check at a site whether its table fits a task, and what would be sent."),
    "demo": ("fedmq.deploy.demo", "Train split XOR across processes on this machine."),
    "simulate": ("fedmq.simulation.cli", "Train over virtual trainers in one process, on virtual time."),
    "broker": ("fedmq.broker.cli", "Run the broker between an aggregator and its trainers."),
    "aggregator": ("fedmq.aggregator.cli", "Run one training to its end, or continue it."),
    "trainer": ("fedmq.trainer.cli", "Train on this machine's rows."),
    "spawn": ("fedmq.deploy.spawn", "Run several trainers on this machine, each with a part of the rows."),
    "watch": ("fedmq.dashboard.terminal", "Watch runs in this terminal, live or from their folders."),
    "dashboard": ("fedmq.dashboard.cli", "Watch runs in a browser."),
    "keys": ("fedmq.security.commands", "Create the keys of a federation, and manage its members."),
    "deploy": ("fedmq.deploy.cli", "Deploy fedmq to hosts over SSH, and operate it there."),
    "sink": ("fedmq.dashboard.sink", "Write live runs to TensorBoard or MLflow."),
    "stats": ("fedmq.aggregator.stats", "Print statistics of the columns over all sites."),
    "report": ("fedmq.runs.report_command", "Write a run as one HTML file for colleagues."),
    "predict": ("fedmq.runs.model_commands", "Predict for new rows with the model of a run."),
    "export": ("fedmq.runs.model_commands", "Write the model of a run as ONNX, scikit-learn, JSON or safetensors."),
    "forget": ("fedmq.runs.forget_command", "Write the model of a run without the rows of one trainer."),
    "runs": ("fedmq.runs.commands", "List, compare, plot, maintain and control runs."),
    "config": ("fedmq.cli.config", "Write a file of settings for a service, or check one."),
    "doctor": ("fedmq.deploy.doctor", "Check this machine for common problems, and suggest fixes."),
}


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="fedmq")
def fedmq() -> None:
    """Federated learning over a message queue.

    An aggregator publishes rounds, trainers answer them from their own rows, and a broker forwards the messages.

    \b
    Try it in one terminal:
      fedmq demo
    By hand, in four:
      fedmq broker
      fedmq aggregator --task xor
      fedmq trainer --name alice --data xor:1/2
      fedmq trainer --name bob --data xor:2/2

    Each option can also be set in the environment (FEDMQ_OPTION) or in a file (--config FILE.toml).

    Exit codes: 0 done, 1 stopped or target not reached, 2 usage, 69 no broker, 70 the run cannot go on, 75 too few
    trainers, 77 not authorized, 78 bad configuration or rows, 130 interrupted.
    """


def main() -> NoReturn:
    """Run the command line. Errors are one line on stderr; a traceback only with --debug."""
    _open_streams()
    raise_limit()
    sys.excepthook = _print_traceback
    if logging.lastResort is not None:  # of commands without --log-level
        logging.lastResort.setFormatter(LogFormatter())
    sys.exit(_run(debug="--debug" in sys.argv or bool(os.environ.get("FEDMQ_DEBUG"))))


def _run(*, debug: bool) -> int | None:
    """Run the command; print errors; return the exit code."""
    try:
        code: int | None = fedmq.main(prog_name="fedmq", standalone_mode=False)
        sys.stdout.flush()
        return code
    except (OutputClosed, BrokenPipeError):
        drop_output()
        return OutputClosed.exit_code
    except click.exceptions.Abort:
        line, code = "interrupted", INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        line, code = _line(error), error.exit_code
    except FedmqError as error:
        if debug:
            raise
        line, code = str(error), error.exit_code
    except Exception as error:
        if debug:
            raise
        line, code = _unexpected(error)
    with suppress(BrokenPipeError):
        echo(f"fedmq: {line}", err=True)
    return code


def _print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    for line in LogFormatter().formatException((kind, error, trace)).split("\n"):
        echo(line, err=True)


def _open_streams() -> None:
    """Open closed standard streams to nowhere, and replace characters outside the terminal's encoding by `?`."""
    while (nowhere := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        os.set_inheritable(nowhere, True)  # the services of a demo inherit it
    os.close(nowhere)
    sys.stdout = sys.stdout or open(STDOUT, "w", closefd=False)  # noqa: SIM115 - as long as the process
    sys.stderr = sys.stderr or open(STDERR, "w", closefd=False)  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")


def _unexpected(error: Exception) -> tuple[str, int]:
    """Return the line and the exit code of an unexpected error; drop the rest of the output on a full disk."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)
        return (
            f"expected space for the output, got: {error.strerror}: free some space and retry",
            BadConfiguration.exit_code,
        )
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return f"expected a free file descriptor, got: {error.strerror}: {RAISE_LIMIT}", BadConfiguration.exit_code
    if isinstance(error, PermissionError) and error.filename is not None:
        line = f"{error.filename}: expected access, got: {error.strerror}: run it as the owner"
        return line, BadConfiguration.exit_code
    if isinstance(error, OSError) and error.filename is not None:
        line = f"{error.filename!s:.200}: expected a file or folder, got: {error.strerror}: check the path"
        return line, BadConfiguration.exit_code
    return f"unexpected {named(error)}; --debug shows where", 1


def _line(error: click.ClickException) -> str:
    """Return click's message as one line, with the command that shows the right usage."""
    text = " ".join(error.format_message().split())
    path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx is not None else "fedmq"
    return f"{text.rstrip('.')}; see {path} --help"
