"""Models as flat parameter vectors: evaluation of whole populations, losses, and trained models."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from fedmq.errors import BadConfiguration, BadData

LAYERS_MAX = 16  # sizes in an MLP, the inputs and the outputs among them
LAYER_UNITS_MAX = 65_536
PARAMETERS_MAX = 10_000_000
ROW_CROSS_ENTROPY_MAX = 20.0  # nats: a row that is hopelessly wrong must not outweigh all the others
ROW_SQUARED_ERROR_MAX = 1e12  # keeps a loss finite where a wild candidate overflows

Floating = npt.NDArray[np.floating[Any]]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Hidden = Literal["relu", "tanh", "sigmoid"]
Output = Literal["softmax", "identity"]

# What numpy and zipfile raise over bytes that are no .npy or .npz file, or a damaged one.
UNREADABLE: tuple[type[Exception], ...] = (
    ValueError,
    TypeError,
    KeyError,
    EOFError,
    OverflowError,
    MemoryError,
    RuntimeError,  # encrypted; NotImplementedError, an unknown compression, is one
    zipfile.BadZipFile,
    zlib.error,
    SyntaxError,  # a damaged .npy header
)
_UNREADABLE_MODEL: tuple[type[Exception], ...] = (*UNREADABLE, msgspec.MsgspecError, BadConfiguration)


class Scores(NamedTuple):
    """How a population did on some rows: `losses` (population,) float64, summed over the rows, and `correct`
    (population,) int64, the rows that were right.
    """

    losses: Floats
    correct: Integers


class MLP(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="mlp"):
    """A fully connected network, e.g. `MLP([2, 4, 2], hidden="relu", output="softmax")`.

    Parameters are those of each layer in turn: weights (inputs, outputs) in C order, then biases (outputs,) if any.
    `sizes` counts the inputs first and the outputs last; it may be given as a list and is kept as a tuple.

    Raises:
        BadConfiguration: sizes out of bounds, or an unknown activation; also while decoding.
    """

    sizes: Sequence[int]
    hidden: Hidden = "relu"
    output: Output = "softmax"
    bias: bool = True

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "sizes", _checked_sizes(self.sizes))
        _check_choice("hidden", self.hidden, ("relu", "tanh", "sigmoid"))
        _check_choice("output", self.output, ("softmax", "identity"))
        _check_parameter_count(self.num_parameters)

    @property
    def num_parameters(self) -> int:
        """How many weights and biases there are."""
        return sum((above + self.bias) * below for above, below in pairwise(self.sizes))

    @property
    def inputs(self) -> int:
        """How many columns a row has."""
        return self.sizes[0]

    @property
    def outputs(self) -> int:
        """How many numbers come out for a row: for softmax, the number of classes."""
        return self.sizes[-1]

    @property
    def widest(self) -> int:
        """The most numbers that one layer computes for a row and a candidate."""
        return max(self.sizes[1:])

    def forward(self, population: Floating, inputs: Floating) -> Floating:
        """The raw outputs, (population, rows, outputs) in the dtype of `population` (float32 or float64).

        `population` is (population, parameters), `inputs` (rows, features). Raw means before the softmax. A candidate
        that overflows gives infinities or NaN, without a warning; the losses bound them.

        Raises:
            ValueError: the population has another number of parameters than the model.
        """
        return _forward(self.sizes, self.bias, self.hidden, population, inputs)


class Linear(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="linear"):
    """A linear model with bias. Parameters: the weights (inputs, outputs) in C order, then the biases (outputs,).

    Raises:
        BadConfiguration: `inputs` or `outputs` out of bounds; also while decoding.
    """

    inputs: int
    outputs: int = 1

    def __post_init__(self) -> None:
        _checked_sizes((self.inputs, self.outputs))
        _check_parameter_count(self.num_parameters)

    @property
    def num_parameters(self) -> int:
        """How many weights and biases there are."""
        return (self.inputs + 1) * self.outputs

    @property
    def widest(self) -> int:
        """The most numbers that one layer computes for a row and a candidate."""
        return self.outputs

    @property
    def output(self) -> Output:
        """What is done to the raw outputs: nothing."""
        return "identity"

    def forward(self, population: Floating, inputs: Floating) -> Floating:
        """The values, (population, rows, outputs) in the dtype of `population`; shapes and errors as `MLP.forward`."""
        return _forward((self.inputs, self.outputs), True, "relu", population, inputs)


class Code(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="code", rename={"num_parameters": "genes"}):
    """A model that only its own Python function can score; the function travels with each round of the run.

    `num_parameters` numbers are searched for, a row has `inputs` columns. The FILE.py of the task defines
    `score(population, inputs, targets)`: from (population, parameters), (rows, inputs) and (rows,), all float64, to the
    losses (population,), summed over the rows and not negative, and how many rows each candidate gets right
    (population,). `sha256` is of the bytes that travel, empty in a FILE.py.

    Raises:
        BadConfiguration: a number out of bounds, or no SHA-256; also while decoding.
    """

    num_parameters: int  # "genes" on the wire and in model files
    inputs: int
    sha256: bytes = b""

    def __post_init__(self) -> None:
        for field, value, largest in (
            ("num_parameters", self.num_parameters, PARAMETERS_MAX),
            ("inputs", self.inputs, LAYER_UNITS_MAX),
        ):
            if type(value) is not int or not 1 <= value <= largest:
                raise BadConfiguration(f"{field}: expected an integer from 1 to {largest}, got {value!r}")
        if len(self.sha256) not in (0, 32):
            raise BadConfiguration(f"sha256: expected 32 bytes, got {len(self.sha256)}: leave it out in a file")


Network = MLP | Linear
Model = Network | Code


def cross_entropy(outputs: Floating, targets: Integers) -> Floats:
    """The summed cross-entropy of each candidate, (population,) float64, in nats.

    `outputs` are raw, (population, rows, classes); `targets` (rows,) int64. By log-sum-exp, so that large outputs are
    exact. Each row counts at most ROW_CROSS_ENTROPY_MAX, and just that where the outputs are not finite.
    """
    # Classes first: numpy reduces over a long last axis quickly, over a short one slowly (0.3 against 1.2 ms for
    # 50 candidates, 300 rows and 10 classes).
    by_class = np.ascontiguousarray(outputs.transpose(2, 0, 1))
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        largest = by_class.max(axis=0)
        log_sum = np.log(np.exp(by_class - largest).sum(axis=0)) + largest
        losses = log_sum - outputs[:, np.arange(len(targets)), targets]
    return _summed(losses, ROW_CROSS_ENTROPY_MAX)


def squared_error(outputs: Floating, targets: Floats) -> Floats:
    """The summed squared error of each candidate, (population,) float64.

    `outputs` (population, rows, 1); `targets` (rows,) float64. Each row counts at most ROW_SQUARED_ERROR_MAX, and just
    that where the outputs are not finite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        losses = np.square(outputs[:, :, 0] - targets)
    return _summed(losses, ROW_SQUARED_ERROR_MAX)


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A trained model: its shape, its parameters (num_parameters,) float64, and the name of its task.

    Raises:
        BadConfiguration: the parameters are not those of the model.
    """

    model: Model
    parameters: Floats
    task: str

    def __post_init__(self) -> None:
        if self.parameters.shape != (self.model.num_parameters,) or self.parameters.dtype != np.float64:
            raise BadConfiguration(
                f"expected {self.model.num_parameters} parameters of float64 for {self.model}, "
                f"got {self.parameters.dtype} of shape {self.parameters.shape}: give the parameters of one candidate"
            )

    def predict(self, rows: npt.ArrayLike) -> Floats | Integers:
        """For softmax the class of each row, (rows,) int64; else the values, (rows,) or (rows, outputs) float64.

        `rows` (rows, features) may be a list of lists.

        Raises:
            BadData: another number of columns than the model has inputs, or text.
            BadConfiguration: the model is code, of which fedmq knows no more than how to score it.
        """
        network, raw = self.network(), self._raw(rows)
        if network.output == "softmax":
            classes: Integers = raw.argmax(axis=1)
            return classes
        return raw.ravel() if network.outputs == 1 else raw

    def probabilities(self, rows: npt.ArrayLike) -> Floats:
        """The probability of each class for each row, (rows, classes) float64.

        Raises:
            BadConfiguration: the model gives values, not classes.
            BadData: as `predict`.
        """
        if self.network().output != "softmax":
            raise BadConfiguration(
                f"expected a model with softmax output, got {self.model}, which has no probabilities: use predict"
            )
        raw = self._raw(rows)
        weights = np.exp(raw - raw.max(axis=1, keepdims=True))
        probabilities: Floats = weights / weights.sum(axis=1, keepdims=True)
        return probabilities

    def to_bytes(self) -> bytes:
        """The bytes of an .npz file for `load_model`: the same model gives the same bytes. No pickle is in it."""
        description = msgspec.json.encode(_Description(model=self.model, task=self.task)).decode()
        buffer = io.BytesIO()
        np.savez(buffer, genes=self.parameters.astype("<f8"), description=np.array(description, dtype="<U"))
        return buffer.getvalue()

    def network(self) -> Network:
        """The model, if it is one that fedmq evaluates itself; else raises BadConfiguration."""
        if isinstance(self.model, Code):
            raise BadConfiguration(
                f"expected a model that fedmq can evaluate, got one that is code, of task {self.task}: "
                "give its `parameters` to a function of your own"
            )
        return self.model

    def _raw(self, rows: npt.ArrayLike) -> Floats:
        """The raw outputs, (rows, outputs)."""
        try:
            inputs = np.asarray(rows, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise BadData(f"expected rows of {self.model.inputs} numbers, got what is no table of numbers") from error
        if inputs.ndim != 2 or inputs.shape[1] != self.model.inputs:
            raise BadData(
                f"expected rows of {self.model.inputs} columns for task {self.task}, got shape {inputs.shape}: "
                f"give a table of shape (rows, {self.model.inputs})"
            )
        outputs: Floats = self.network().forward(self.parameters[None, :], inputs)[0]
        return outputs


class _Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What stands beside the parameters in a model file, as JSON."""

    format: Literal["fedmq-model-1"] = "fedmq-model-1"
    model: Model
    task: str


