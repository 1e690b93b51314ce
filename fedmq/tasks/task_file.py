"""Tasks by name or FILE.py, and their rows."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import numpy as np

from fedmq.errors import RENAMED_KEYWORDS, BadConfiguration, BadData, named
from fedmq.runtime.python_file import importable, run_file
from fedmq.tasks.builtin import BUILTINS, TASK_NAMES
from fedmq.tasks.table_task import is_task_data, read_task_file, task_of
from fedmq.tasks.task import Rows, Task, as_rows


def find_task(name_or_path: str, algorithm: str | None = None) -> Task:
    """Return the built-in task of that name, that of a FILE.toml, or the `task` of a FILE.py (which is executed).

    If the FILE.toml names no model, the `algorithm` decides, else its own.

    Raises:
        BadConfiguration: no such task or file, a file that fails, or one that defines no `task`.
    """
    if name_or_path in BUILTINS:
        return BUILTINS[name_or_path].task
    if is_task_data(name_or_path):
        file = read_task_file(Path(name_or_path))
        try:
            return task_of(file, algorithm)
        except BadConfiguration as error:
            raise BadConfiguration(f"{name_or_path}: {error}") from error
    return run_task_file(name_or_path)[0]


def task_rows(name_or_path: str, part: int, parts: int) -> Rows:
    """Return part `part` (from 1) of `parts` of the rows of a task, fitted to it.

    A FILE.py defines `rows(part, parts)`. A built-in task is split as numpy.array_split does; with more parts than
    rows, each part is one row, and rows repeat.

    Raises:
        BadData: `part` out of range, or rows that do not fit the task.
        BadConfiguration: as `find_task`, or a file that defines no `rows`.
    """
    if not 1 <= part <= parts:
        wrong = f"a part from 1 to {parts}, got {part}" if parts > 0 else f"1 or more parts, got {parts}"
        raise BadData(f"{name_or_path}:{part}/{parts}: expected {wrong}")
    if name_or_path in BUILTINS:
        rows = BUILTINS[name_or_path].rows
        every = np.arange(len(rows.inputs))
        chosen = every[[(part - 1) % len(every)]] if parts > len(every) else np.array_split(every, parts)[part - 1]
        return Rows(rows.inputs[chosen], rows.targets[chosen])
    task, names = run_task_file(name_or_path)
    if not callable(names.get("rows")):
        raise BadConfiguration(
            f"{name_or_path}: expected a function rows(part, parts) that returns (inputs, targets), got none: define it"
        )
    function = cast(Callable[[int, int], object], names["rows"])
    with importable(Path(name_or_path).parent):
        return task.fit(call_rows(lambda: function(part, parts), f"{name_or_path}:{part}/{parts}"))


def call_rows(function: Callable[[], object], source: str) -> Rows:
    """Return the rows of a user's function that returns (inputs, targets); `source` names it in errors.

    Raises:
        BadData: the function fails, or returns something else.
    """
    try:
        returned = function()
    except (Exception, SystemExit) as error:
        raise BadData(f"{source}: expected (inputs, targets), got {named(error)}") from error
    if isinstance(returned, Rows):
        checked = as_rows(returned.inputs, returned.targets, source)
        return checked._replace(weights=returned.weights, offsets=returned.offsets)
    if not isinstance(returned, tuple | list) or len(returned) != 2:
        raise BadData(f"{source}: expected a pair (inputs, targets), got {type(returned).__name__}: return two arrays")
    return as_rows(returned[0], returned[1], source)


def run_task_file(path: str) -> tuple[Task, Mapping[str, object]]:
    """Run the FILE.py of a task; return the task and all names it defines. Errors are those of `find_task`."""
    if not path.endswith(".py"):
        raise BadConfiguration(
            f"expected a task, one of {', '.join(TASK_NAMES)}, a FILE.toml of fedmq new, or a FILE.py that defines "
            f"`task`, got {path!r}"
        )
    try:
        names = run_file(Path(path))
    except BadConfiguration as error:
        for keyword, instead in RENAMED_KEYWORDS.items():
            if isinstance(error.__cause__, TypeError) and f"keyword argument '{keyword}'" in str(error):
                raise BadConfiguration(f"{path}: {instead}") from error
        raise
    task = names.get("task")
    if not isinstance(task, Task):
        raise BadConfiguration(f"{path}: expected `task = Task(...)`, got {type(task).__name__}: define it in the file")
    return task, names
