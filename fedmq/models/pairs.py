"""Losses of pairs of candidates, weights + sigma e and weights - sigma e, summed over rows: the same bits everywhere.

All products are products of integers that float32 or float64 holds exactly, so no BLAS kernel, block or order changes a
bit; between them are elementwise operations and tables. The layout is what makes it fast: rows lie on the last axis, so
that sums over classes are operations on vectors; the first layer of both signs is one product of the signs with the
rows; and blocks of rows and candidates stay in a cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fedmq.errors import WorkCancelled
from fedmq.exact.directions import Directions
from fedmq.exact.elementary import exp, log, sigmoid
from fedmq.exact.integers import EXACT_BITS, check_products, to_fixed
from fedmq.models.arrays import Floats, Integers
from fedmq.models.layers import Layered, has_biases, layer_sizes
from fedmq.models.losses import ROW_CROSS_ENTROPY_MAX
from fedmq.models.networks import MLP, LogLinear

PAIR_LOSS_MAX = 256.0  # that a row's squared error counts at most, in units of the target's variance
BLOCK_VALUES = 1 << 17  # of a layer at once: some arrays of 512 KiB
BLOCK_ROWS = 8192
SINGLE_BITS = 24  # integers of so many bits are exact in float32
INPUT_BITS, INPUT_LIMIT_BITS = 11, 6  # fraction bits of a standardized input, at most; it counts at most 2**6
SINGLE_INPUT_BITS = 8  # fraction bits of inputs below which the first product is one of float64
WEIGHT_BITS, WEIGHT_LIMIT_BITS = 18, 5  # fraction bits of a weight, at most; it counts at most 2**5
UNIT_BITS, UNIT_LIMIT_BITS = 10, 7  # of the output of a rectifier: it counts at most 2**7
BOUNDED_BITS = 16  # fraction bits of tanh and sigmoid
TABLE_BITS, TABLE_LIMIT = 10, 8  # steps of 2**-10 from -8 to 8 in the tables of tanh and sigmoid
OUTPUT_BITS = 10  # fraction bits of an output that decides between classes
LOG_CELLS = 256  # of the logarithm's table, for each unit

Singles = npt.NDArray[np.float32]


class _Layer(NamedTuple):
    """One layer as a matrix (outputs, inputs) of the arranged parameters, in each row the bias last if there is one.

    The input of a bias is 1. What comes in has `input_bits` fraction bits, a weight `weight_bits`.
    """

    place: slice
    outputs: int
    inputs: int
    input_bits: int
    weight_bits: int

    def matrix(self, parameters: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the layer's matrices (..., outputs, inputs) of parameters (..., all)."""
        layer = parameters[..., self.place]
        return layer.reshape(*layer.shape[:-1], self.outputs, self.inputs)


class _Scratch:
    """Arrays that are used again: fresh ones of a megabyte cost more in page faults than the arithmetic."""

    def __init__(self) -> None:
        self._kept: dict[str, npt.NDArray[Any]] = {}
        self._views: dict[tuple[str, tuple[int, ...]], npt.NDArray[Any]] = {}

    def __call__(self, name: str, shape: tuple[int, ...], dtype: type[np.generic] = np.float32) -> npt.NDArray[Any]:
        view = self._views.get((name, shape))
        if view is None:
            size, kept = math.prod(shape), self._kept.get(name)
            if kept is None or kept.size < size:
                kept = self._kept[name] = np.empty(size, dtype)
            view = self._views[name, shape] = kept[:size].reshape(shape)
        return view


