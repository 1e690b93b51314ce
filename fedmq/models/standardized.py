"""Networks whose parameters are for standardized rows, and the way to parameters for rows as they are.

Row by row, inputs are (x - shift) / scale and a target that is a value is (y - center) / unit. The first layer takes
the inputs' part up, the last one the target's. Each step is one elementwise operation, the same bits everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fedmq.errors import BadConfiguration
from fedmq.exact.elementary import log
from fedmq.models.arrays import Floats
from fedmq.models.networks import MLP, Linear, LogLinear, Model

Layered = MLP | Linear | LogLinear


def layer_sizes(model: Layered) -> tuple[int, ...]:
    """Return the sizes of the layers, the inputs first."""
    return tuple(model.sizes) if isinstance(model, MLP) else (model.inputs, model.outputs)


def has_biases(model: Layered) -> bool:
    """Return whether layers have biases; only then can they take up a shift."""
    return model.bias if isinstance(model, MLP) else True


@dataclass(frozen=True, eq=False)
class Standard:
    """How rows are standardized: `shift` and `scale` (inputs,) float64; `center` and `unit` of the target."""

    shift: Floats
    scale: Floats
    center: float = 0.0
    unit: float = 1.0

    def raw(self, model: Layered, parameters: Floats) -> Floats:
        """Return the parameters for rows as they are, from those for standardized rows; both (parameters,)."""
        result = parameters.astype(np.float64)
        weights, biases = _layer(model, result, first=True)
        weights /= self.scale[:, None]
        if has_biases(model):
            for weight, shift in zip(weights, self.shift, strict=True):
                biases -= weight * shift
        weights, biases = _layer(model, result, first=False)
        if isinstance(model, LogLinear):
            biases += log(np.array([self.unit]))
        else:
            weights *= self.unit
            biases *= self.unit
            biases += self.center
        return result

    def standardized(self, model: Layered, parameters: Floats) -> Floats:
        """Return the parameters for standardized rows, from those for rows as they are: the inverse of `raw`."""
        result = parameters.astype(np.float64)
        weights, biases = _layer(model, result, first=False)
        if isinstance(model, LogLinear):
            biases -= log(np.array([self.unit]))
        else:
            biases -= self.center
            weights /= self.unit
            biases /= self.unit
        weights, biases = _layer(model, result, first=True)
        if has_biases(model):
            for weight, shift in zip(weights, self.shift, strict=True):
                biases += weight * shift
        weights *= self.scale[:, None]
        return result


def standard_for(model: Model, means: Floats, variances: Floats, *, values: bool) -> Standard:
    """Return how rows with these column means and variances are standardized; with `values`, the target is the last.

    A column without variance is only shifted. A network without biases cannot take up a shift: its columns are divided
    by their root mean square. A model that is not made of layers gets rows as they are.
    """
    inputs = model.inputs
    if not isinstance(model, Layered):
        return Standard(np.zeros(inputs), np.ones(inputs))
    means, squares = means.copy(), variances.copy()
    if not has_biases(model):
        squares += means * means
        means[:] = 0.0
    if isinstance(model, LogLinear):
        squares[-1] += means[-1] * means[-1]  # counts keep their zero
        means[-1] = 0.0
    scales = np.where(squares > 0.0, np.sqrt(squares), 1.0)
    if not values:
        return Standard(means[:inputs], scales[:inputs])
    return Standard(means[:inputs], scales[:inputs], float(means[-1]), float(scales[-1]))


def first_parameters(model: Layered, draws: Floats) -> Floats:
    """Return the first parameters of a network from standard normal draws (parameters,): no biases.

    The variance of a weight is 2 / inputs of its layer before a rectifier (He et al. 2015, "Delving deep into
    rectifiers"), else 1 / inputs. A model of one layer begins with zeros, so that no draw decides.
    """
    result, start, sizes = draws.copy(), 0, layer_sizes(model)
    for layer, (above, below) in enumerate(pairwise(sizes), start=2):
        gain = 2.0 if isinstance(model, MLP) and model.hidden == "relu" and layer < len(sizes) else 1.0
        middle = start + above * below
        result[start:middle] *= np.sqrt(gain / above) if len(sizes) > 2 else 0.0
        start = middle + below * has_biases(model)
        result[middle:start] = 0.0
    return result


def _layer(model: Layered, parameters: Floats, *, first: bool) -> tuple[Floats, Floats]:
    """Return views of the weights (inputs, outputs) and biases (outputs,) of the first or of the last layer."""
    sizes = layer_sizes(model)
    if parameters.shape != (model.num_parameters,):
        raise BadConfiguration(f"expected {model.num_parameters} parameters, got {parameters.shape}")
    above, below = sizes[:2] if first else sizes[-2:]
    size = (above + has_biases(model)) * below
    layer = parameters[:size] if first else parameters[len(parameters) - size :]
    return layer[: above * below].reshape(above, below), layer[above * below :]
