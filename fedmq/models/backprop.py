"""Gradients of networks by back-propagation, in float64, and the first parameters of a training by gradients.

After Rumelhart, Hinton and Williams (1986), "Learning representations by back-propagating errors". Two products for
each layer. For gradients whose sums are the same bits for any split of the rows see `fedmq.models.exact_gradient`.
"""

from itertools import pairwise

import numpy as np

from fedmq.errors import BadConfiguration
from fedmq.exact.draws import normals
from fedmq.models.arrays import Floats, Integers
from fedmq.models.networks import MLP, Hidden, Linear, LogLinear, Model

Differentiable = MLP | Linear | LogLinear


def differentiable(model: Model, about: str) -> Differentiable:
    """Return the model if back-propagation has its gradient.

    Raises:
        BadConfiguration: it is another one; `about` names what needs it.
    """
    if isinstance(model, MLP | Linear | LogLinear):
        return model
    raise BadConfiguration(f"{about}: expected a model MLP, Linear or LogLinear, got {type(model).__name__}")


def sizes_of(model: Differentiable) -> tuple[int, ...]:
    """Return the sizes of the layers, the inputs first."""
    return tuple(model.sizes) if isinstance(model, MLP) else (model.inputs, model.outputs)


def has_biases(model: Differentiable) -> bool:
    """Return whether each layer has biases."""
    return model.bias if isinstance(model, MLP) else True


def layers_of(model: Differentiable, parameters: Floats) -> list[tuple[Floats, Floats]]:
    """Return each layer's weights (inputs, outputs) and biases (outputs,), or (0,) without any; views."""
    found, start = [], 0
    for above, below in pairwise(sizes_of(model)):
        middle = start + above * below
        end = middle + below * has_biases(model)
        found.append((parameters[start:middle].reshape(above, below), parameters[middle:end]))
        start = end
    return found


def mean_gradient(model: Differentiable, parameters: Floats, inputs: Floats, targets: Floats | Integers) -> Floats:
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


def initial_parameters(model: Differentiable, seed: int, *path: str | int) -> Floats:
    """Return random weights of variance 2 (ReLU) or 1 over a layer's inputs, and biases of 0.

    After He et al. (2015), "Delving deep into rectifiers". A model with one layer is all zeros: it has no hidden units
    that must differ. The draws are the same bits on every machine.
    """
    parameters = np.zeros(model.num_parameters)
    layers = layers_of(model, parameters)
    if len(layers) == 1:
        return parameters
    assert isinstance(model, MLP)
    for place, (weights, _) in enumerate(layers):
        gain = 2.0 if model.hidden == "relu" and place < len(layers) - 1 else 1.0
        drawn = normals(weights.size, seed, *path, place).reshape(weights.shape)
        weights[:] = drawn * np.sqrt(gain / len(weights))
    return parameters


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


def _output_deltas(model: Differentiable, outputs: Floats, targets: Floats | Integers) -> Floats:
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