def load_model(path: str | Path) -> TrainedModel:
    """The model in a file that holds `TrainedModel.to_bytes()`. Nothing in it is unpickled.

    Raises:
        BadConfiguration: there is no such file, or it is damaged, or it is not a model of fedmq.
    """
    try:
        return _read_model(Path(path).read_bytes())
    except OSError as error:
        raise BadConfiguration(f"{path}: expected a model file, got: {error.strerror}") from error
    except _UNREADABLE_MODEL as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BadConfiguration(
            f"{path}: expected a model that fedmq saved, got a damaged or foreign file ({reason}): copy it again"
        ) from error


def all_finite(array: npt.NDArray[Any]) -> bool:
    """Whether it holds neither NaN nor infinity."""
    return bool(np.count_nonzero(np.isfinite(array)) == array.size)  # a third of the time of `all` on a small array


def _read_model(data: bytes) -> TrainedModel:
    # A zip archive: np.load must not come to see a bare .npy, or a pickle, here.
    if not data.startswith(b"PK"):
        raise ValueError("not an .npz file")
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        description = msgspec.json.decode(str(arrays["description"][()]), type=_Description)
        parameters = arrays["genes"]
    if not all_finite(parameters):
        raise ValueError("parameters that are not finite")
    return TrainedModel(
        model=description.model, parameters=parameters.astype(np.float64, copy=False), task=description.task
    )


