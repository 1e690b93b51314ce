"""The commands `fedmq sink …`: what happens in runs, written to where other tools look for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from fedmq.cli.options import broker_option, check_name, one_thread_for_arrays, option, service_options
from fedmq.errors import BadConfiguration
from fedmq.runtime.run_folder import RUNS

if TYPE_CHECKING:
    from fedmq.dashboard.sinks.runner import Sink
    from fedmq.observe.run_state import RunState

Command = TypeVar("Command", bound=Callable[..., None])


@click.group()
def sink() -> None:
    """Write what happens in live runs to where other tools look for it.

    A sink is an observer: it can come and go, slows no round and changes nothing. It begins with what has happened
    before it came, and goes on with every run at the broker until it is stopped, or until the run of --run is over.

    \b
    Examples:
      fedmq sink tensorboard --out tb
      fedmq sink mlflow --to http://127.0.0.1:5000
    """


def sink_options(command: Command) -> Command:
    """--run, --runs, and those that all observers have."""
    one = option("--run", callback=check_name, metavar="RUN", help="This run alone, until it is over. [default: all]")
    folder = option(
        "--runs",
        type=click.Path(path_type=Path, file_okay=False),
        default=RUNS,
        metavar="DIR",
        help="Where folders of runs may be: when a run is over its report is taken from there.",
    )
    return one(folder(broker_option(service_options(command))))


@sink.command()
@option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("tb"),
    metavar="DIR",
    help="Where TensorBoard looks: a folder for each run.",
)
@sink_options
def tensorboard(out: Path, run: str | None, runs: Path, broker: str | None, keys: Path | None) -> None:
    """Write event files for TensorBoard.

    \b
    Examples:
      fedmq sink tensorboard --out tb
      fedmq sink tensorboard --out tb --run xor-7 --keys wall
    """
    _need("tensorboardX", "tensorboard")
    one_thread_for_arrays()
    from fedmq.dashboard.sinks.tensorboard import event_files

    _serve(event_files(out), run, runs, broker, keys)


@sink.command()
@option("--to", metavar="URI", help="The tracking server. [default: $MLFLOW_TRACKING_URI]")
@option("--experiment", "name", default="fedmq", metavar="NAME", help="Which experiment the runs are part of.")
@sink_options
def mlflow(to: str | None, name: str, run: str | None, runs: Path, broker: str | None, keys: Path | None) -> None:
    """Log to an MLflow tracking server.

    A sink that is started again goes on with the runs that are there.

    \b
    Examples:
      fedmq sink mlflow --to http://127.0.0.1:5000
      fedmq sink mlflow --to http://127.0.0.1:5000 --experiment clinics --run xor-7
    """
    _need("mlflow", "mlflow")
    uri = to or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise BadConfiguration("expected --to URI, or $MLFLOW_TRACKING_URI, got neither; such as http://127.0.0.1:5000")
    one_thread_for_arrays()
    from fedmq.dashboard.sinks.mlflow import experiment

    _serve(experiment(uri, name), run, runs, broker, keys)


def _need(module: str, extra: str) -> None:
    if find_spec(module) is None:
        raise BadConfiguration(f"expected {module} to be installed, it is not; pip install 'fedmq[{extra}]'")


def _serve(
    open_sink: Callable[[RunState], Sink], run: str | None, runs: Path, broker: str | None, keys: Path | None
) -> None:
    """Watch, and feed the sinks, until it is over."""
    from fedmq.dashboard.live_runs import open_watching
    from fedmq.dashboard.sinks.runner import Feeding
    from fedmq.runtime.clock import SystemClock
    from fedmq.runtime.loop import serve

    clock = SystemClock()
    watching, link, address = open_watching(broker, keys, clock=clock)
    feeding = Feeding(watching, open_sink, clock, runs, run)
    try:
        serve(feeding, link, clock, ready=lambda: click.echo(f"watches {run or 'every run'} at {address}"))
    finally:
        feeding.close()
        link.close()