def pair_differences(
    model: Layered,
    weights: Floats,
    drawn: Directions,
    sigma: float,
    inputs: Floats,
    targets: Floats | Integers,
    fraction_bits: int,
    cancelled: Callable[[], bool] = lambda: False,
) -> Integers:
    """Return the loss of weights + sigma e less that of weights - sigma e for each direction e, (directions,) int64.

    `weights` is (parameters,), `inputs` (inputs, rows) standardized, `targets` (rows,) classes or standardized values.
    Each row's loss is rounded to units of 2**-fraction_bits, so the sums over rows add up exactly. It counts at most
    ROW_CROSS_ENTROPY_MAX nats, or PAIR_LOSS_MAX.

    Raises:
        WorkCancelled: `cancelled()` is true; it is called for each block of rows.
    """
    check_products()
    network, totals, scratch = _network(model), np.zeros(drawn.count, np.int64), _Scratch()
    drawn = drawn.arranged(network.order)
    limit = float(1 << WEIGHT_LIMIT_BITS)
    weights = np.minimum(np.maximum(weights[network.order], -limit), limit)
    for start in range(0, inputs.shape[1], BLOCK_ROWS):
        if start and cancelled():
            raise WorkCancelled("the slopes are needless: the work was cancelled")
        block = slice(start, start + BLOCK_ROWS)
        network.add(totals, weights, drawn, sigma, inputs[:, block], targets[block], fraction_bits, scratch)
    return totals


