"""Losses of pairs of candidates, weights + sigma e and weights - sigma e, summed over rows: the same bits everywhere.

All products are products of integers that float32 or float64 holds exactly, so no BLAS kernel, block or order changes a
bit; between them are elementwise operations and tables. The layout is what makes it fast: rows lie on the last axis, so
that sums over classes are operations on vectors; the first layer of both signs is one product of the signs with the
rows; and blocks of rows and candidates stay in a cache.
"""

from __future__ import annotations

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
from fedmq.models.losses import ROW_CROSS_ENTROPY_MAX
from fedmq.models.networks import MLP, LogLinear
from fedmq.models.standardized import Layered, has_biases, layer_sizes

PAIR_LOSS_MAX = 256.0  # that a row's squared error counts at most, in units of the target's variance
BLOCK_VALUES = 1 << 16  # of a layer at once: some float32 arrays of 256 KiB
BLOCK_ROWS = 8192
SINGLE_BITS = 24  # integers of so many bits are exact in float32
INPUT_BITS, INPUT_LIMIT_BITS = 11, 6  # fraction bits of a standardized input, at most; it counts at most 2**6
WEIGHT_BITS, WEIGHT_LIMIT_BITS = 18, 5  # fraction bits of a weight, at most; it counts at most 2**5
UNIT_BITS, UNIT_LIMIT_BITS = 10, 7  # of the output of a rectifier: it counts at most 2**7
BOUNDED_BITS = 16  # fraction bits of tanh and sigmoid
TABLE_BITS, TABLE_LIMIT = 10, 8  # steps of 2**-10 from -8 to 8 in the tables of tanh and sigmoid
OUTPUT_BITS = 10  # fraction bits of an output that decides between classes
LOG_CELLS = 256  # of the logarithm's table, for each unit

Singles = npt.NDArray[np.float32]


class _Layer(NamedTuple):
    """One layer transposed: where its weights (outputs, inputs) and biases are among the parameters."""

    weights: npt.NDArray[np.intp]  # (outputs, inputs)
    biases: slice
    input_bits: int  # fraction bits of what comes in
    weight_bits: int


class _Scratch:
    """Arrays that are used again: fresh ones of a megabyte cost more in page faults than the arithmetic."""

    def __init__(self) -> None:
        self._kept: dict[str, npt.NDArray[Any]] = {}

    def __call__(self, name: str, shape: tuple[int, ...], dtype: type[np.generic] = np.float32) -> npt.NDArray[Any]:
        size, kept = int(np.prod(shape)), self._kept.get(name)
        if kept is None or kept.size < size:
            kept = self._kept[name] = np.empty(size, dtype)
        return kept[:size].reshape(shape)


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
    network, totals, scratch = _Network.of(model), np.zeros(drawn.count, np.int64), _Scratch()
    for start in range(0, inputs.shape[1], BLOCK_ROWS):
        if start and cancelled():
            raise WorkCancelled("the slopes are needless: the work was cancelled")
        block = slice(start, start + BLOCK_ROWS)
        network.add(totals, weights, drawn, sigma, inputs[:, block], targets[block], fraction_bits, scratch)
    return totals


