"""`fedmq.train`: a federation of trainers on other machines, driven from a script."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedmq.aggregator.cli import new_name, run_training
from fedmq.models.trained_model import load_model
from fedmq.runs.maintenance import open_store
from fedmq.runs.report import read_findings
from fedmq.runtime.run_folder import MODEL, RUNS
from fedmq.simulation.run import Run
from fedmq.simulation.simulate import limits_of
from fedmq.tasks.shipping import Shipped, ship
from fedmq.tasks.task import Task
from fedmq.transport.address import DEFAULT_ADDRESS, full_address


def train(
    task: Task | str,
    *,
    broker: str = DEFAULT_ADDRESS,
    keys: Path | str | None = None,
    algorithm: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    rounds: int | None = None,
    min_trainers: int | None = None,
    seed: int | None = None,
    holdout: float | None = None,
    out: Path | str | None = None,
    secure: bool = False,
    epsilon: float | None = None,
    delta: float | None = None,
    wait_s: float | None = None,
    connect_timeout_s: float | None = 60.0,
    progress: bool = False,
    **limits: Any,
) -> Run:
    """Train a task over the trainers that are connected to a broker, and return the run.

    This process is the aggregator of the run, as `fedmq aggregator` is: its folder has the run from the first round on,
    and `fedmq aggregator --out FOLDER` continues it if this process ends before. Call it from the main thread.

    Args:
        task: a `Task`, the name of one, a FILE.py or FILE.toml.
        broker: its address.
        keys: the folder of the federation's keys. None: no keys, for this machine only.
        algorithm: as for `fedmq aggregator`, with its `parameters`. None: the task's.
        rounds: at most. None: as the task says.
        min_trainers: a round opens when so many are present. None: as many as the task intends.
        seed: of all random draws. None: drawn, see `run.report.seed`.
        holdout: the share of each trainer's rows that measures the model. None: the task's.
        out: the folder of the run. None: runs/<run>.
        secure: train by secure sums, of which this process learns the total only; needs `keys`.
        epsilon: train with differential privacy, see docs/how-to/differential-privacy.md. None: no noise.
        delta: with `epsilon`. None: 1e-5.
        wait_s: wait so long for the trainers, then give up. None: for ever.
        connect_timeout_s: wait so long for the broker. None: for ever.
        progress: print what happens.
        limits: fields of `fedmq.protocol.run_config.Limits`, such as quorum, deadline_s, keep_rounds.

    Raises:
        BadConfiguration: arguments that do not fit each other.
        Unreachable: no broker answers in time.
        TooFewTrainers: fewer trainers than needed within `wait_s`.
        RunFailed: all trainers declined the run.
    """
    began = time.monotonic()
    shipped = Shipped(task, None) if isinstance(task, Task) else ship(task, algorithm)
    wanted = shipped.task.with_holdout(holdout)
    given = {"rounds_max": rounds, "min_trainers": min_trainers, **limits}
    limits_of({"rounds_max": wanted.rounds, "min_trainers": wanted.trainers}, given, "train")  # checks them
    name = new_name(wanted.name)
    folder = RUNS / name if out is None else Path(out)
    report = run_training(
        wanted,
        name,
        folder,
        code=shipped.code,
        on_generation=shipped.on_generation,
        algorithm=algorithm,
        parameters=dict(parameters or {}),
        seed=seed,
        secure=secure,
        epsilon=epsilon,
        delta=delta,
        wait_s=wait_s,
        quiet=not progress,
        broker=full_address(broker) if keys is None else None,
        keys=None if keys is None else Path(keys),
        connect_timeout=connect_timeout_s,
        limits=given,
    )
    store, _ = open_store(folder)
    with store:
        closes = tuple(store.closes())
    model = load_model(folder / MODEL) if report.model is not None else None
    return Run(report, model, closes, read_findings(folder), folder, time.monotonic() - began)
