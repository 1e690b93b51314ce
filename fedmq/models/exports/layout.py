"""The parameters of a model as named arrays: the layout that files in open formats have."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fedmq.errors import BadConfiguration
from fedmq.models.arrays import Floats
from fedmq.models.fourier import Fourier
from fedmq.models.networks import MLP
from fedmq.models.torch_model import Torch
from fedmq.models.trained_model import TrainedModel
from fedmq.models.trees import Trees


class Layer(NamedTuple):
    """A layer: weights (inputs, outputs) and biases (outputs,), zeros for a model without biases."""

    weights: Floats
    biases: Floats


def layers(trained: TrainedModel) -> list[Layer]:
    """Return the layers of an MLP, Linear or LogLinear model, and the one behind the features of a Fourier model.

    Outputs are as the model computes them; a predicted value is `output_scale` times that.
    """
    model, parameters = trained.network(), trained.parameters
    if isinstance(model, Torch):
        raise BadConfiguration(
            f"expected a model of layers that fedmq knows, got the PyTorch model {model.factory}: export it as "
            "safetensors, or build it with fedmq.torch_module"
        )
    if isinstance(model, Fourier):
        return [Layer(*model.layers(parameters)[2:])]
    sizes, bias = (model.sizes, model.bias) if isinstance(model, MLP) else ((model.inputs, model.outputs), True)
    found, start = [], 0
    for above, below in pairwise(sizes):
        middle, end = start + above * below, start + (above + bias) * below
        biases = parameters[middle:end] if bias else np.zeros(below)
        found.append(Layer(parameters[start:middle].reshape(above, below), biases))
        start = end
    return found


def named_arrays(trained: TrainedModel) -> Mapping[str, npt.NDArray[Any]]:
    """Return all numbers of a model by name, as docs/reference/model-files.md lists them.

    Each is float64, for PyTorch float32.
    """
    model, arrays = trained.network(), dict[str, npt.NDArray[Any]]()
    if trained.preparation is not None:
        arrays["column_shift"] = trained.preparation.shift
        arrays["column_scale"] = trained.preparation.scale
        arrays["column_fill"] = trained.preparation.fill
    if isinstance(model, Torch):
        tensors = {one.name: trained.parameters[part].reshape(one.shape) for one, part in model.parts()}
        return {**arrays, **{name: array.astype(np.float32) for name, array in tensors.items()}}
    if isinstance(model, Trees):
        return {**arrays, **_forest(model, trained.parameters)}
    if isinstance(model, Fourier):
        arrays["means"], arrays["deviations"], _, _ = model.layers(trained.parameters)
        arrays["directions"], arrays["phases"] = model.directions()
    for place, layer in enumerate(layers(trained)):
        arrays[f"layers.{place}.weights"], arrays[f"layers.{place}.biases"] = layer
    return arrays


def _forest(model: Trees, parameters: Floats) -> Mapping[str, npt.NDArray[Any]]:
    """Return the trees that are not empty as arrays (trees, scores, ...), and the start (outputs,)."""
    forest, start = model.split_parameters(parameters)
    used = forest[: int(np.count_nonzero(forest.any(axis=(1, 2))))]
    shape = (len(used), model.scores)
    trees = [model.unpack(numbers) for trees in used for numbers in trees]
    return {
        "trees.columns": np.array([tree.columns for tree in trees]).reshape(*shape, model.nodes),
        "trees.missing": np.array([tree.missing for tree in trees]).reshape(*shape, model.nodes),
        "trees.rules": np.array([tree.rules for tree in trees]).reshape(*shape, model.nodes, model.words),
        "trees.leaves": np.array([tree.leaves for tree in trees]).reshape(*shape, model.nodes + 1),
        "start": start,
    }
