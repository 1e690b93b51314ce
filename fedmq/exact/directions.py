"""Directions of signs that every party draws from a seed: rows of a Hadamard matrix, by integers only.

Row r of Sylvester's matrix of size D = 2**n has the sign (-1)**popcount(r & c) in column c, and its rows are
orthogonal. A direction takes one row; the columns are permuted and their signs drawn. Until a cycle has used every row
once, no row comes twice. Orthogonal directions measure a gradient better than independent ones (Choromanski et al.
2018, "Structured evolution with compact architectures for scalable policy optimization").
"""

from __future__ import annotations

from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from fedmq.exact.draws import permutation, signs

Signs = npt.NDArray[np.float32]
Words32 = npt.NDArray[np.uint32]

KEPT_MAX = 1 << 22  # signs of one round that are kept in memory: 16 MiB
_LAST_BITS = np.uint32(0x6996)  # bit i is the parity of i, for i below 16


def size_for(parameters: int) -> int:
    """Return D, the smallest power of two that is at least the number of parameters."""
    return 1 << max(0, parameters - 1).bit_length()


class Directions:
    """The directions of one round: `count` vectors of signs of length `parameters`, which `block` returns."""

    def __init__(self, rows: Words32, columns: Words32, flips: Words32) -> None:
        self._rows, self._columns, self._flips = rows, columns, flips
        self.count, self.parameters = len(rows), len(columns)
        self._arranged: tuple[npt.NDArray[np.intp], Directions] | None = None

    def block(self, start: int = 0, stop: int | None = None) -> Signs:
        """Return directions (stop - start, parameters), each number -1 or 1 in float32; read only."""
        if self.count * self.parameters <= KEPT_MAX:
            return self._all[start:stop]
        return self._signs(self._rows[start:stop])

    def arranged(self, order: npt.NDArray[np.intp]) -> Directions:
        """Return the same directions with the parameters in another order; the same array again costs nothing."""
        if self._arranged is None or self._arranged[0] is not order:
            self._arranged = order, Directions(self._rows, self._columns[order], self._flips[order])
        return self._arranged[1]

    @cached_property
    def _all(self) -> Signs:
        return self._signs(self._rows)

    def _signs(self, rows: Words32) -> Signs:
        common = rows[:, None] & self._columns
        for shift in (16, 8, 4):
            if int(self._columns.max(initial=0)) >> shift:
                common ^= common >> np.uint32(shift)
        common &= np.uint32(15)
        np.right_shift(_LAST_BITS, common, out=common)
        common ^= self._flips
        common &= np.uint32(1)
        drawn = common.astype(np.float32)
        drawn *= np.float32(-2.0)
        drawn += np.float32(1.0)
        drawn.flags.writeable = False
        return drawn


@lru_cache(maxsize=4)  # trainers of one process share them, and late answers need those of earlier rounds
def directions(count: int, parameters: int, seed: int, number: int) -> Directions:
    """Return the directions of round `number`, from 1; at most `size_for(parameters)` of them."""
    size = size_for(parameters)
    count = min(count, size)
    cycle, place = divmod(number - 1, size // count)
    rows, columns, flips = _cycle(parameters, seed, cycle)
    return Directions(rows[place * count : (place + 1) * count], columns, flips)


@lru_cache(maxsize=4)
def _cycle(parameters: int, seed: int, cycle: int) -> tuple[Words32, Words32, Words32]:
    size = size_for(parameters)
    rows = permutation(size, seed, "directions", "rows", cycle).astype(np.uint32)
    columns = permutation(size, seed, "directions", "columns", cycle)[:parameters].astype(np.uint32)
    flips = (signs(parameters, seed, "directions", "signs", cycle) < 0).astype(np.uint32)
    return rows, columns, flips
