"""Networks whose parameters are for standardized rows, and the way to parameters for rows as they are.

Row by row, inputs are (x - shift) / scale and a target that is a value is (y - center) / unit. With axes, the network
gets fewer inputs: (x - shift) / scale times the axes. The first layer takes the inputs' part up, the last one the
target's. Each step is one elementwise operation or a product of integers, the same bits everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedmq.errors import Rejected
from fedmq.exact.algebra import Cholesky
from fedmq.exact.elementary import log
from fedmq.exact.integers import check_products, to_fixed
from fedmq.models.arrays import Floats, Integers
from fedmq.models.layers import Layered, has_biases, layers_of, with_inputs
from fedmq.models.networks import LogLinear, Model

AXIS_BITS = 14  # fraction bits of an element of an axis; it counts at most ±2
AXIS_MAX = 2 << AXIS_BITS
ROW_BITS, ROW_LIMIT_BITS = 12, 12  # fraction bits of a standardized input that axes turn; it counts at most 2**12


@dataclass(frozen=True, eq=False)
class Standard:
    """How rows are standardized: `shift` and `scale` (inputs,) float64; `center` and `unit` of the target.

    `axes` (inputs, components) int64, in units of 2**-AXIS_BITS, turn standardized inputs into fewer ones; None: there
    are none.
    """

    shift: Floats
    scale: Floats
    center: float = 0.0
    unit: float = 1.0
    axes: Integers | None = None

    @classmethod
    def of(cls, array: Floats, axes: Integers | None = None) -> Standard:
        """Return what `array` holds, with these axes.

        Raises:
            Rejected: a scale is not positive.
        """
        shifts, scales = array
        if not scales.min() > 0.0:
            raise Rejected("values", f"expected scales above 0 of the columns, got {scales.min():g}")
        return cls(shifts[:-1], scales[:-1], float(shifts[-1]), float(scales[-1]), axes)

    @property
    def array(self) -> Floats:
        """The form in messages, (2, inputs + 1): the shifts and the center, the scales and the unit."""
        return np.stack([np.append(self.shift, self.center), np.append(self.scale, self.unit)])

    def inputs(self, inputs: Floats) -> Floats:
        """Return standardized inputs (rows, inputs), a copy."""
        result: Floats = inputs - self.shift
        result /= self.scale
        if self.axes is None:
            return result
        check_products()
        fixed = to_fixed(result, ROW_BITS, ROW_BITS + ROW_LIMIT_BITS)
        turned: Floats = fixed @ self.axes.astype(np.float64)  # integers below 2**53
        turned *= 2.0 ** (-ROW_BITS - AXIS_BITS)
        return turned

    def network(self, model: Layered) -> Layered:
        """Return the network that gets standardized rows: with axes, it has an input for each."""
        return model if self.axes is None else with_inputs(model, self.axes.shape[1])

    def values(self, targets: Floats | Integers) -> Floats:
        """Return standardized targets (rows,) that are values."""
        result: Floats = (targets.astype(np.float64) - self.center) / self.unit
        return result

    def raw(self, model: Layered, parameters: Floats) -> Floats:
        """Return the parameters of a model for rows as they are, from those of `network(model)`; both (parameters,)."""
        result = parameters.astype(np.float64) if self.axes is None else self._unturned(model, parameters)
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
        """Return the parameters of `network(model)`, from those for rows as they are: the inverse of `raw`.

        With axes it is the nearest network, by the squares of the first layer's weights.
        """
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
        return result if self.axes is None else self._turned(model, result)

    def _unturned(self, model: Layered, parameters: Floats) -> Floats:
        """Return the parameters for standardized inputs, from those for inputs along the axes."""
        assert self.axes is not None
        columns = layers_of(self.network(model), parameters)[0][0]
        turned = np.zeros((model.inputs, columns.shape[1]))
        for axis, row in zip(self.axes.T * 2.0**-AXIS_BITS, columns, strict=True):
            turned += axis[:, None] * row
        return np.concatenate([turned.ravel(), parameters[columns.size :].astype(np.float64)])

    def _turned(self, model: Layered, parameters: Floats) -> Floats:
        """Return the parameters for inputs along the axes that come nearest to these, by least squares."""
        assert self.axes is not None
        weights = layers_of(model, parameters)[0][0]
        axes = self.axes * 2.0**-AXIS_BITS
        squares, right = np.zeros((axes.shape[1], axes.shape[1])), np.zeros((axes.shape[1], weights.shape[1]))
        for axis, row in zip(axes, weights, strict=True):
            squares += axis[:, None] * axis
            right += axis[:, None] * row
        return np.concatenate([Cholesky.of(squares).solve(right).ravel(), parameters[weights.size :]])


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
