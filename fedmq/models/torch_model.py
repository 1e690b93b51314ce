"""A PyTorch model as data: the name of its factory, and the tensors whose numbers are its parameters.

The name is never imported: `fedmq.models.torch_modules` looks it up among the factories that this process has allowed.
So a round, a model file or a report names no code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta

from fedmq.errors import BadConfiguration
from fedmq.models.arrays import Floating, Integers
from fedmq.models.losses import Scores

TENSORS_MAX = 4096  # with parameters
DIMENSIONS_MAX = 8
NAME_MAX = 200  # characters
PARAMETERS_MAX = 8_000_000  # float32 of a frame; as `fedmq.models.networks.PARAMETERS_MAX`, a little lower
UNITS_MAX = 1 << 24  # inputs, outputs, numbers of a layer

Units = Annotated[int, Meta(ge=1, le=UNITS_MAX)]


class TensorInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """Name and shape of a tensor of the state dict."""

    name: Annotated[str, Meta(min_length=1, max_length=NAME_MAX)]
    shape: Annotated[tuple[Annotated[int, Meta(ge=0, le=UNITS_MAX)], ...], Meta(max_length=DIMENSIONS_MAX)]

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


class Torch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="torch", omit_defaults=True):
    """A PyTorch model; `fedmq.torch_model` makes one from a factory.

    Its parameters are those of `tensors`, sorted by name, each in C order. Other tensors of the state dict stay as the
    factory makes them: `frozen` is the SHA-256 of their numbers, empty if there are none.

    Raises:
        BadConfiguration: tensors that are not sorted, or too large; also while decoding.
    """

    factory: Annotated[str, Meta(min_length=1, max_length=NAME_MAX)]
    inputs: Units
    outputs: Units
    tensors: Annotated[tuple[TensorInfo, ...], Meta(min_length=1, max_length=TENSORS_MAX)]
    widest: Units = 1  # numbers that one layer computes for a row, at most
    output: Literal["softmax", "identity"] = "softmax"
    own_loss: bool = False  # the module has a method `losses`
    frozen: bytes = b""

    def __post_init__(self) -> None:
        names = [one.name for one in self.tensors]
        if names != sorted(set(names)):
            raise BadConfiguration("tensors: expected different names in order, got others")
        if not 1 <= self.num_parameters <= PARAMETERS_MAX:
            raise BadConfiguration(
                f"tensors: expected 1 to {PARAMETERS_MAX} parameters, got {self.num_parameters}: train a part of them"
            )
        if len(self.frozen) not in (0, 32):
            raise BadConfiguration(f"frozen: expected a SHA-256, got {len(self.frozen)} bytes")

    def __str__(self) -> str:
        """Return a short text for messages: a module may have hundreds of tensors."""
        return f"Torch({self.factory}, inputs={self.inputs}, outputs={self.outputs}, output={self.output!r})"

    @property
    def num_parameters(self) -> int:
        return sum(one.size for one in self.tensors)

    def parts(self) -> Iterator[tuple[TensorInfo, slice]]:
        """Yield each tensor with its place among the parameters."""
        start = 0
        for one in self.tensors:
            yield one, slice(start, start + one.size)
            start += one.size

    def forward(self, population: Floating, inputs: Floating) -> Floating:
        """Return the outputs before softmax, (population, rows, outputs), computed in float32, in evaluation mode.

        Raises:
            CodeRefused: this process has not allowed the factory.
            BadConfiguration: PyTorch is not installed, or the factory makes another model.
        """
        from fedmq.models.torch_modules import module_of

        found = np.stack([module_of(self).outputs(parameters, inputs) for parameters in population])
        return found.astype(population.dtype)

    def scores(
        self,
        population: Floating,
        inputs: Floating,
        targets: Floating | Integers,
        cancelled: Callable[[], bool] | None = None,
    ) -> Scores:
        """Return the scores of a population by the module's own `losses`; errors as `forward`.

        Raises:
            WorkCancelled: `cancelled()` is true.
        """
        from fedmq.models.torch_modules import module_of

        return module_of(self).scores(population, inputs, targets, cancelled)
