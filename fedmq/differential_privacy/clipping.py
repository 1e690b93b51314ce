"""Rows in integers whose L2 norm is bounded, exactly: the sensitivity of their sum."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
SQUARES_MAX = 2.0**53  # a sum of squares below it is exact in float64
SHORTENED = 1.0 - 2.0**-46  # of a factor: more than rounding can add to a product


def clipped_rows(rows: Floats, limit: int | Floats) -> Floats:
    """Return rows (rows, columns) of integers in float64, each shortened to an L2 norm of at most `limit`.

    The limit is one integer for all rows, or one for each, (rows,).

    Numbers are rounded towards zero, so no norm is above the limit, not even by rounding. Rows within it stay.

    Raises:
        ValueError: numbers so large that their squares are not exact.
    """
    squares = np.square(rows).sum(axis=1)
    if len(squares) and not squares.max() < SQUARES_MAX:
        raise ValueError(f"expected rows with a squared norm below 2**53, got {squares.max():g}")
    within = squares <= np.square(np.asarray(limit, np.float64))
    factors = limit / np.sqrt(np.where(within, 1.0, squares)) * SHORTENED
    return np.where(within[:, None], rows, np.trunc(rows * factors[:, None]))
