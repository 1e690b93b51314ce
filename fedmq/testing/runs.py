"""Run configurations and their first event, for tests of whatever follows from them."""

from typing import Any

import msgspec

from fedmq.observe import events
from fedmq.protocol.run_config import Limits, RunConfig
from fedmq.tasks.task import Task
from fedmq.tasks.task_file import find_task

_LOSSES: dict[Any, str] = {"softmax": "cross-entropy", "identity": "squared-error"}  # by the output of a model


def run_config(
    run: str = "run",
    task: str | Task = "xor",
    algorithm: str = "evolution",
    *,
    parameters: dict[str, Any] | None = None,
    seed: int = 1,
    started: float = 0.0,
    **limits: Any,
) -> RunConfig:
    """Return the configuration of a run; the limits that are left out are those of the task."""
    task = find_task(task) if isinstance(task, str) else task
    return RunConfig(
        run=run,
        task=task,
        algorithm=algorithm,
        parameters=parameters or {},
        seed=seed,
        started=started,
        limits=Limits(**{"rounds_max": task.rounds, "min_trainers": task.trainers, **limits}),
    )


def run_started(
    run: str = "run", *, term: int = 1, round: int = 1, again: bool = False, task: Any = "xor", **chosen: Any
) -> events.RunStarted:
    """Return the first event of a run; `metric`, `target` and `model` change the task, other values its configuration.

    >>> run_started("one", rounds_max=9).config.limits.rounds_max
    9
    """
    of_task: dict[str, Any] = {name: chosen.pop(name) for name in ("metric", "target", "model") if name in chosen}
    if "model" in of_task:
        of_task["loss"] = _LOSSES.get(getattr(of_task["model"], "output", None), "own")
    task = msgspec.structs.replace(find_task(task) if isinstance(task, str) else task, **of_task)
    return events.RunStarted(config=run_config(run, task, **chosen), term=term, round=round, again=again)
