"""Tasks: a model, its loss, its target and the search settings, as one value that can travel; and the built-in tasks.

Knows nothing of rounds, trainers or the formats of files with rows.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import Literal, NamedTuple, cast

import msgspec
import numpy as np
import numpy.typing as npt

from fedmq.errors import BadConfiguration, BadData, named, one_line
from fedmq.models.networks import (
    MLP,
    Code,
    Floating,
    Floats,
    Integers,
    Linear,
    Model,
    Network,
    Scores,
    cross_entropy,
    squared_error,
)
from fedmq.names import NAME_PATTERN
from fedmq.runtime.python_file import importable, run_file

TRAINERS_MAX = 16_384  # of a run
ROUNDS_MAX = 1_000_000
CANDIDATES_MAX = 100_000
GENERATIONS_MAX = 10_000
CODE_BYTES_MAX = 1 << 20  # of packed code that scores a task
MUTATION_EXPONENT_MAX = 9.0
INITIAL_MAX = 1e6
CORRECT_WITHIN = 0.05  # a predicted value counts as correct when it is nearer than this
BLOCK_VALUES = 1 << 19  # numbers in the widest layer that are computed at once: 4 MB, what a cache holds


class Rows(NamedTuple):
    """Rows to learn from: `inputs` (rows, features) float64; `targets` (rows,) float64, or int64 for classes.

    What is read is float64 throughout; only `Task.fit`, which knows the loss, makes classes of targets.
    """

    inputs: Floats
    targets: Floats | Integers


class Search(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the strategy `evolution` searches; the defaults solved split XOR in 1,000 of 1,000 runs.

    Raises:
        BadConfiguration: a setting out of bounds; also while decoding.
    """

    population: int = 100  # candidates in a round's pool
    generations: int = 5  # of the trainers' local evolution, each round; 0: they only score
    local_population: int = 20  # candidates of the local evolution
    proposals: int = 3  # elites that a trainer sends back, at the most
    immigrants: float = 0.1  # share of each pool that is random
    restart_after: int = 15  # rounds without progress, then the population starts anew; 0: never
    initial: tuple[float, float] = (-2.0, 2.0)  # random genes are uniform in between
    mutation: tuple[float, float] = (-1.5, 0.3)  # log10 of the smallest and largest mutation scale

    def __post_init__(self) -> None:
        _check_range("population", self.population, 4, CANDIDATES_MAX)
        _check_range("generations", self.generations, 0, GENERATIONS_MAX)
        _check_range("local_population", self.local_population, 4, CANDIDATES_MAX)
        _check_range("proposals", self.proposals, 0, self.local_population)
        _check_range("immigrants", self.immigrants, 0.0, 1.0)
        _check_range("restart_after", self.restart_after, 0, ROUNDS_MAX)
        _check_interval("initial", self.initial, INITIAL_MAX)
        _check_interval("mutation", self.mutation, MUTATION_EXPONENT_MAX)


class Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to train: complete in itself, so that a trainer needs nothing but the task and its own rows.

    `loss` is what the search lowers; `metric` and `target` say when it is done: the share of correct rows is at least
    `target`, or the summed loss at most. Both are over the rows of all trainers together.

    Raises:
        BadConfiguration: settings out of bounds or that do not go together; also while decoding.
    """

    name: str
    model: Model
    loss: Literal["cross-entropy", "squared-error", "own"]  # own: what the code of a Code model returns
    metric: Literal["accuracy", "loss"]
    target: float
    trainers: int = 2  # how many trainers the task is meant for
    rounds: int = 200  # the most rounds
    search: Search = msgspec.field(default_factory=Search)

    def __post_init__(self) -> None:
        if not re.match(NAME_PATTERN, self.name):
            raise BadConfiguration(
                f"name: expected a task name of 1 to 64 letters, digits, '.', '_' or '-', got {self.name!r:.80}"
            )
        _check_loss(self.loss, self.model)
        if self.metric not in ("accuracy", "loss"):
            raise BadConfiguration(f"metric: expected accuracy or loss, got {self.metric!r}")
        _check_range("target", self.target, 0.0, 1.0 if self.metric == "accuracy" else sys.float_info.max)
        _check_range("trainers", self.trainers, 1, TRAINERS_MAX)
        _check_range("rounds", self.rounds, 1, ROUNDS_MAX)

    def score(self, population: Floating, rows: Rows) -> Scores:
        """The summed loss and the number of correct rows of each candidate, on rows that came through `fit`.

        `population` is (population, parameters), float64 or float32. Correct is the class with the largest output; for
        values, an error under CORRECT_WITHIN. Works through blocks of rows, so that memory is bounded.

        Raises:
            BadConfiguration: the model is code, which runs in a trainer's sandbox and nowhere else.
        """
        if isinstance(self.model, Code):
            raise BadConfiguration(f"expected a task that is data, got {self.name}, which is scored by code")
        losses = np.zeros(len(population))
        correct = np.zeros(len(population), dtype=np.int64)
        block = max(1, BLOCK_VALUES // max(1, len(population) * self.model.widest))
        for start in range(0, len(rows.inputs), block):
            part = Rows(rows.inputs[start : start + block], rows.targets[start : start + block])
            scores = self._score_block(self.model, population, part)
            losses += scores.losses
            correct += scores.correct
        return Scores(losses, correct)

    def _score_block(self, model: Network, population: Floating, rows: Rows) -> Scores:
        outputs = model.forward(population, rows.inputs)
        if self.loss == "cross-entropy":
            right = outputs.argmax(axis=2) == rows.targets
            losses = cross_entropy(outputs, cast(Integers, rows.targets))
        else:
            with np.errstate(invalid="ignore"):
                right = np.abs(outputs[:, :, 0] - rows.targets) < CORRECT_WITHIN
            losses = squared_error(outputs, cast(Floats, rows.targets))
        return Scores(losses, np.count_nonzero(right, axis=1).astype(np.int64))

    def fit(self, rows: Rows) -> Rows:
        """The same rows, ready for `score`: inputs float64, targets int64 for classes and float64 for values.

        The one place where targets become classes; rows that are fitted already come out as they were.

        Raises:
            BadData: no rows, another number of columns than the model has inputs, a number that is not finite, or a
                target that is not a class from 0 to one less than the number of outputs.
        """
        checked = as_rows(rows.inputs, rows.targets, f"rows for task {self.name}")
        columns = checked.inputs.shape[1]
        if columns != self.model.inputs:
            raise BadData(
                f"expected {self.model.inputs} input columns for task {self.name}, got {columns}: "
                "give rows with these columns, the target apart"
            )
        if self.loss != "cross-entropy":
            return checked
        return Rows(checked.inputs, self._classes(checked.targets))

    def check(self, rows: Rows) -> None:
        """Nothing, if the rows fit the task.

        Raises:
            BadData: as `fit`.
        """
        self.fit(rows)

    def _classes(self, targets: Floats | Integers) -> Integers:
        assert not isinstance(self.model, Code)  # its loss is its own
        wrong = (targets != np.floor(targets)) | (targets < 0) | (targets >= self.model.outputs)
        if wrong.any():
            row = int(wrong.argmax())
            raise BadData(
                f"expected a class from 0 to {self.model.outputs - 1} as target for task {self.name}, "
                f"got {targets[row]:g} in row {row + 1}: number the classes from 0"
            )
        return targets.astype(np.int64)

    def reached(self, loss: float, correct: int, rows: int) -> bool:
        """Whether a candidate with this summed loss and so many correct of all rows is good enough to stop."""
        if rows < 1:
            return False
        value = self.value(loss, correct, rows)
        return value >= self.target if self.metric == "accuracy" else value <= self.target

    def value(self, loss: float, correct: int, rows: int) -> float:
        """The metric: the share of correct rows (0 where there are no rows), or the summed loss."""
        if self.metric == "loss":
            return float(loss)
        return correct / rows if rows else 0.0


class _Builtin(NamedTuple):
    """A task that is installed everywhere, and the rows that it is shown with."""

    task: Task
    rows: Rows


def _xor() -> _Builtin:
    """Split so that no half alone holds XOR: 1/2 = (01 -> 1, 00 -> 0), 2/2 = (10 -> 1, 11 -> 0)."""
    task = Task(name="xor", model=MLP((2, 4, 2)), loss="cross-entropy", metric="accuracy", target=1.0)
    inputs = np.array([[0.0, 1.0], [0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    return _Builtin(task, Rows(inputs, np.array([1, 0, 1, 0], dtype=np.int64)))


def _parity4() -> _Builtin:
    """Whether the number of ones among four bits is odd; the 16 rows in binary order."""
    task = Task(
        name="parity4",
        model=MLP((4, 8, 2), hidden="tanh"),
        loss="cross-entropy",
        metric="accuracy",
        target=1.0,
        trainers=4,
        rounds=400,
        search=Search(population=200),  # 99 of 100 runs solved it, in 79 to 88 rounds (median); with 100, 110
    )
    bits = (np.arange(16)[:, None] >> np.array([3, 2, 1, 0])) & 1
    return _Builtin(task, Rows(bits.astype(np.float64), bits.sum(axis=1, dtype=np.int64) % 2))


def _linear() -> _Builtin:
    """Least squares over two trainers: part 1/2 is bob's, part 2/2 alice's.

    The pooled optimum is y = 1.5 a + 0.5 b - 0.25 with a summed squared error of 0.25. With d the distance from it,
    the loss is 0.25 + d' (X' X) d, so that a loss of 0.25 + e holds coefficient i within sqrt(e ((X' X)^-1)_ii): here
    sqrt(e) for the weights and sqrt(0.75 e) for the bias. The target, e = 0.0001, holds all of them within 0.01.
    """
    task = Task(
        name="linear",
        model=Linear(2, 1),
        loss="squared-error",
        metric="loss",
        target=0.2501,
        search=Search(mutation=(-3.0, 0.0)),  # fine steps at the end: with the defaults 28 rounds instead of 16
    )
    inputs = np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    return _Builtin(task, Rows(inputs, np.array([2.0, 0.0, 1.0, 0.0])))


_BUILTINS: Mapping[str, Callable[[], _Builtin]] = {"xor": _xor, "parity4": _parity4, "linear": _linear}
TASK_NAMES: tuple[str, ...] = tuple(_BUILTINS)


def find_task(name_or_path: str) -> Task:
    """The built-in task of that name, or `task` as the FILE.py defines it (the file is executed).

    Raises:
        BadConfiguration: no such task or file, a file that fails, or one that defines no `task`.
    """
    if name_or_path in _BUILTINS:
        return _BUILTINS[name_or_path]().task
    return task_in(run_task_file(name_or_path), name_or_path)


def task_rows(name_or_path: str, part: int, parts: int) -> Rows:
    """Part `part` (from 1) of `parts` of the rows of a built-in task, or what `rows(part, parts)` of a FILE.py returns.

    They are fitted to the task. The parts of a built-in task are as equal as can be (numpy.array_split); with more
    parts than rows, each part is one row, and rows repeat.

    Raises:
        BadData: a part that cannot be, or rows that do not fit the task.
        BadConfiguration: as `find_task`, or a file that defines no `rows`.
    """
    if not 1 <= part <= parts:
        wrong = f"a part from 1 to {parts}, got {part}" if parts > 0 else f"1 or more parts, got {parts}"
        raise BadData(f"{name_or_path}:{part}/{parts}: expected {wrong}")
    if name_or_path in _BUILTINS:
        return _part(_BUILTINS[name_or_path]().rows, part, parts)
    names = run_task_file(name_or_path)
    task = task_in(names, name_or_path)
    if not callable(names.get("rows")):
        raise BadConfiguration(
            f"{name_or_path}: expected a function rows(part, parts) that returns (inputs, targets), got none: define it"
        )
    function = cast(Callable[[int, int], object], names["rows"])
    with importable(Path(name_or_path).parent):
        return task.fit(called_rows(lambda: function(part, parts), f"{name_or_path}:{part}/{parts}"))


def called_rows(function: Callable[[], object], source: str) -> Rows:
    """The rows that somebody's function returns as (inputs, targets); `source` names it in errors.

    Raises:
        BadData: the function fails, or returns something else.
    """
    try:
        returned = function()
    except (Exception, SystemExit) as error:
        raise BadData(f"{source}: expected (inputs, targets), got {named(error)}") from error
    if not isinstance(returned, tuple | list) or len(returned) != 2:
        raise BadData(f"{source}: expected a pair (inputs, targets), got {type(returned).__name__}: return two arrays")
    return as_rows(returned[0], returned[1], source)


def as_rows(inputs: npt.ArrayLike, targets: npt.ArrayLike, source: str) -> Rows:
    """Rows from anything like arrays, inputs and targets float64; `source` names them in errors.

    Raises:
        BadData: not tables of numbers, shapes that do not belong together, no rows, or a number that is not finite.
    """
    table, column = _as_numbers(inputs, f"{source}: inputs"), _as_numbers(targets, f"{source}: targets")
    if table.ndim != 2 or column.ndim != 1 or len(table) != len(column):
        raise BadData(
            f"{source}: expected inputs of shape (rows, columns) and targets of shape (rows,), "
            f"got {table.shape} and {column.shape}"
        )
    if table.size == 0:
        raise BadData(f"{source}: expected at least one row and one column, got shape {table.shape}")
    bad = ~np.isfinite(np.column_stack([table, column]))
    if bad.any():
        row, place = (int(index) for index in np.argwhere(bad)[0])
        where = f"column {place + 1}" if place < table.shape[1] else "the target"
        raise BadData(
            f"{source}: expected finite numbers, got NaN or infinity in row {row + 1}, {where}: mend or drop the row"
        )
    return Rows(table, column)


def _part(rows: Rows, part: int, parts: int) -> Rows:
    count = len(rows.inputs)
    chosen = np.array([(part - 1) % count]) if parts > count else np.array_split(np.arange(count), parts)[part - 1]
    return Rows(rows.inputs[chosen], rows.targets[chosen])


def run_task_file(path: str) -> Mapping[str, object]:
    """The names that the FILE.py of a task defines; modules beside it are found.

    Raises:
        BadConfiguration: as `find_task`.
    """
    if not path.endswith(".py"):
        raise BadConfiguration(
            f"expected a task, one of {', '.join(TASK_NAMES)}, or a FILE.py that defines `task`, got {path!r}"
        )
    return run_file(Path(path))


def task_in(names: Mapping[str, object], path: str) -> Task:
    """The task among the names that a file defines.

    Raises:
        BadConfiguration: there is none.
    """
    task = names.get("task")
    if not isinstance(task, Task):
        raise BadConfiguration(f"{path}: expected `task = Task(...)`, got {type(task).__name__}: define it in the file")
    return task


def _as_numbers(values: npt.ArrayLike, source: str) -> Floats:
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"dtype {array.dtype}")
        return np.ascontiguousarray(array, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BadData(f"{source}: expected an array of numbers, got {one_line(error)}") from error


def _check_loss(loss: str, model: Model) -> None:
    if isinstance(model, Code) or loss == "own":
        if not isinstance(model, Code) or loss != "own":
            raise BadConfiguration(
                f'loss: expected "own" for a Code model and for no other, got {loss!r} for {model}: '
                "what score() of a Code model returns is its loss"
            )
    elif loss == "cross-entropy":
        if model.output != "softmax" or model.outputs < 2:
            raise BadConfiguration(
                f"loss: expected a softmax model with 2 or more outputs for cross-entropy, got {model}: "
                'use MLP([..., classes], output="softmax"), or squared-error'
            )
    elif loss == "squared-error":
        if model.output != "identity" or model.outputs != 1:
            raise BadConfiguration(
                f"loss: expected a model with one identity output for squared-error, got {model}: "
                'use Linear(inputs) or MLP([..., 1], output="identity")'
            )
    else:
        raise BadConfiguration(f"loss: expected cross-entropy or squared-error, got {loss!r}")


def _check_range(field: str, value: float, smallest: float, largest: float) -> None:
    if not smallest <= value <= largest:
        raise BadConfiguration(f"{field}: expected a number from {smallest:g} to {largest:g}, got {value}")


def _check_interval(field: str, interval: tuple[float, float], largest: float) -> None:
    low, high = interval
    if not (isfinite(low) and isfinite(high) and -largest <= low <= high <= largest):
        raise BadConfiguration(f"{field}: expected (low, high) within -{largest:g} to {largest:g}, got {interval}")