def _forward(sizes: Sequence[int], bias: bool, hidden: Hidden, population: Floating, inputs: Floating) -> Floating:
    if population.ndim != 2 or population.shape[1] != sum((above + bias) * below for above, below in pairwise(sizes)):
        raise ValueError(f"expected a population of candidates for layers {tuple(sizes)}, got {population.shape}")
    values = np.asarray(inputs, dtype=population.dtype)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for layer, (weights, biases) in enumerate(_layers(sizes, bias, population)):
            if layer == 0:
                values = _first_product(values, weights)
            else:
                _activate(hidden, values)
                values = values @ weights
            if bias:
                values += biases
    return values


def _layers(sizes: Sequence[int], bias: bool, population: Floating) -> Iterator[tuple[Floating, Floating]]:
    """Each layer's weights (population, inputs, outputs) and biases (population, 1, outputs or 0), as views."""
    start = 0
    for above, below in pairwise(sizes):
        middle = start + above * below
        end = middle + below * bias
        yield population[:, start:middle].reshape(-1, above, below), population[:, None, middle:end]
        start = end


def _first_product(inputs: Floating, weights: Floating) -> Floating:
    """inputs @ weights of every candidate, (population, rows, outputs).

    All candidates see the same inputs, so their first layers lie side by side in one matrix: one large product.
    """
    candidates, features, units = weights.shape
    side_by_side = weights.transpose(1, 0, 2).reshape(features, candidates * units)
    product: Floating = inputs @ side_by_side
    return product.reshape(len(inputs), candidates, units).transpose(1, 0, 2)


def _activate(hidden: Hidden, values: Floating) -> None:
    """The hidden activation, in place."""
    if hidden == "relu":
        np.maximum(values, 0, out=values)
    elif hidden == "tanh":
        np.tanh(values, out=values)
    else:  # sigmoid(x) = (1 + tanh(x / 2)) / 2, which cannot overflow
        values *= 0.5
        np.tanh(values, out=values)
        values += 1.0
        values *= 0.5


def _summed(losses: Floating, row_max: float) -> Floats:
    """Row losses (population, rows) summed in float64; fmin prefers the bound to a NaN."""
    summed: Floats = np.fmin(losses, row_max).sum(axis=1, dtype=np.float64)
    return summed


def _checked_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
    checked = tuple(sizes)
    if not 2 <= len(checked) <= LAYERS_MAX or not all(
        type(size) is int and 1 <= size <= LAYER_UNITS_MAX for size in checked
    ):
        raise BadConfiguration(
            f"expected 2 to {LAYERS_MAX} layer sizes, each from 1 to {LAYER_UNITS_MAX}, got {checked}: "
            "count the inputs first and the outputs last, as in MLP([2, 4, 2])"
        )
    return checked


def _check_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise BadConfiguration(f"{field}: expected one of {', '.join(choices)}, got {value!r}")


def _check_parameter_count(parameters: int) -> None:
    if parameters > PARAMETERS_MAX:
        raise BadConfiguration(
            f"expected a model of at most {PARAMETERS_MAX} parameters, got {parameters}: use smaller layers"
        )
