"""Outputs of networks, row by row: the same bits for a row on every machine, whatever rows are beside it."""

from itertools import pairwise

import numpy as np

from fedmq.errors import BadConfiguration
from fedmq.exact.elementary import exp, layer_outputs, sigmoid
from fedmq.exact.fourier import COSINE_BITS
from fedmq.models.arrays import Floats
from fedmq.models.fourier import Fourier
from fedmq.models.networks import MLP, Hidden, Linear, LogLinear, Model, Network
from fedmq.models.torch_model import Torch
from fedmq.models.trees import Trees

OneLayer = Linear | LogLinear | MLP | Fourier


def one_layer(model: Model, about: str) -> OneLayer:
    """Return the model if it has one layer with biases.

    Raises:
        BadConfiguration: it has another form; `about` names what needs it.
    """
    match model:
        case MLP() if len(model.sizes) == 2 and model.bias:
            return model
        case Linear() | LogLinear() | Fourier():
            return model
    raise BadConfiguration(
        f"{about}: expected a model with one layer, got {model}: use Linear(inputs), MLP([inputs, classes]) or "
        "Fourier(inputs, classes)"
    )


def exact_outputs(model: Network, parameters: Floats, inputs: Floats, offsets: Floats | None = None) -> Floats:
    """Return the outputs (outputs, rows) of parameters (num_parameters,) for rows (rows, inputs).

    `offsets` (rows,) are added to the last linear output: to values, to the logarithm of a mean, to the second of two
    classes. Those of a model that overflows are infinite or NaN, without a warning.
    """
    if isinstance(model, Trees):
        return model.exact_outputs(parameters, np.ascontiguousarray(inputs.T), offsets)
    if isinstance(model, Torch):  # float32: the same bits with the same version of PyTorch and processor
        outputs = np.ascontiguousarray(model.forward(parameters[None], inputs)[0].T)
        return outputs if offsets is None else outputs + np.outer(np.arange(len(outputs)) == len(outputs) - 1, offsets)
    with np.errstate(over="ignore", invalid="ignore"):
        outputs = _linear_outputs(model, parameters, inputs)
        if offsets is not None:
            outputs[-1] += offsets
        return exp(outputs) if isinstance(model, LogLinear) else outputs


def _linear_outputs(model: OneLayer, parameters: Floats, inputs: Floats) -> Floats:
    if isinstance(model, MLP):
        return _layer_outputs(model, parameters, np.ascontiguousarray(inputs.T))
    biases = parameters[-model.outputs :]
    if isinstance(model, Fourier):
        means, deviations, weights, _ = model.layers(parameters)
        columns = np.ascontiguousarray(model.integer_features(inputs, means, deviations).T)
        columns *= 2.0**-COSINE_BITS
    else:
        columns = np.ascontiguousarray(inputs.T)
        weights = parameters[: -model.outputs].reshape(model.inputs, model.outputs)
    return layer_outputs(columns, weights) + biases[:, None]


def _layer_outputs(model: MLP, parameters: Floats, columns: Floats) -> Floats:
    """Return the outputs (outputs, rows) of a network for columns (inputs, rows), one layer after the other."""
    start = 0
    for above, below in pairwise(model.sizes):
        if start:
            columns = _activated(model.hidden, columns)
        middle = start + above * below
        end = middle + below * model.bias
        weights = parameters[start:middle].reshape(above, below)
        columns = layer_outputs(columns, weights)
        if model.bias:
            columns += parameters[middle:end, None]
        start = end
    return columns


def _activated(hidden: Hidden, values: Floats) -> Floats:
    if hidden == "relu":
        return np.maximum(values, 0.0)
    return sigmoid(values) if hidden == "sigmoid" else sigmoid(values * 2.0) * 2.0 - 1.0
