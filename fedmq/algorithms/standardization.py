"""Standardized columns: in fixed point, with the way back to raw units; along principal axes, with fewer inputs."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated

import numpy as np
from msgspec import Meta

from fedmq.algorithms.base import SUM_BITS_MAX, ArrayBounds
from fedmq.errors import BadConfiguration, Rejected
from fedmq.models.arrays import Floats, Integers
from fedmq.models.layers import Layered, with_inputs
from fedmq.models.networks import Model
from fedmq.models.standardized import AXIS_MAX, Standard

REACH_MIN, REACH_MAX = 4, 12  # a standardized value counts up to ±2**reach, which the question gives for each column
REACH_CELLS = REACH_MAX - REACH_MIN + 2  # values below 2**4, below 2**5 ... and, last, beyond 2**12: these are clipped
PART_BITS_MAX, PART_BITS_MIN = 20, 15
STANDARD, AXES = "standard", "axes"  # arrays of a question that say how rows are standardized
TURNED_INPUTS_MAX = 2048  # that axes turn: the products of so many columns fit a message

Components = Annotated[int, Meta(ge=0, le=TURNED_INPUTS_MAX)]  # 0: no axes
PartBits = Annotated[int, Meta(ge=PART_BITS_MIN, le=PART_BITS_MAX)]


def column_bounds(columns: int) -> dict[str, ArrayBounds]:
    """Return the bounds of the arrays that a question standardizes by, each (columns,)."""
    return {
        "shift": ArrayBounds((columns,)),
        "deviation": ArrayBounds((columns,), np.float64, 5e-324),
        "reach": ArrayBounds((columns,), np.int64, REACH_MIN, REACH_MAX),
    }


def standard_bounds(model: Model, components: int) -> Mapping[str, ArrayBounds]:
    """Return the bounds of the arrays that a question for a network standardizes rows by."""
    bounds = {STANDARD: ArrayBounds((2, model.inputs + 1))}
    if not components:
        return bounds
    return {**bounds, AXES: ArrayBounds((model.inputs, components), np.int64, -AXIS_MAX, AXIS_MAX)}


def standard_arrays(standard: Standard) -> dict[str, Floats | Integers]:
    """Return the arrays that a question for a network standardizes rows by."""
    arrays: dict[str, Floats | Integers] = {STANDARD: standard.array}
    return arrays if standard.axes is None else {**arrays, AXES: standard.axes}


def network_for(model: Model, components: int) -> Model:
    """Return the model that trainers train: with components, a network that has so many inputs.

    Raises:
        Rejected: the model cannot be trained along so many axes.
    """
    if not components:
        return model
    if not isinstance(model, Layered) or not components <= model.inputs <= TURNED_INPUTS_MAX:
        raise Rejected(
            "values",
            f"parameter components: expected a network of {components} to {TURNED_INPUTS_MAX} inputs for "
            f"components={components}, got {model}",
        )
    return with_inputs(model, components)


def chosen_network(model: Model, components: int, algorithm: str) -> Model:
    """Return the model that trainers train, with the components that the operator has chosen.

    Raises:
        BadConfiguration: the model cannot be trained along so many axes.
    """
    try:
        return network_for(model, components)
    except Rejected as refused:
        raise BadConfiguration(f"algorithm {algorithm}: {refused.detail}") from refused


def rows_max_for(num_examples: int) -> int:
    """Return the rows that a question allows for when there are so many now: twice as many, at least 2**22."""
    return 1 << max(SUM_BITS_MAX - 2 * PART_BITS_MAX, num_examples.bit_length() + 1)


def part_bits_for(rows_max: int) -> int:
    """Return the bits of each part of a factor, so that a sum over so many rows fits an int64."""
    return min(PART_BITS_MAX, (SUM_BITS_MAX - (rows_max - 1).bit_length()) // 2)


def count_reach(standardized: Floats) -> Integers:
    """Count the binary exponents of values (rows, columns), (columns, REACH_CELLS)."""
    exponents = np.clip(np.frexp(standardized)[1], REACH_MIN, REACH_MAX + 1) - REACH_MIN
    counts = [np.bincount(column, minlength=REACH_CELLS) for column in exponents.T]
    return np.stack(counts).astype(np.int64)


def needed_reach(counts: Integers) -> Integers:
    """Return the reach (columns,) that clips no value, at most REACH_MAX, from counts (columns, REACH_CELLS)."""
    last = REACH_CELLS - 1 - (counts[:, ::-1] > 0).argmax(axis=1)
    found: Integers = np.where(counts.any(axis=1), np.minimum(last + REACH_MIN, REACH_MAX), REACH_MIN)
    return found


def unstandardized(
    slopes: Floats, biases: Floats, shift: Floats, deviation: Floats, scale: Floats, center: Floats
) -> tuple[Floats, Floats]:
    """Return slopes (inputs, outputs) and biases (outputs,) for rows that are not standardized.

    center + scale (bias + sum of slope (x - shift) / deviation); the bias is exact but for its last rounding.
    """
    raw = slopes / deviation[:, None] * scale
    offsets = []
    for place, bias in enumerate(biases):
        exact = Fraction(float(bias)) * Fraction(float(scale[place % len(scale)]))
        exact += Fraction(float(center[place % len(center)]))
        for slope, mean in zip(raw[:, place], shift, strict=True):
            exact -= Fraction(float(slope)) * Fraction(float(mean))
        offsets.append(float(exact))
    return raw, np.array(offsets)
