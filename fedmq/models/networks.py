"""Models as flat parameter vectors; networks evaluate whole populations in a few matrix products."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Literal, get_args

import msgspec
import numpy as np

from fedmq.errors import BadConfiguration
from fedmq.models.arrays import Floating
from fedmq.models.fourier import Fourier
from fedmq.models.torch_model import Torch
from fedmq.models.trees import Trees

LAYERS_MAX = 16  # sizes in an MLP, the inputs and the outputs among them
LAYER_UNITS_MAX = 65_536
PARAMETERS_MAX = 10_000_000
OBJECTIVES_MAX = 16  # of a fitness function

Hidden = Literal["relu", "tanh", "sigmoid"]
Output = Literal["softmax", "identity"]

_CHOICES = {"hidden": get_args(Hidden), "output": get_args(Output)}


class MLP(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="mlp"):
    """A fully connected network, e.g. `MLP([2, 4, 2], hidden="relu", output="softmax")`.

    The parameters of a layer are its weights (inputs, outputs) in C order, then its biases (outputs,), if it has any.
    `sizes` counts the inputs first and the outputs last; a list is stored as a tuple.

    Raises:
        BadConfiguration: sizes out of bounds, or an unknown activation; also while decoding.
    """

    sizes: Sequence[int]
    hidden: Hidden = "relu"
    output: Output = "softmax"
    bias: bool = True

    def __post_init__(self) -> None:
        sizes = tuple(self.sizes)
        msgspec.structs.force_setattr(self, "sizes", sizes)
        within = all(type(size) is int and 1 <= size <= LAYER_UNITS_MAX for size in sizes)
        if not within or not 2 <= len(sizes) <= LAYERS_MAX:
            raise BadConfiguration(
                f"expected 2 to {LAYERS_MAX} layer sizes, each from 1 to {LAYER_UNITS_MAX}, got {sizes}: "
                "count the inputs first and the outputs last, as in MLP([2, 4, 2])"
            )
        for field, choices in _CHOICES.items():
            if (value := getattr(self, field)) not in choices:
                raise BadConfiguration(f"{field}: expected one of {', '.join(choices)}, got {value!r}")
        if (count := self.num_parameters) > PARAMETERS_MAX:
            raise BadConfiguration(f"expected at most {PARAMETERS_MAX} parameters, got {count}: use smaller layers")

    @property
    def num_parameters(self) -> int:
        return _num_parameters(tuple(self.sizes), self.bias)

    @property
    def inputs(self) -> int:
        """The number of columns of a row."""
        return self.sizes[0]

    @property
    def outputs(self) -> int:
        """The number of outputs for a row: for softmax, the number of classes."""
        return self.sizes[-1]

    @property
    def widest(self) -> int:
        """The most numbers that one layer computes for a row and a candidate."""
        return max(self.sizes[1:])

    def forward(self, population: Floating, inputs: Floating) -> Floating:
        """Return the outputs before softmax, (population, rows, outputs), in the dtype of `population`.

        `population` is (population, num_parameters), float32 or float64; `inputs` is (rows, features). A candidate
        that overflows gives infinities or NaN, without a warning; the losses bound them.

        Raises:
            ValueError: the population has another number of parameters than the model.
        """
        if population.ndim != 2 or population.shape[1] != self.num_parameters:
            raise ValueError(f"expected a population of candidates for layers {self.sizes}, got {population.shape}")
        values = np.asarray(inputs, dtype=population.dtype)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            for layer, (weights, biases) in enumerate(_layers(self.sizes, self.bias, population)):
                if layer == 0:
                    values = _first_product(values, weights)
                else:
                    _activate(self.hidden, values)
                    values = values @ weights
                if self.bias:
                    values += biases
        return values


@lru_cache(maxsize=16)  # a round needs it some thirty times
def _num_parameters(sizes: tuple[int, ...], bias: bool) -> int:
    return sum((above + bias) * below for above, below in pairwise(sizes))


@lru_cache(maxsize=16)  # each score of a round needs it
def _one_layer(inputs: int, outputs: int) -> MLP:
    return MLP((inputs, outputs), output="identity")


class Linear(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="linear"):
    """An MLP of one layer with bias and without activation: the same parameters and errors."""

    inputs: int
    outputs: int = 1

    def __post_init__(self) -> None:
        _one_layer(self.inputs, self.outputs)  # checks the sizes

    @property
    def num_parameters(self) -> int:
        return (self.inputs + 1) * self.outputs

    @property
    def widest(self) -> int:
        return self.outputs

    @property
    def output(self) -> Output:
        return "identity"

    def forward(self, population: Floating, inputs: Floating) -> Floating:
        """Return the values, (population, rows, outputs); shapes, dtypes and errors as in `MLP.forward`."""
        return _one_layer(self.inputs, self.outputs).forward(population, inputs)


class LogLinear(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="log-linear"):
    """A model of counts: exp of a linear model. The same parameters and errors as `Linear`; `newton` trains it."""

    inputs: int

    def __post_init__(self) -> None:
        _one_layer(self.inputs, 1)  # checks the size

    @property
    def outputs(self) -> int:
        return 1

    @property
    def num_parameters(self) -> int:
        return self.inputs + 1

    @property
    def widest(self) -> int:
        return 1

    @property
    def output(self) -> Output:
        return "identity"

    def forward(self, population: Floating, inputs: Floating) -> Floating:
        """Return the counts, (population, rows, 1); shapes, dtypes and errors as in `MLP.forward`."""
        values = _one_layer(self.inputs, self.outputs).forward(population, inputs)
        with np.errstate(over="ignore", under="ignore"):
            return np.exp(values, out=values)


class Code(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag="code",
    rename={"num_parameters": "genes"},
):
    """A model that only its own Python function can score; the function travels with each round of the run.

    A candidate has `num_parameters` numbers, a row has `inputs` columns. The FILE.py of the task defines
    `score(population, inputs, targets)`. It takes (population, num_parameters), (rows, inputs) and (rows,), all
    float64. It returns the losses (population,), summed over the rows and not negative, and the number of correct rows
    (population,). With `objectives`, the file defines PyGAD's `fitness_func(ga_instance, solution, solution_idx)`
    instead, which returns as many numbers, the higher the better; `ga_instance.inputs` and `.targets` are the rows.
    `sha256` is of the code that travels; leave it empty in a FILE.py.

    Raises:
        BadConfiguration: a number out of bounds, or no SHA-256; also while decoding.
    """

    num_parameters: int  # "genes" in messages and model files
    inputs: int
    sha256: bytes = b""
    objectives: int = 0  # numbers that `fitness_func` returns; 0: `score` scores

    def __post_init__(self) -> None:
        for field, value, least, largest in (
            ("num_parameters", self.num_parameters, 1, PARAMETERS_MAX),
            ("inputs", self.inputs, 1, LAYER_UNITS_MAX),
            ("objectives", self.objectives, 0, OBJECTIVES_MAX),
        ):
            if type(value) is not int or not least <= value <= largest:
                raise BadConfiguration(f"{field}: expected an integer from {least} to {largest}, got {value!r}")
        if len(self.sha256) not in (0, 32):
            raise BadConfiguration(f"sha256: expected 32 bytes, got {len(self.sha256)}: leave it out in a file")


Network = MLP | Linear | LogLinear | Fourier | Trees | Torch
Model = Network | Code


def _layers(sizes: Sequence[int], bias: bool, population: Floating) -> Iterator[tuple[Floating, Floating]]:
    """Yield each layer's weights (population, inputs, outputs) and biases (population, 1, outputs or 0), as views."""
    start = 0
    for above, below in pairwise(sizes):
        middle = start + above * below
        end = middle + below * bias
        yield population[:, start:middle].reshape(-1, above, below), population[:, None, middle:end]
        start = end


def _first_product(inputs: Floating, weights: Floating) -> Floating:
    """Return inputs @ weights of every candidate, (population, rows, outputs).

    All candidates share the inputs, so their first layers form one wide matrix: one large product.
    """
    candidates, features, units = weights.shape
    side_by_side = weights.transpose(1, 0, 2).reshape(features, candidates * units)
    product: Floating = inputs @ side_by_side
    return product.reshape(len(inputs), candidates, units).transpose(1, 0, 2)


def _activate(hidden: Hidden, values: Floating) -> None:
    """Apply the hidden activation in place."""
    if hidden == "relu":
        np.maximum(values, 0, out=values)
    elif hidden == "tanh":
        np.tanh(values, out=values)
    else:  # sigmoid(x) = (1 + tanh(x / 2)) / 2, which cannot overflow
        values *= 0.5
        np.tanh(values, out=values)
        values += 1.0
        values *= 0.5
