"""Tasks and rows: what to train, as one value that is sent to trainers, and what it is trained on."""

import re
import sys
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, Literal, NamedTuple, Self, cast

import msgspec
import numpy as np
import numpy.typing as npt

from fedmq.errors import BadConfiguration, BadData, WorkCancelled, one_line
from fedmq.models.arrays import Floating, Floats, Integers, all_finite
from fedmq.models.losses import Scores, cross_entropy, squared_error
from fedmq.models.networks import Code, Model
from fedmq.models.torch_model import Torch
from fedmq.models.trained_model import TrainedModel
from fedmq.models.trees import Trees
from fedmq.names import NAME_PATTERN
from fedmq.tables.preparation import Preparation
from fedmq.tables.schema import Schema
from fedmq.tasks.plain_parameters import plain_parameters

TRAINERS_MAX = 16_384  # of a run
ROUNDS_MAX = 1_000_000
CODE_BYTES_MAX = 1 << 20  # of the packed code of a Code model
CORRECT_WITHIN = 0.05  # a predicted value is correct when its error is smaller, in units of `output_scale`
OUTPUT_SCALE_MIN = 1e-30
HOLDOUT_MAX = 0.9
HOLES_SHOWN_MAX = 8  # columns that one error names
BLOCK_VALUES = 1 << 19  # numbers of the widest layer computed at once: 4 MB fit into a cache


class Rows(NamedTuple):
    """Rows to learn from: `inputs` (rows, features) float64; `targets` (rows,) float64, or int64 for classes.

    Readers return float64 targets; `Task.fit`, which knows the loss, converts them to classes.
    """

    inputs: Floats
    targets: Floats | Integers
    weights: Floats | None = None  # (rows,), each above 0; None: 1
    offsets: Floats | None = None  # (rows,), added to the linear predictor; None: 0
    hashes: npt.NDArray[np.uint64] | None = None  # (rows,), of a table's rows before they are prepared


class Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What to train. A trainer needs only the task and its own rows.

    Training lowers `loss`. It ends when the `metric` reaches `target`: an accuracy of at least `target`, or a summed
    loss of at most `target`, over the rows of all trainers. Without a target it ends when its rounds are used up.

    Raises:
        BadConfiguration: settings out of bounds or in conflict; also while decoding.
    """

    name: str
    model: Model
    loss: Literal["cross-entropy", "squared-error", "own"]  # own: of a Code or Torch model
    metric: Literal["accuracy", "loss"]
    target: float | None = None
    trainers: int = 2  # intended number of trainers
    rounds: int = 200  # at most
    parameters: dict[str, dict[str, Any]] = {}  # of algorithms, by name, where not their defaults; not sent
    algorithm: str = ""  # by default; "": that of `fedmq.algorithms.registry`; not sent
    output_scale: float = 1.0  # of squared errors: a predicted value is the output of the model times this
    schema: Schema | None = None  # the columns by name; None: rows of numbers, the target last
    holdout: float = 0.0  # share of each trainer's rows that are scored and never trained on

    def __post_init__(self) -> None:
        _check_kinds(self)
        if not re.match(NAME_PATTERN, self.name):
            raise BadConfiguration(
                f"name: expected a task name of 1 to 64 letters, digits, '.', '_' or '-', got {self.name!r:.80}"
            )
        if self.parameters:
            plain = {name: plain_parameters(values) for name, values in self.parameters.items()}
            msgspec.structs.force_setattr(self, "parameters", plain)
        _check_loss(self.loss, self.model)
        if self.metric not in ("accuracy", "loss"):
            raise BadConfiguration(f"metric: expected accuracy or loss, got {self.metric!r}")
        if self.target is not None:
            _check_range("target", self.target, 0.0, 1.0 if self.metric == "accuracy" else sys.float_info.max)
        _check_range("trainers", self.trainers, 1, TRAINERS_MAX, Integral)
        _check_range("rounds", self.rounds, 1, ROUNDS_MAX, Integral)
        _check_range("output_scale", self.output_scale, OUTPUT_SCALE_MIN, 1.0 / OUTPUT_SCALE_MIN)
        _check_range("holdout", self.holdout, 0.0, HOLDOUT_MAX)
        _check_objectives(self)
        if self.holdout and self.loss == "own":
            raise BadConfiguration("holdout: expected 0 for a model that is code, which scores all of its rows itself")
        if self.schema is not None:
            _check_schema(self.schema, self.model, self.loss)
        if self.output_scale != 1.0 and self.loss != "squared-error":
            raise BadConfiguration(
                f"output_scale: expected 1 for the loss {self.loss}, got {self.output_scale:g}: "
                "only values that squared-error compares have a scale"
            )

    @property
    def takes_columns(self) -> bool:
        """Whether the model's inputs are the columns of a schema as they are encoded, not the features made of them."""
        return isinstance(self.model, Trees)

    def with_holdout(self, share: float | None) -> Self:
        """Return the task with this share of held-out rows; None: its own."""
        return self if share is None else msgspec.structs.replace(self, holdout=share)

    def score(self, population: Floating, rows: Rows, cancelled: Callable[[], bool] | None = None) -> Scores:
        """Return the summed loss and the number of correct rows of each candidate, on rows returned by `fit`
        and `scaled`.

        `population` is (population, num_parameters), float64 or float32. A class is correct if its output is the
        largest, a value if its error is below CORRECT_WITHIN. Blocks of rows bound the memory; `cancelled`, if given,
        is called after each block but the last.

        Raises:
            BadConfiguration: the model is code, which runs only in a trainer's sandbox.
            WorkCancelled: `cancelled()` is true.
        """
        if isinstance(self.model, Code):
            raise BadConfiguration(f"expected a task that is data, got {self.name}, which is scored by code")
        if isinstance(self.model, Torch) and self.loss == "own":
            return self.model.scores(population, rows.inputs, rows.targets, cancelled)
        losses = np.zeros(len(population))
        correct = np.zeros(len(population), dtype=np.int64)
        block = max(1, BLOCK_VALUES // max(1, len(population) * self.model.widest))
        for start in range(0, len(rows.inputs), block):
            if start and cancelled is not None and cancelled():
                raise WorkCancelled("the scores are needless: the work was cancelled")
            found = self._score_block(
                population, rows.inputs[start : start + block], rows.targets[start : start + block]
            )
            losses += found.losses
            correct += found.correct
        return Scores(losses, correct)

    def _score_block(self, population: Floating, inputs: Floats, targets: Floats | Integers) -> Scores:
        """Score one block. Its arrays are freed before those of the next one, which takes their memory."""
        assert not isinstance(self.model, Code)
        outputs = self.model.forward(population, inputs)
        if self.loss == "cross-entropy":
            right = outputs.argmax(axis=2) == targets
            losses = cross_entropy(outputs, cast(Integers, targets))
        else:
            with np.errstate(invalid="ignore"):
                right = np.abs(outputs[:, :, 0] - targets) < CORRECT_WITHIN
            losses = squared_error(outputs, cast(Floats, targets))
        return Scores(losses, np.count_nonzero(right, axis=1))

    def fit(self, rows: Rows) -> Rows:
        """Return rows ready for `score`: inputs float64, targets int64 for classes and float64 for values.

        Fitting rows again returns them unchanged.

        Raises:
            BadData: no rows, a wrong number of columns, a number that is not finite, or a target that is not a class
                from 0 to the number of outputs - 1.
        """
        checked = as_rows(rows.inputs, rows.targets, f"rows for task {self.name}")
        columns = checked.inputs.shape[1]
        if columns != self.model.inputs:
            problem = f"expected {self.model.inputs} input columns for task {self.name}, got {columns}"
            raise BadData(f"{problem}: give rows with these columns, the target not among them", problem)
        checked = checked._replace(weights=rows.weights, offsets=rows.offsets)
        if self.loss != "cross-entropy":
            return checked
        assert not isinstance(self.model, Code)  # its loss is its own
        targets = checked.targets
        wrong = (targets != np.floor(targets)) | (targets < 0) | (targets >= self.model.outputs)
        if wrong.any():
            row = int(wrong.argmax())
            problem = f"expected a class from 0 to {self.model.outputs - 1} as target for task {self.name}"
            raise BadData(
                f"{problem}, got {targets[row]:g} in row {row + 1}: number the classes from 0",
                f"{problem}, got another",
            )
        return checked._replace(targets=targets.astype(np.int64))

    def scaled(self, rows: Rows) -> Rows:
        """Return fitted rows as learners get them: the targets in units of `output_scale`."""
        if self.output_scale == 1.0:
            return rows
        offsets = None if rows.offsets is None else rows.offsets / self.output_scale
        return rows._replace(targets=rows.targets / self.output_scale, offsets=offsets)

    def trained(self, parameters: Floats, preparation: Preparation | None = None) -> TrainedModel:
        """Return the model with these parameters (num_parameters,) float64, which predicts unscaled values.

        With a schema it needs the preparation that the columns were trained with.
        """
        return TrainedModel(self.model, parameters, self.name, self.output_scale, preparation)

    def reached(self, loss: float, correct: int, rows: int) -> bool:
        """Return whether a candidate with this summed loss and number of correct rows meets the target."""
        if rows < 1 or self.target is None:
            return False
        value = self.value(loss, correct, rows)
        return value >= self.target if self.metric == "accuracy" else value <= self.target

    def value(self, loss: float, correct: int, rows: int) -> float:
        """Return the metric: the share of correct rows (0 without rows), or the summed loss."""
        if self.metric == "loss":
            return float(loss)
        return correct / rows if rows else 0.0


def as_rows(inputs: npt.ArrayLike, targets: npt.ArrayLike, source: str) -> Rows:
    """Return rows of float64 inputs and targets; `source` names them in errors.

    Raises:
        BadData: not numbers, wrong shapes, no rows, or a number that is not finite.
    """
    table, column = _as_numbers(inputs, f"{source}: inputs"), _as_numbers(targets, f"{source}: targets")
    if table.ndim != 2 or column.ndim != 1 or len(table) != len(column):
        raise BadData(
            f"{source}: expected inputs of shape (rows, columns) and targets of shape (rows,), "
            f"got {table.shape} and {column.shape}"
        )
    if table.size == 0:
        raise BadData(f"{source}: expected at least one row and one column, got shape {table.shape}")
    if not (all_finite(table) and all_finite(column)):
        bad = ~np.isfinite(np.column_stack([table, column]))
        raise BadData(f"{source}: expected finite numbers, got NaN or infinity in {_holes(bad)}")
    return Rows(table, column)


def _holes(bad: npt.NDArray[np.bool_]) -> str:
    """Return the first bad row of each column, with counts and advice; the last column is the target."""
    texts, counts = [], bad.sum(axis=0)
    for place in np.flatnonzero(counts)[:HOLES_SHOWN_MAX]:
        where = f"column {place + 1}" if place < bad.shape[1] - 1 else "the target"
        texts.append(f"row {bad[:, place].argmax() + 1}, {where} ({counts[place]} of {len(bad)} rows)")
    if (more := np.count_nonzero(counts) - len(texts)) > 0:
        texts.append(f"{more} more columns")
    whole = any(2 * counts[:-1] > len(bad))
    return "; ".join(texts) + (": correct or drop the rows" + whole * ", and drop a column that has it in most rows")


def _as_numbers(values: npt.ArrayLike, source: str) -> Floats:
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"dtype {array.dtype}")
        return np.ascontiguousarray(array, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BadData(f"{source}: expected an array of numbers, got {one_line(error)}") from error


# In Python, a field may have any type.
_KINDS: dict[str, tuple[Any, str]] = {
    "name": (str, "a text"),
    "model": (Model, "a model such as MLP([2, 8, 2])"),
    "parameters": (dict, "a dict of dicts by algorithm"),
    "algorithm": (str, "the name of an algorithm"),
    "schema": (Schema | None, "the columns of a table, or None"),
}


def _check_kinds(task: Task) -> None:
    for field, (kind, text) in _KINDS.items():
        if not isinstance(value := getattr(task, field), kind):
            raise BadConfiguration(f"{field}: expected {text}, got {value!r:.80}")
    for name, values in task.parameters.items():
        if not isinstance(values, dict):
            raise BadConfiguration(f"parameters of {name}: expected a dict, got {values!r:.80}")


def _check_loss(loss: str, model: Model) -> None:
    if isinstance(model, Torch) and model.own_loss != (loss == "own"):
        wanted = "own, for a module with a method losses" if model.own_loss else "cross-entropy or squared-error"
        raise BadConfiguration(f"loss: expected {wanted}, got {loss!r} for {model.factory}")
    if isinstance(model, Code) or (loss == "own" and not isinstance(model, Torch)):
        if not isinstance(model, Code) or loss != "own":
            raise BadConfiguration(
                f'loss: expected "own" for a Code model and for no other, got {loss!r} for {model}: '
                "score() of a Code model returns its loss"
            )
    elif loss == "own":
        return
    elif loss == "cross-entropy":
        if model.output != "softmax" or model.outputs < 2:
            raise BadConfiguration(
                f"loss: expected a softmax model with 2 or more outputs for cross-entropy, got {model}: "
                'use outputs=CLASSES of torch_model, MLP([..., classes], output="softmax"), or squared-error'
            )
    elif loss == "squared-error":
        if model.output != "identity" or model.outputs != 1:
            raise BadConfiguration(
                f"loss: expected a model with one identity output for squared-error, got {model}: "
                'use Linear(inputs) or MLP([..., 1], output="identity")'
            )
    else:
        raise BadConfiguration(f"loss: expected cross-entropy or squared-error, got {loss!r}")


def _check_objectives(task: Task) -> None:
    """Check that a task with a fitness function has no target: fitness is not a loss, it may be negative."""
    if isinstance(task.model, Code) and task.model.objectives and (task.metric != "loss" or task.target is not None):
        raise BadConfiguration(
            'metric: expected "loss" without a target for a model with objectives, whose loss is minus the first '
            'fitness: end the run with num_generations or stop_criteria="reach_VALUE"'
        )


def _check_schema(schema: Schema, model: Model, loss: str) -> None:
    """Check that a model fits the columns and the target of a schema."""
    inputs = len(schema.columns) if isinstance(model, Trees) else schema.num_features
    if model.inputs != inputs:
        raise BadConfiguration(f"model: expected {inputs} inputs for the columns of the schema, got {model.inputs}")
    classes = len(schema.target.classes)
    if loss == "cross-entropy" and not isinstance(model, Code) and model.outputs != classes:
        raise BadConfiguration(f"model: expected {classes} outputs for the classes of the schema, got {model.outputs}")
    if loss != "own" and (loss == "cross-entropy") != (schema.target.kind == "class"):
        wanted = "cross-entropy" if schema.target.kind == "class" else "squared-error"
        raise BadConfiguration(f"loss: expected {wanted} for a target that is a {schema.target.kind}, got {loss}")


def _check_range(field: str, value: float, smallest: float, largest: float, kind: type = Real) -> None:
    if isinstance(value, bool) or not isinstance(value, kind) or not smallest <= value <= largest:
        number = "a whole number" if kind is Integral else "a number"
        raise BadConfiguration(f"{field}: expected {number} from {smallest:g} to {largest:g}, got {value!r:.80}")