class _Network(NamedTuple):
    """A model as layers of integers."""

    model: Layered
    layers: tuple[_Layer, ...]

    @classmethod
    def of(cls, model: Layered) -> _Network:
        layers, start, sizes = list[_Layer](), 0, layer_sizes(model)
        for above, below in pairwise(sizes):
            middle = start + above * below
            end = middle + below * has_biases(model)
            places = np.ascontiguousarray(np.arange(start, middle).reshape(above, below).T)
            inputs_bits = (above - 1).bit_length()
            if not layers:
                single = SINGLE_BITS - INPUT_LIMIT_BITS - inputs_bits  # fraction bits that leave signs x inputs exact
                room = EXACT_BITS - 1 - INPUT_LIMIT_BITS - WEIGHT_LIMIT_BITS - WEIGHT_BITS - inputs_bits
                bits = min(INPUT_BITS, single if single >= 8 else room)
                weight_bits = WEIGHT_BITS
            else:
                bits = UNIT_BITS if _is_rectified(model) else BOUNDED_BITS
                limit = bits + (UNIT_LIMIT_BITS if _is_rectified(model) else 0)
                weight_bits = min(WEIGHT_BITS, EXACT_BITS - 1 - limit - WEIGHT_LIMIT_BITS - 1 - inputs_bits)
            layers.append(_Layer(places, slice(middle, end), bits, weight_bits))
            start = end
        return cls(model, tuple(layers))

    @property
    def _first_dtype(self) -> type[np.generic]:
        bits = self.layers[0].input_bits + INPUT_LIMIT_BITS + (self.model.inputs - 1).bit_length()
        return np.float32 if bits <= SINGLE_BITS else np.float64

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
        limit = float(1 << WEIGHT_LIMIT_BITS)
        weights = np.minimum(np.maximum(weights, -limit), limit)
        fixed = to_fixed(inputs, first.input_bits, first.input_bits + INPUT_LIMIT_BITS)
        columns = fixed.astype(self._first_dtype)
        base = self._base(weights, fixed)
        at_once = max(1, BLOCK_VALUES // (rows * max(layer_sizes(self.model)[1:])))
        losses = _Losses(self.model, targets, fraction_bits, scratch)
        for start in range(0, drawn.count, at_once):
            signs = drawn.block(start, start + at_once)
            plus, minus = self._first(base, signs, sigma, columns, scratch)
            for place, layer in enumerate(self.layers[1:]):
                last = place == len(self.layers) - 2
                plus = self._next(layer, plus, weights, signs, sigma, scratch, f"plus{place}", last)
                minus = self._next(layer, minus, weights, signs, -sigma, scratch, f"minus{place}", last)
            totals[start : start + len(signs)] += losses.differences(plus, minus)

    def _base(self, weights: Floats, fixed: Floats) -> Singles:
        """Return the first layer's outputs of the weights themselves, (outputs, rows)."""
        layer = self.layers[0]
        bits = layer.input_bits + layer.weight_bits
        outputs = np.rint(weights[layer.weights] * 2.0**layer.weight_bits) @ fixed
        if layer.biases.start < layer.biases.stop:
            outputs += np.rint(weights[layer.biases] * 2.0**bits)[:, None]
        outputs *= 2.0**-bits
        return outputs.astype(np.float32)

    def _first(
        self, base: Singles, signs: Singles, sigma: float, columns: npt.NDArray[Any], scratch: _Scratch
    ) -> tuple[Singles, Singles]:
        """Return the first layer's outputs (candidates, outputs, rows) for both signs."""
        layer, count, rows = self.layers[0], len(signs), columns.shape[1]
        outputs, inputs = layer.weights.shape
        gathered = np.take(signs, layer.weights.ravel(), axis=1).reshape(count * outputs, inputs)
        if columns.dtype == np.float64:
            moved = (gathered.astype(np.float64) @ columns).astype(np.float32)
        else:
            moved = np.matmul(gathered, columns, out=scratch("first", (count * outputs, rows)))
        moved = moved.reshape(count, outputs, rows)
        if layer.biases.start < layer.biases.stop:
            moved += signs[:, layer.biases, None] * np.float32(2.0**layer.input_bits)
        moved *= np.float32(sigma * 2.0**-layer.input_bits)
        plus = np.add(base, moved, out=scratch("first plus", moved.shape))
        return plus, np.subtract(base, moved, out=moved)

    def _next(
        self,
        layer: _Layer,
        values: Singles,
        weights: Floats,
        signs: Singles,
        sigma: float,
        scratch: _Scratch,
        name: str,
        last: bool,
    ) -> Singles:
        """Return the outputs (candidates, outputs, rows) of a layer; `values` (candidates, inputs, rows) are lost."""
        outputs, inputs = layer.weights.shape
        count, rows, bits = len(values), values.shape[2], layer.input_bits + layer.weight_bits
        units = scratch("units", values.shape, np.float64)
        _activate(self.model, values, units, scratch)
        moved = np.take(signs, layer.weights.ravel(), axis=1).astype(np.float64).reshape(count, outputs, inputs)
        moved *= sigma
        moved += weights[layer.weights]
        moved *= 2.0**layer.weight_bits
        np.rint(moved, out=moved)
        product = np.matmul(moved, units, out=scratch("product", (count, outputs, rows), np.float64))
        if layer.biases.start < layer.biases.stop:
            biases = signs[:, layer.biases].astype(np.float64)
            biases *= sigma
            biases += weights[layer.biases]
            biases *= 2.0**bits
            product += np.rint(biases)[:, :, None]
        product *= 2.0**-bits
        result = scratch(name, product.shape)
        result[...] = product
        return result


def _is_rectified(model: Layered) -> bool:
    return isinstance(model, MLP) and model.hidden == "relu"


def _activate(model: Layered, values: Singles, units: Floats, scratch: _Scratch) -> None:
    """Write the activations of values into `units`, as integers."""
    assert isinstance(model, MLP)  # the others have one layer
    if model.hidden == "relu":
        np.maximum(values, np.float32(0.0), out=values)
        values *= np.float32(2.0**UNIT_BITS)
        np.rint(values, out=values)
        np.minimum(values, np.float32(2.0 ** (UNIT_BITS + UNIT_LIMIT_BITS)), out=values)
        units[...] = values
        return
    values += np.float32(TABLE_LIMIT)
    values *= np.float32(2.0**TABLE_BITS)
    np.rint(values, out=values)
    np.maximum(values, np.float32(0.0), out=values)
    np.minimum(values, np.float32(2 * TABLE_LIMIT << TABLE_BITS), out=values)
    cells = scratch("cells", values.shape, np.intp)
    cells[...] = values
    np.take(_bounded_table(model.hidden), cells, out=units, mode="clip")


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
        self._classes = isinstance(model, MLP) and model.output == "softmax"
        rows = len(targets)
        if self._classes:  # of each row's own class, where the axes of classes and rows are one
            self._own = targets.astype(np.intp) * rows + np.arange(rows)
        else:
            self._targets = targets.astype(np.float32)

    def differences(self, plus: Singles, minus: Singles) -> Integers:
        """Return the sum over rows of the rounded loss of one sign less the other's, (candidates,)."""
        first, second = self._rounded(plus, "first loss"), self._rounded(minus, "second loss")
        first -= second
        summed: Integers = first.sum(axis=1, dtype=np.float64).astype(np.int64)
        return summed

    def _rounded(self, outputs: Singles, name: str) -> Singles:
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
        outputs *= np.float32(2.0**OUTPUT_BITS)
        np.rint(outputs, out=outputs)
        own = np.take(outputs.reshape(count, -1), self._own, axis=1, mode="clip", out=scratch("own", (count, rows)))
        largest = scratch("largest", (count, rows))
        largest[...] = outputs[:, 0]
        for place in range(1, classes):
            np.maximum(largest, outputs[:, place], out=largest)
        np.subtract(largest[:, None], outputs, out=outputs)
        np.minimum(outputs, np.float32(len(tables.shares) - 1), out=outputs)
        cells = scratch("class cells", outputs.shape, np.intp)
        cells[...] = outputs
        shares = np.take(tables.shares, cells, mode="clip", out=outputs)
        total = scratch("total", (count, rows))
        total[...] = shares[:, 0]
        for place in range(1, classes):
            total += shares[:, place]
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
    shares: Singles  # exp(-i 2**-OUTPUT_BITS)
    middles: Singles  # of the cells of a sum of shares, which is from 1 to the number of classes
    inverses: Singles
    logs: Singles


@lru_cache(maxsize=4)
def _class_tables(classes: int) -> _ClassTables:
    steps: Floats = np.arange((int(ROW_CROSS_ENTROPY_MAX) << OUTPUT_BITS) + 1, dtype=np.float64)
    middles = 1.0 + (np.arange((classes - 1) * LOG_CELLS + 1) + 0.5) / LOG_CELLS
    tables = exp(steps * -(2.0**-OUTPUT_BITS)), middles, 1.0 / middles, log(middles)
    return _ClassTables(*(one.astype(np.float32) for one in tables))
