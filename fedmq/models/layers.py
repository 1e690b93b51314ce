"""Networks as layers: sizes, views of weights and biases, first parameters."""

from itertools import pairwise

import msgspec
import numpy as np

from fedmq.errors import BadConfiguration
from fedmq.exact.draws import normals
from fedmq.models.arrays import Floats
from fedmq.models.networks import MLP, Linear, LogLinear, Model

Layered = MLP | Linear | LogLinear


def layered(model: Model, about: str) -> Layered:
    """Return the model if it is made of layers.

    Raises:
        BadConfiguration: it is another one; `about` names what needs it.
    """
    if isinstance(model, MLP | Linear | LogLinear):
        return model
    raise BadConfiguration(f"{about}: expected a model MLP, Linear or LogLinear, got {type(model).__name__}")


def with_inputs(model: Layered, inputs: int) -> Layered:
    """Return the same model with another number of inputs."""
    if isinstance(model, MLP):
        return msgspec.structs.replace(model, sizes=(inputs, *model.sizes[1:]))
    return msgspec.structs.replace(model, inputs=inputs)


def layer_sizes(model: Layered) -> tuple[int, ...]:
    """Return the sizes of the layers, the inputs first."""
    return tuple(model.sizes) if isinstance(model, MLP) else (model.inputs, model.outputs)


def has_biases(model: Layered) -> bool:
    """Return whether each layer has biases."""
    return model.bias if isinstance(model, MLP) else True


def layers_of(model: Layered, parameters: Floats) -> list[tuple[Floats, Floats]]:
    """Return each layer's weights (inputs, outputs) and biases (outputs,), or (0,) without any; views."""
    found, start = [], 0
    for above, below in pairwise(layer_sizes(model)):
        middle = start + above * below
        end = middle + below * has_biases(model)
        found.append((parameters[start:middle].reshape(above, below), parameters[middle:end]))
        start = end
    return found


def initial_parameters(model: Layered, seed: int, *path: str | int) -> Floats:
    """Return random first weights of variance 2 (ReLU) or 1 over a layer's inputs, and biases of 0.

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
