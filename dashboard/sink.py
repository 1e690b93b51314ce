"""The commands `fedmq sink …`: they write rounds of live runs to other tools."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedmq.cli.echo import echo
from fedmq.cli.options import (
    FOLDER,
    broker_option,
    check_name,
    one_thread_for_arrays,
    option,
    require,
    service_options,
    together,
)
from fedmq.errors import BadConfiguration
from fedmq.runtime.run_folder import RUNS

if TYPE_CHECKING:
    from fedmq.dashboard.sinks.runner import Sink
    from fedmq.observe.run_state import RunState

sink_options = together(
    option("--run", callback=check_name, metavar="RUN", help="Only this run, until it is over. [default: all]"),
    option(
        "--runs", type=FOLDER, default=RUNS, metavar="DIR", help="Folder of runs, for the reports of finished runs."
    ),
    broker_option,
    service_options,
)


@click.group()
def sink() -> None:
    """Write the rounds of live runs to other tools.

    A sink is an observer: it can start and stop at any time, slows no round and changes nothing. It first writes the
    rounds closed before its start. It follows every run at the broker until it is stopped, or until --run is over.

    \b
    Examples:
      fedmq sink tensorboard --out tb
      fedmq sink mlflow --to http://127.0.0.1:5000
    """


@sink.command()
@option(
    "--out", type=FOLDER, default=Path("tb"), metavar="DIR", help="Log directory of TensorBoard, a folder for a run."
)
@sink_options
def tensorboard(out: Path, **options: Any) -> None:
    """Write event files for TensorBoard.

    \b
    Examples:
      fedmq sink tensorboard --out tb
      fedmq sink tensorboard --out tb --run xor-7 --keys wall
    """
    require("tensorboardX", "tensorboard")
    one_thread_for_arrays()
    from fedmq.dashboard.sinks.tensorboard import event_files

    _serve(event_files(out), **options)


@sink.command()
@option("--to", metavar="URI", help="The tracking server. [default: $MLFLOW_TRACKING_URI]")
@option("--experiment", "name", default="fedmq", metavar="NAME", help="Experiment of the runs.")
@sink_options
def mlflow(to: str | None, name: str, **options: Any) -> None:
    """Log to an MLflow tracking server.

    A restarted sink continues the runs that it logged before.

    \b
    Examples:
      fedmq sink mlflow --to http://127.0.0.1:5000
      fedmq sink mlflow --to http://127.0.0.1:5000 --experiment clinics --run xor-7
    """
    require("mlflow", "mlflow")
    uri = to or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise BadConfiguration("expected --to URI, or $MLFLOW_TRACKING_URI, got neither; such as http://127.0.0.1:5000")
    one_thread_for_arrays()
    from fedmq.dashboard.sinks.mlflow import experiment

    _serve(experiment(uri, name), **options)


def _serve(
    open_sink: Callable[[RunState], Sink], run: str | None, runs: Path, broker: str | None, keys: Path | None
) -> None:
    """Run the sinks until the command is stopped, or the run is over."""
    from fedmq.dashboard.live_runs import open_live_runs
    from fedmq.dashboard.sinks.runner import SinkRunner
    from fedmq.runtime.clock import SystemClock
    from fedmq.runtime.loop import serve

    clock = SystemClock()
    live_runs, link, address = open_live_runs(broker, keys, clock=clock)
    runner = SinkRunner(live_runs, open_sink, clock, runs, run)
    with closing(link), closing(runner):
        serve(runner, link, clock, ready=lambda: echo(f"watches {run or 'every run'} at {address}"))
