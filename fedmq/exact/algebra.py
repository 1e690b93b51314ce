"""Linear algebra on totals, elementwise: one result on every machine, where LAPACK has one for each kernel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedmq.exact.integers import Floats

PIVOT_SHARE = 1e-10  # a column whose pivot falls below this share of its start depends on the columns before it
REFINEMENTS = 2
BLOCK_ROWS = 64


@dataclass(frozen=True, eq=False)
class Cholesky:
    """The factor L of a symmetric matrix A = L L', without the columns that depend on those before them.

    Outer-product form (Golub and Van Loan, "Matrix Computations", 4.2.5), one ufunc for each step. The rule for
    dependent columns is that of R's `glm`: `kept` (columns,) is False for them, and their solution is 0.
    """

    matrix: Floats  # of the kept columns
    lower: Floats
    kept: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, matrix: Floats, pivot_share: float = PIVOT_SHARE) -> Cholesky:
        """Factor a symmetric matrix."""
        rest, size = matrix.copy(), len(matrix)
        lower, kept, starts = np.zeros((size, size)), np.ones(size, bool), np.abs(np.diag(matrix)).copy()
        for index in range(size):
            pivot = rest[index, index]
            if not pivot > pivot_share * max(starts[index], 1e-300):
                kept[index] = False
                continue
            column = rest[index:, index] / np.sqrt(pivot)
            lower[index:, index] = column
            for start in range(index + 1, size, BLOCK_ROWS):  # the lower triangle, in blocks that fit a cache
                end = start + BLOCK_ROWS
                update = column[start - index : end - index, None] * column[None, 1 : end - index]
                rest[start:end, index + 1 : end] -= update
        chosen = np.flatnonzero(kept)
        square = np.ix_(chosen, chosen)
        return cls(matrix[square], lower[square], kept)

    def solve(self, right: Floats, refinements: int = REFINEMENTS) -> Floats:
        """Return x with A x = right, for `right` (columns,) or (columns, n), with iterative refinement."""
        wanted = right.reshape(len(right), -1)[self.kept]
        found = self._substituted(wanted)
        for _ in range(refinements):
            residual = wanted.copy()
            for index in range(len(found)):
                residual -= self.matrix[:, index, None] * found[index]
            found = found + self._substituted(residual)
        result = np.zeros((len(right), wanted.shape[1]))
        result[self.kept] = found
        return result.reshape(right.shape)

    def inverse(self) -> Floats:
        """Return the inverse (columns, columns); rows and columns that were not kept are 0."""
        return self.solve(np.eye(len(self.kept)))

    def leading(self, size: int) -> Cholesky:
        """Return the factor of the first `size` columns: it is the leading block of this one."""
        count = int(np.count_nonzero(self.kept[:size]))
        return Cholesky(self.matrix[:count, :count], self.lower[:count, :count], self.kept[:size])

    def _substituted(self, right: Floats) -> Floats:
        """Solve L L' x = right by columns, forward and backward."""
        found, lower = right.copy(), self.lower
        for index in range(len(found)):
            found[index] = found[index] / lower[index, index]
            found[index + 1 :] -= lower[index + 1 :, index, None] * found[index]
        for index in range(len(found) - 1, -1, -1):
            found[index] = found[index] / lower[index, index]
            found[:index] -= lower[index, :index, None] * found[index]
        return found


def quadratic_form(matrix: Floats, vectors: Floats) -> Floats:
    """Return v' A v for each column v of `vectors` (columns, n), (n,), added in the order of the columns."""
    products = np.zeros_like(vectors)
    for index in range(len(matrix)):
        products += matrix[:, index, None] * vectors[index]
    products *= vectors
    total = np.zeros(vectors.shape[1])
    for one in products:
        total += one
    return total
