"""Gradients of networks as integers: their sum over rows is the same bits for any split, order and machine.

A layer's gradient is A'D, with A the activations and D the deltas of the rows. Both become integers row by row, and
the products forward and backward are products of integers as well, so nothing depends on the rows beside a row: see
the rules of `fedmq.exact`. In bits, fraction and reach: activations 14 + 7; deltas 18 + 3 for classes and 14 + 7 for
values; weights as many as 53 leave for one product. About the price of float64.
"""

from typing import NamedTuple

import numpy as np

from fedmq.exact.elementary import sigmoid, softmax
from fedmq.exact.integers import EXACT_BITS, check_products, product, to_fixed
from fedmq.models.arrays import Floats, Integers
from fedmq.models.backprop import activation_slope
from fedmq.models.layers import has_biases, layer_sizes, layers_of
from fedmq.models.networks import MLP, Hidden, Linear

ACTIVATION_BITS, FACTOR_BITS = 14, 21  # fraction bits of an activation; all bits of an activation or a delta
DELTA_BITS = {"softmax": 18, "identity": 14}  # fraction bits of a delta, by output
WEIGHT_REACH_MIN, WEIGHT_BITS_MIN = 4, 8  # a weight counts up to 2**reach, which grows with the largest
ROW_BITS = 2 * FACTOR_BITS  # of one row's share of a gradient


class ExactGradient(NamedTuple):
    """The sum over rows of the gradient, (num_parameters,), in units of 2**-gradient_bits; outputs (outputs, rows)."""

    sums: Integers
    outputs: Floats


def gradient_bits(model: MLP | Linear) -> int:
    """Return the fraction bits of the sums."""
    return ACTIVATION_BITS + DELTA_BITS[model.output]


def weight_bits(model: MLP | Linear, parameters: Floats) -> int:
    """Return the fraction bits that weights have beside the largest of them; below WEIGHT_BITS_MIN they are too large.

    A layer's sum of products, with the bias as one more, stays below 2**53.
    """
    largest = float(np.abs(parameters).max())
    reach = max(WEIGHT_REACH_MIN, int(np.frexp(largest)[1])) if np.isfinite(largest) else EXACT_BITS
    return EXACT_BITS - FACTOR_BITS - reach - max(layer_sizes(model)).bit_length()


def exact_gradient(
    model: MLP | Linear, parameters: Floats, inputs: Floats, targets: Floats | Integers
) -> ExactGradient:
    """Return the gradient of the loss, summed over rows (rows, features).

    `weight_bits` must be at least WEIGHT_BITS_MIN. Inputs and activations count at most 128, deltas at most 8 (classes)
    or 128.
    """
    check_products()
    bits = weight_bits(model, parameters)
    fixed = to_fixed(parameters, bits, EXACT_BITS)
    layers, activations = layers_of(model, fixed), [to_fixed(inputs, ACTIVATION_BITS, FACTOR_BITS)]
    for place, (weights, biases) in enumerate(layers):
        values = activations[-1] @ weights  # integers below 2**53
        if len(biases):
            values += biases * 2.0**ACTIVATION_BITS
        values *= 2.0 ** -(ACTIVATION_BITS + bits)
        if place < len(layers) - 1:
            assert isinstance(model, MLP)
            activations.append(to_fixed(_activated(model.hidden, values), ACTIVATION_BITS, FACTOR_BITS))
    outputs = np.ascontiguousarray(values.T)
    deltas = _output_deltas(model, outputs, targets)
    pieces: list[Integers] = []
    for place in range(len(layers) - 1, -1, -1):
        weights, _ = layers[place]
        if has_biases(model):  # a bias is the weight of an activation of 1
            pieces.append(deltas.sum(axis=0).astype(np.int64) << ACTIVATION_BITS)
        pieces.append(product(activations[place], FACTOR_BITS, deltas, FACTOR_BITS).ravel())
        if place:
            assert isinstance(model, MLP)
            slopes = activation_slope(model.hidden, activations[place] * 2.0**-ACTIVATION_BITS)
            deltas = to_fixed((deltas @ weights.T) * 2.0**-bits * slopes, 0, FACTOR_BITS)
    return ExactGradient(np.concatenate(pieces[::-1]), outputs)


def _activated(hidden: Hidden, values: Floats) -> Floats:
    if hidden == "relu":
        return np.maximum(values, 0.0)
    return sigmoid(values) if hidden == "sigmoid" else sigmoid(values * 2.0) * 2.0 - 1.0


def _output_deltas(model: MLP | Linear, outputs: Floats, targets: Floats | Integers) -> Floats:
    """Return the derivative of each row's loss by the last layer's values, (rows, outputs), as integers."""
    if model.output == "softmax":
        shares = softmax(outputs)[0]
        shares[targets.astype(np.int64), np.arange(len(targets))] -= 1.0
        deltas = shares.T
    else:
        deltas = (2.0 * (outputs - targets)).T
    return to_fixed(deltas, DELTA_BITS[model.output], FACTOR_BITS)