class _Network(NamedTuple):
    """A model as layers of integers, and the order of its parameters in which each layer is a matrix."""

    model: Layered
    layers: tuple[_Layer, ...]
    order: npt.NDArray[np.intp]

    def add(
        self,
        totals: Integers,
        weights: Floats,
        drawn: Directions,
        sigma: float,
        inputs: Floats,
        targets: Floats | Integers,
        fraction_bits: int,
        scratch: _Scratch,
    ) -> None:
        """Add the differences over a block of rows to the totals, candidates block after block."""
        rows, first = inputs.shape[1], self.layers[0]
        columns = np.full((first.inputs, rows), 2.0**first.input_bits)
        columns[: len(inputs)] = to_fixed(inputs, first.input_bits, first.input_bits + INPUT_LIMIT_BITS)
        base = np.rint(first.matrix(weights) * 2.0**first.weight_bits) @ columns
        base *= 2.0 ** (self._scale(0) - first.input_bits - first.weight_bits)
        start_base, moved_by = base.astype(np.float32), np.float32(sigma * 2.0 ** (self._scale(0) - first.input_bits))
        exact_in_single = first.input_bits + INPUT_LIMIT_BITS + (first.inputs - 1).bit_length() <= SINGLE_BITS
        columns = columns.astype(np.float32) if exact_in_single else columns
        at_once = max(1, BLOCK_VALUES // (rows * max(layer_sizes(self.model)[1:])))
        losses = _Losses(self.model, targets, fraction_bits, scratch)
        for start in range(0, drawn.count, at_once):
            signs = drawn.block(start, start + at_once)
            plus, minus = _first(first, start_base, moved_by, signs, columns, scratch)
            found = losses.rounded(self._outputs(plus, weights, signs, sigma, scratch), "first loss")
            found -= losses.rounded(self._outputs(minus, weights, signs, -sigma, scratch), "second loss")
            totals[start : start + len(signs)] += found.sum(axis=1, dtype=np.float64).astype(np.int64)

    def _outputs(self, values: Singles, weights: Floats, signs: Singles, sigma: float, scratch: _Scratch) -> Singles:
        """Return the outputs of the last layer from those of the first one, which are lost."""
        for place in range(1, len(self.layers)):
            values = self._next(place, values, weights, signs, sigma, scratch)
        return values

    def _scale(self, place: int) -> int:
        """Return the fraction bits of the outputs of a layer, which are integers once they are rounded."""
        if place == len(self.layers) - 1:
            return OUTPUT_BITS if _has_classes(self.model) else 0
        return UNIT_BITS if _is_rectified(self.model) else TABLE_BITS

    def _next(
        self,
        place: int,
        values: Singles,
        weights: Floats,
        signs: Singles,
        sigma: float,
        scratch: _Scratch,
    ) -> Singles:
        """Return the outputs (candidates, outputs, rows) of a layer; `values` (candidates, inputs, rows) are lost."""
        layer = self.layers[place]
        count, width, rows = values.shape
        units = scratch("units", (count, layer.inputs, rows), np.float64)
        units[:, width:] = 2.0**layer.input_bits
        _activate(self.model, values, units[:, :width], scratch)
        moved = layer.matrix(signs).astype(np.float64)
        moved *= sigma
        moved += layer.matrix(weights)
        moved *= 2.0**layer.weight_bits
        np.rint(moved, out=moved)
        moved *= 2.0 ** (self._scale(place) - layer.input_bits - layer.weight_bits)  # a power of two: nothing rounds
        product = np.matmul(moved, units, out=scratch("product", (count, layer.outputs, rows), np.float64))
        result: Singles = scratch(f"outputs {place % 2}", product.shape)
        result[...] = product
        return result


def _first(
    layer: _Layer, base: Singles, moved_by: np.float32, signs: Singles, columns: npt.NDArray[Any], scratch: _Scratch
) -> tuple[Singles, Singles]:
    """Return the first layer's outputs (candidates, outputs, rows) for both signs, from those of the weights."""
    shape = (len(signs), layer.outputs, columns.shape[1])
    moved: Singles = scratch("first", shape)
    flat = layer.matrix(signs).reshape(-1, layer.inputs)
    if columns.dtype == np.float32:
        np.matmul(flat, columns, out=moved.reshape(len(flat), -1))
    else:
        moved[...] = (flat.astype(np.float64) @ columns).reshape(shape)
    moved *= moved_by
    plus: Singles = np.add(base, moved, out=scratch("first plus", shape))
    np.subtract(base, moved, out=moved)
    return plus, moved


@lru_cache(maxsize=4)
def _network(model: Layered) -> _Network:
    """Return the layers of a model, with as many bits as leave each product exact."""
    layers, orders, start, bias = list[_Layer](), list[npt.NDArray[np.intp]](), 0, has_biases(model)
    for above, below in pairwise(layer_sizes(model)):
        end, inputs = start + (above + bias) * below, above + bias
        matrix = np.arange(start, end).reshape(inputs, below)  # the biases are behind the weights: its last row
        orders.append(matrix.T.ravel())
        sum_bits = (inputs - 1).bit_length()
        if not layers:
            single = SINGLE_BITS - INPUT_LIMIT_BITS - sum_bits  # fraction bits that leave signs x inputs exact
            room = EXACT_BITS - INPUT_LIMIT_BITS - WEIGHT_LIMIT_BITS - WEIGHT_BITS - sum_bits
            bits, weight_bits = min(INPUT_BITS, single if single >= SINGLE_INPUT_BITS else room), WEIGHT_BITS
        else:
            bits = UNIT_BITS if _is_rectified(model) else BOUNDED_BITS
            unit_bits = bits + (UNIT_LIMIT_BITS if _is_rectified(model) else 0)
            weight_bits = min(WEIGHT_BITS, EXACT_BITS - unit_bits - (WEIGHT_LIMIT_BITS + 1) - sum_bits)
        layers.append(_Layer(slice(start, end), below, inputs, bits, weight_bits))
        start = end
    return _Network(model, tuple(layers), np.concatenate(orders))


def _is_rectified(model: Layered) -> bool:
    return isinstance(model, MLP) and model.hidden == "relu"


def _has_classes(model: Layered) -> bool:
    return isinstance(model, MLP) and model.output == "softmax"


def _activate(model: Layered, values: Singles, units: Floats, scratch: _Scratch) -> None:
    """Write the activations of values into `units`, as integers."""
    assert isinstance(model, MLP)  # the others have one layer
    if model.hidden == "relu":
        np.clip(values, np.float32(0.0), np.float32(2.0 ** (UNIT_BITS + UNIT_LIMIT_BITS)), out=values)
        np.rint(values, out=values)
        units[...] = values
        return
    values += np.float32(TABLE_LIMIT << TABLE_BITS)
    np.rint(values, out=values)
    np.clip(values, np.float32(0.0), np.float32(2 * TABLE_LIMIT << TABLE_BITS), out=values)
    cells = scratch("cells", values.shape, np.intp)
    cells[...] = values
    units[...] = np.take(_bounded_table(model.hidden), cells, mode="clip")


@lru_cache(maxsize=2)
def _bounded_table(hidden: str) -> Floats:
    """Return tanh or sigmoid from -TABLE_LIMIT to TABLE_LIMIT, as integers in units of 2**-BOUNDED_BITS."""
    steps: Floats = np.arange(-(TABLE_LIMIT << TABLE_BITS), (TABLE_LIMIT << TABLE_BITS) + 1, dtype=np.float64)
    values = steps * 2.0**-TABLE_BITS
    table: Floats = sigmoid(values) if hidden == "sigmoid" else sigmoid(values * 2.0) * 2.0 - 1.0
    return np.rint(table * 2.0**BOUNDED_BITS)


class _Losses:
    """Row losses of candidates in a block of rows, elementwise in float32."""

    def __init__(self, model: Layered, targets: Floats | Integers, fraction_bits: int, scratch: _Scratch) -> None:
        self._model, self._scratch = model, scratch
        self._unit = np.float32(2.0**fraction_bits)
        self._classes = _has_classes(model)
        rows = len(targets)
        if self._classes:  # of each row's own class, where the axes of classes and rows are one
            self._own = targets.astype(np.intp) * rows + np.arange(rows)
        else:
            self._targets = targets.astype(np.float32)

    def rounded(self, outputs: Singles, name: str) -> Singles:
        """Return row losses (candidates, rows) in units of 2**-fraction_bits; the outputs are lost."""
        losses = self._cross_entropy(outputs, name) if self._classes else self._squared_error(outputs, name)
        losses *= self._unit
        np.rint(losses, out=losses)
        return losses

    def _squared_error(self, outputs: Singles, name: str) -> Singles:
        values = outputs[:, 0]
        if isinstance(self._model, LogLinear):
            values = exp(values.astype(np.float64)).astype(np.float32)
        errors: Singles = np.subtract(values, self._targets, out=self._scratch(name, values.shape))
        np.multiply(errors, errors, out=errors)
        np.minimum(errors, np.float32(PAIR_LOSS_MAX), out=errors)
        return errors

    def _cross_entropy(self, outputs: Singles, name: str) -> Singles:
        """Return log sum exp(z) - z of the own class, with both functions from tables."""
        count, classes, rows = outputs.shape
        scratch, tables = self._scratch, _class_tables(classes)
        np.rint(outputs, out=outputs)
        own = np.take(outputs.reshape(count, -1), self._own, axis=1, mode="clip", out=scratch("own", (count, rows)))
        largest = outputs.max(axis=1, out=scratch("largest", (count, rows)))
        np.subtract(largest[:, None], outputs, out=outputs)
        cells = scratch("class cells", outputs.shape, np.intp)
        cells[...] = outputs
        shares = np.take(tables.shares, cells, mode="clip", out=outputs)
        total = shares.sum(axis=1, out=scratch("total", (count, rows)))
        losses: Singles = scratch(name, (count, rows))
        np.subtract(total, np.float32(1.0), out=losses)
        losses *= np.float32(LOG_CELLS)
        cell = scratch("log cells", (count, rows), np.intp)
        cell[...] = losses
        entry = scratch("entry", (count, rows))
        total -= np.take(tables.middles, cell, mode="clip", out=entry)
        total *= np.take(tables.inverses, cell, mode="clip", out=entry)
        np.multiply(total, np.float32(-0.5), out=losses)  # log(1 + r) = r - r**2 / 2 for |r| below 1 / 512
        losses += np.float32(1.0)
        losses *= total
        losses += np.take(tables.logs, cell, mode="clip", out=entry)
        largest -= own
        largest *= np.float32(2.0**-OUTPUT_BITS)
        losses += largest
        np.minimum(losses, np.float32(ROW_CROSS_ENTROPY_MAX), out=losses)
        return losses


class _ClassTables(NamedTuple):
    shares: Singles  # exp(-i 2**-OUTPUT_BITS), in a unit that leaves a sum over the classes exact in any order
    middles: Singles  # of the cells of a sum of shares, which is from 1 to the number of classes
    inverses: Singles
    logs: Singles


@lru_cache(maxsize=4)
def _class_tables(classes: int) -> _ClassTables:
    steps: Floats = np.arange((int(ROW_CROSS_ENTROPY_MAX) << OUTPUT_BITS) + 1, dtype=np.float64)
    middles = 1.0 + (np.arange((classes - 1) * LOG_CELLS + 1) + 0.5) / LOG_CELLS
    unit = 2.0 ** (SINGLE_BITS - max(4, (classes - 1).bit_length()))
    tables = np.rint(exp(steps * -(2.0**-OUTPUT_BITS)) * unit) / unit, middles, 1.0 / middles, log(middles)
    return _ClassTables(*(one.astype(np.float32) for one in tables))
