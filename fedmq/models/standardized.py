"""Networks whose parameters are for standardized rows, and the way to parameters for rows as they are.

Row by row, inputs are (x - shift) / scale and a target that is a value is (y - center) / unit. The first layer takes
the inputs' part up, the last one the target's. Each step is one elementwise operation, the same bits everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedmq.exact.elementary import log
from fedmq.models.arrays import Floats, Integers
from fedmq.models.layers import Layered, has_biases, layers_of
from fedmq.models.networks import LogLinear, Model


@dataclass(frozen=True, eq=False)
class Standard:
    """How rows are standardized: `shift` and `scale` (inputs,) float64; `center` and `unit` of the target."""

    shift: Floats
    scale: Floats
    center: float = 0.0
    unit: float = 1.0

    @classmethod
    def of(cls, array: Floats) -> Standard:
        """Return what `array` holds."""
        shifts, scales = array
        return cls(shifts[:-1], scales[:-1], float(shifts[-1]), float(scales[-1]))

    @property
    def array(self) -> Floats:
        """The form in messages, (2, inputs + 1): the shifts and the center, the scales and the unit."""
        return np.stack([np.append(self.shift, self.center), np.append(self.scale, self.unit)])

    def inputs(self, inputs: Floats) -> Floats:
        """Return standardized inputs (rows, inputs), a copy."""
        result: Floats = inputs - self.shift
        result /= self.scale
        return result

    def values(self, targets: Floats | Integers) -> Floats:
        """Return standardized targets (rows,) that are values."""
        result: Floats = (targets.astype(np.float64) - self.center) / self.unit
        return result

    def raw(self, model: Layered, parameters: Floats) -> Floats:
        """Return the parameters for rows as they are, from those for standardized rows; both (parameters,)."""
        result = parameters.astype(np.float64)
        weights, biases = layers_of(model, result)[0]
        weights /= self.scale[:, None]
        if has_biases(model):  # one input after the other, whatever the shape: a sum might be pairwise
            biases[:] = np.subtract.reduce(np.vstack([biases, weights * self.shift[:, None]]))
        weights, biases = layers_of(model, result)[-1]
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
        weights, biases = layers_of(model, result)[-1]
        if isinstance(model, LogLinear):
            biases -= log(np.array([self.unit]))
        else:
            biases -= self.center
            weights /= self.unit
            biases /= self.unit
        weights, biases = layers_of(model, result)[0]
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
