"""Outputs of models with one layer, row by row: the same bits for a row on every machine."""

import numpy as np

from fedmq.errors import BadConfiguration
from fedmq.exact.elementary import exp, linear_outputs
from fedmq.exact.fourier import COSINE_BITS
from fedmq.models.arrays import Floats
from fedmq.models.fourier import Fourier
from fedmq.models.networks import MLP, Linear, LogLinear, Model

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


def exact_outputs(model: OneLayer, parameters: Floats, inputs: Floats) -> Floats:
    """Return the outputs (outputs, rows) of parameters (num_parameters,) for rows (rows, inputs)."""
    biases = parameters[-model.outputs :]
    if isinstance(model, Fourier):
        means, deviations, weights, _ = model.layers(parameters)
        columns = np.ascontiguousarray(model.integer_features(inputs, means, deviations).T)
        columns *= 2.0**-COSINE_BITS
    else:
        columns = np.ascontiguousarray(inputs.T)
        weights = parameters[: -model.outputs].reshape(model.inputs, model.outputs)
    outputs = np.stack([linear_outputs(columns, weights[:, one]) + biases[one] for one in range(model.outputs)])
    return exp(outputs) if isinstance(model, LogLinear) else outputs
