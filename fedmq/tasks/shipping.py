"""Packs the scoring code of a task into bytes that are sent with its rounds.

Only `fedmq.trainer.sandbox_worker` unpacks them.
"""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, cast

from msgspec.structs import replace

from fedmq.errors import BadConfiguration, named
from fedmq.models.networks import Code
from fedmq.tasks.builtin import TASK_NAMES
from fedmq.tasks.table_task import is_task_data
from fedmq.tasks.task import CODE_BYTES_MAX, Task
from fedmq.tasks.task_file import find_task, run_task_file


class Shipped(NamedTuple):
    """A task, and the packed code that scores it; None unless the model is a Code model.

    `on_generation` is PyGAD's callback in the FILE.py of a task, which stays at the aggregator.
    """

    task: Task
    code: bytes | None
    on_generation: Callable[[Any], object] | None = None


def ship(name_or_path: str, algorithm: str | None = None) -> Shipped:
    """Return the task of `find_task`; for a Code model, with the packed function of the FILE.py and its SHA-256.

    The function, `score` or `fitness_func`, is packed by value, with the modules next to the file. Everything else
    that it imports must be installed where it runs.

    Raises:
        BadConfiguration: as `find_task`; the function is missing, cannot be packed, or is too large.
    """
    if name_or_path in TASK_NAMES or is_task_data(name_or_path):
        return Shipped(find_task(name_or_path, algorithm), None)
    task, names = run_task_file(name_or_path)
    callback = cast("Callable[[Any], object] | None", names.get("on_generation"))
    if callback is not None and not callable(callback):
        raise BadConfiguration(f"{name_or_path}: expected a function on_generation(ga), got {callback!r:.80}")
    if not isinstance(task.model, Code):
        return Shipped(task, None, callback)
    wanted = "score(population, inputs, targets) that returns (losses, correct)"
    if task.model.objectives:
        wanted = "fitness_func(ga_instance, solution, solution_idx) that returns the fitness"
    score = names.get(wanted.partition("(")[0])
    if score is None and callable(names.get("evaluate")):
        return Shipped(task, None, callback)  # each trainer has its own code
    if not callable(score):
        if callable(names.get("fitness_func")):
            raise BadConfiguration(f"{name_or_path}: expected Code(objectives=1) or more with fitness_func, got none")
        raise BadConfiguration(
            f"{name_or_path}: expected a function {wanted} for a Code model, got {type(score).__name__}: define it"
        )
    code = _packed(score, wanted.partition("(")[0], Path(name_or_path))
    return Shipped(replace(task, model=replace(task.model, sha256=sha256(code).digest())), code, callback)


def _packed(score: object, name: str, path: Path) -> bytes:
    """Pack a function by value, with the modules next to its file."""
    import cloudpickle  # here, because most tasks are data

    folder = path.parent.resolve()
    try:
        with ExitStack() as registered:
            for module in list(sys.modules.values()):
                if _lies_in(folder, module):
                    cloudpickle.register_pickle_by_value(module)
                    registered.callback(cloudpickle.unregister_pickle_by_value, module)
            code: bytes = cloudpickle.dumps(score)
    except Exception as error:
        raise BadConfiguration(
            f"{path}: expected a {name}() that can be packed, got {named(error)}: "
            "open files and locks inside the function"
        ) from error
    if len(code) > CODE_BYTES_MAX:
        raise BadConfiguration(
            f"{path}: expected at most {CODE_BYTES_MAX} bytes of code, got {len(code)}: read large tables where it runs"
        )
    return code


def _lies_in(folder: Path, module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and module.__name__ != "__main__" and Path(file).resolve().parent == folder
