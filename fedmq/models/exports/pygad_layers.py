"""A trained network as layers of `pygad.nn`."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pygad.nn

from fedmq.errors import BadConfiguration
from fedmq.models.networks import MLP
from fedmq.models.trained_model import TrainedModel


def pygad_network(trained: TrainedModel) -> Any:
    """Return the last layer of a `pygad.nn` network with the weights of a trained `MLP`, for `pygad.nn.predict`.

    Raises:
        BadConfiguration: another model, one with biases, which `pygad.nn` does not have, or one of columns.
    """
    model = trained.model
    if not isinstance(model, MLP) or model.bias or model.hidden == "tanh" or trained.preparation is not None:
        raise BadConfiguration(
            f"expected a model of MLP(..., bias=False) with relu or sigmoid and without a schema, got {model}: "
            "pygad.nn has nothing else"
        )
    layer, last, start = pygad.nn.InputLayer(model.inputs), len(model.sizes) - 2, 0
    weights = []
    for place, (above, below) in enumerate(pairwise(model.sizes)):
        # No softmax at the end: the largest output is the class, and that of pygad.nn gives another one.
        layer = pygad.nn.DenseLayer(below, layer, "None" if place == last else model.hidden)
        weights.append(trained.parameters[start : start + above * below].reshape(above, below))
        start += above * below
    pygad.nn.update_layers_trained_weights(layer, weights)
    return layer
