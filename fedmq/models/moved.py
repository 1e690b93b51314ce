"""The parameters of a model for other statistics of the columns: the same predictions from the same cells."""

from itertools import pairwise

import numpy as np

from fedmq.errors import BadConfiguration
from fedmq.models.arrays import Floats
from fedmq.models.networks import MLP, Linear, LogLinear
from fedmq.models.trained_model import TrainedModel
from fedmq.models.trees import Trees
from fedmq.tables.preparation import Preparation


def moved(trained: TrainedModel, preparation: Preparation) -> Floats:
    """Return the parameters (num_parameters,) with which the model predicts the same under another preparation.

    A standardized number z = (x - shift) / scale becomes z' = (x - shift') / scale', and z = z' scale' / scale +
    (shift' - shift) / scale: the first factor goes into the weights of the first layer, the second into its biases.
    Rows with gaps are filled as the new preparation says.

    Raises:
        BadConfiguration: the model is no network of layers with biases.
    """
    model, old = trained.model, trained.preparation
    if isinstance(model, Trees):  # of the columns as they are
        return trained.parameters
    if not isinstance(model, MLP | Linear | LogLinear) or (isinstance(model, MLP) and not model.bias):
        raise BadConfiguration(f"expected a network of layers with biases to start from, got {model}")
    assert old is not None
    factors, steps = [], []
    for place, column in enumerate(old.schema.columns):
        standardized = column.kind != "category"
        factors += [preparation.scale[place] / old.scale[place] if standardized else 1.0] * column.num_features
        step = (preparation.shift[place] - old.shift[place]) / old.scale[place] if standardized else 0.0
        steps += [step] * column.num_features
    parameters = trained.parameters.copy()
    above, below = next(pairwise(model.sizes)) if isinstance(model, MLP) else (model.inputs, model.outputs)
    weights = parameters[: above * below].reshape(above, below)
    parameters[above * below : (above + 1) * below] += np.array(steps) @ weights
    weights *= np.array(factors)[:, None]
    return parameters
