"""Random Fourier features: a linear model on cosines of random projections, which approximates a Gaussian kernel.

After Rahimi and Recht (2007), "Random features for large-scale kernel machines". The features of a row are integers:
the row in fixed point, times directions that are integers, is an angle, and its cosine is an entry of a table. So a
feature is the same number on every machine, in training and in prediction.
"""

import math
from functools import lru_cache
from typing import Literal

import msgspec
import numpy as np

from fedmq.errors import BadConfiguration
from fedmq.exact.draws import normals, words
from fedmq.exact.fourier import COSINE_BITS, TURN_BITS, integer_cosines
from fedmq.exact.integers import EXACT_BITS, check_products, to_fixed
from fedmq.models.arrays import Floating, Floats

ROW_FRACTION_BITS = 12  # of a standardized input, which is bounded by ±2**ROW_INTEGER_BITS
ROW_INTEGER_BITS = 3
ANGLE_FRACTION_BITS = 24  # of an angle before it is rounded to a step
FEATURES_MAX = 8192
UNITS_MAX = 65_536
GAMMA_MAX = 1e6


class Fourier(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="fourier"):
    """A linear model on `features` random Fourier features; the algorithm `ridge` trains it.

    The kernel is exp(-gamma |x - y|**2 / inputs) of standardized rows. Directions derive from `seed`. The parameters
    are the mean and the deviation of each input, the weights (features, outputs) in C order, and the biases.

    Raises:
        BadConfiguration: sizes out of bounds, or a kernel that is too narrow; also while decoding.
    """

    inputs: int
    outputs: int = 1
    features: int = 768
    output: Literal["softmax", "identity"] = "identity"
    gamma: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        for field, value, smallest, largest in (
            ("inputs", self.inputs, 1, UNITS_MAX),
            ("outputs", self.outputs, 1, UNITS_MAX),
            ("features", self.features, 1, FEATURES_MAX),
            ("seed", self.seed, 0, 2**53),
        ):
            if type(value) is not int or not smallest <= value <= largest:
                raise BadConfiguration(f"{field}: expected an integer from {smallest} to {largest}, got {value!r}")
        if self.output not in ("softmax", "identity"):
            raise BadConfiguration(f"output: expected softmax or identity, got {self.output!r}")
        if not 0.0 < self.gamma <= GAMMA_MAX:
            raise BadConfiguration(f"gamma: expected a number above 0 and at most {GAMMA_MAX:g}, got {self.gamma!r}")
        # The largest of 2**32 normal values is below 7.
        bits = math.log2(self.inputs * 7.0 * self._width) + ROW_FRACTION_BITS + ROW_INTEGER_BITS
        if bits > EXACT_BITS:
            raise BadConfiguration(f"gamma: expected a wider kernel, got {self.gamma:g}: lower it")

    @property
    def num_parameters(self) -> int:
        return 2 * self.inputs + (self.features + 1) * self.outputs

    @property
    def widest(self) -> int:
        return self.features

    @property
    def _width(self) -> float:
        """The standard deviation of an element of the directions, as integers."""
        scale = 1 << (TURN_BITS - ROW_FRACTION_BITS + ANGLE_FRACTION_BITS)
        return math.sqrt(2.0 * self.gamma / self.inputs) / (2.0 * math.pi) * scale

    def integer_features(self, inputs: Floating, means: Floats, deviations: Floats) -> Floats:
        """Return the features of rows (rows, inputs), (rows, features), in units of 2**-COSINE_BITS."""
        check_products()
        directions, phases = self.directions()
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            standardized = (inputs - means) / np.where(deviations == 0.0, 1.0, deviations)
        fixed = to_fixed(np.nan_to_num(standardized), ROW_FRACTION_BITS, ROW_FRACTION_BITS + ROW_INTEGER_BITS)
        angles = fixed @ directions  # integers below 2**EXACT_BITS
        angles *= 2.0**-ANGLE_FRACTION_BITS
        np.rint(angles, out=angles)
        angles += phases
        return integer_cosines(angles.astype(np.int64))

    def directions(self) -> tuple[Floats, Floats]:
        """Return the directions (inputs, features) and the phases (features,), integers of float64.

        A row in units of 2**-ROW_FRACTION_BITS times a direction is an angle in units of 2**-ANGLE_FRACTION_BITS steps.
        """
        return _directions(self)

    def forward(self, population: Floating, inputs: Floating) -> Floating:
        """Return the outputs, (population, rows, outputs); shapes, dtypes and errors as in `MLP.forward`."""
        if population.ndim != 2 or population.shape[1] != self.num_parameters:
            raise ValueError(f"expected a population of candidates for {self}, got {population.shape}")
        outputs = np.empty((len(population), len(inputs), self.outputs), population.dtype)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            for place, candidate in enumerate(population):
                means, deviations, weights, biases = self.layers(np.asarray(candidate, np.float64))
                features = self.integer_features(inputs, means, deviations) * 2.0**-COSINE_BITS
                outputs[place] = features @ weights + biases
        return outputs

    def layers(self, parameters: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Return means, deviations, weights (features, outputs) and biases, as views."""
        inputs, weights = self.inputs, self.features * self.outputs
        means, deviations, rest = np.split(parameters, [inputs, 2 * inputs])
        return means, deviations, rest[:weights].reshape(self.features, self.outputs), rest[weights:]


@lru_cache(maxsize=8)
def _directions(model: Fourier) -> tuple[Floats, Floats]:
    """Return the directions (inputs, features) and the phases (features,), integers of float64."""
    drawn = normals(model.inputs * model.features, model.seed, "fourier", "directions")
    # Features one after the other, so that fewer features are the first ones of more.
    directions = np.rint(drawn * model._width).reshape(model.features, model.inputs).T
    phases = words(model.features, model.seed, "fourier", "phases") & np.uint64((1 << TURN_BITS) - 1)
    return np.ascontiguousarray(directions), phases.astype(np.float64)
