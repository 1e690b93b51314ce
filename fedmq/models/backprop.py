"""Gradients of networks by back-propagation, in float64.

After Rumelhart, Hinton and Williams (1986), "Learning representations by back-propagating errors". Two products for
each layer. For gradients whose sums are the same bits for any split of the rows see `fedmq.models.exact_gradient`.
"""

import numpy as np

from fedmq.models.arrays import Floats, Integers
from fedmq.models.layers import Layered, layers_of
from fedmq.models.networks import MLP, Hidden, LogLinear


def mean_gradient(model: Layered, parameters: Floats, inputs: Floats, targets: Floats | Integers) -> Floats:
    """Return the gradient (num_parameters,) float64 of the mean loss over rows (rows, features), at least one.

    `targets` (rows,) are classes for softmax, whose loss is cross-entropy, and values for squared errors. The loss has
    no bound for a row, unlike `fedmq.models.losses`. Overflow gives infinities or NaN, without a warning.
    """
    layers, activations = layers_of(model, parameters), [inputs]
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for place, (weights, biases) in enumerate(layers):
            values = activations[-1] @ weights
            if len(biases):
                values += biases
            if place < len(layers) - 1:
                assert isinstance(model, MLP)
                values = _activated(model.hidden, values)
            activations.append(values)
        deltas = _output_deltas(model, activations.pop(), targets)
        deltas /= len(inputs)
        pieces: list[Floats] = []
        for place in range(len(layers) - 1, -1, -1):
            weights, biases = layers[place]
            if len(biases):
                pieces.append(deltas.sum(axis=0))
            pieces.append((activations[place].T @ deltas).ravel())
            if place:
                assert isinstance(model, MLP)
                deltas = (deltas @ weights.T) * activation_slope(model.hidden, activations[place])
    return np.concatenate(pieces[::-1])


def activation_slope(hidden: Hidden, activations: Floats) -> Floats:
    """Return the derivative of a hidden activation from its values."""
    if hidden == "relu":
        return (activations > 0.0).astype(np.float64)
    return 1.0 - activations * activations if hidden == "tanh" else activations * (1.0 - activations)


def _activated(hidden: Hidden, values: Floats) -> Floats:
    if hidden == "relu":
        return np.maximum(values, 0.0, out=values)
    if hidden == "tanh":
        return np.tanh(values, out=values)
    values *= 0.5  # sigmoid(x) = (1 + tanh(x / 2)) / 2, which cannot overflow
    np.tanh(values, out=values)
    values += 1.0
    values *= 0.5
    return values


def _output_deltas(model: Layered, outputs: Floats, targets: Floats | Integers) -> Floats:
    """Return the derivative of each row's loss by the last layer's values, (rows, outputs)."""
    if model.output == "softmax":
        outputs -= outputs.max(axis=1, keepdims=True)
        np.exp(outputs, out=outputs)
        outputs /= outputs.sum(axis=1, keepdims=True)
        outputs[np.arange(len(targets)), targets.astype(np.int64)] -= 1.0
        return outputs
    if isinstance(model, LogLinear):
        means: Floats = np.exp(outputs)
        means *= 2.0 * (means - targets[:, None])
        return means
    outputs -= targets[:, None]
    outputs *= 2.0
    return outputs
