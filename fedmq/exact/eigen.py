"""The leading eigenvectors of a symmetric matrix: one result on every machine, where LAPACK has one for each kernel.

Subspace iteration (Golub and Van Loan, "Matrix Computations", 8.2.4) with products of integers, then Jacobi's rotations
(8.5.2) for the small matrix that is left. Vectors of nearly equal eigenvalues may be mixtures of each other.
"""

from __future__ import annotations

import math

import numpy as np

from fedmq.exact.algebra import Cholesky
from fedmq.exact.draws import normals
from fedmq.exact.integers import Floats, combine, gram, product, symmetric, to_fixed, to_floats

EXTRA = 20  # vectors beside those that are wanted: the iteration converges by their eigenvalues
ITERATIONS = 60
MATRIX_BITS, VECTOR_BITS = 24, 22  # of the integers in products, relative to the largest one
SWEEPS = 12
NEGLIGIBLE = 1e-15  # of the largest element: rotations leave what is smaller
RANK_SHARE = 2.0**-18  # of the largest eigenvalue: a smaller one is rounding


def leading_eigenvectors(matrix: Floats, count: int) -> tuple[Floats, Floats]:
    """Return the `count` largest eigenvalues, falling, and their vectors as columns (size, count), to about 1e-6.

    `matrix` (size, size) is symmetric without negative eigenvalues. The largest element of a vector is positive. Beyond
    the rank of the matrix, eigenvalues and vectors are 0.
    """
    size = len(matrix)
    block = min(size, count + EXTRA)
    scale = _power_of_two(matrix)
    fixed = to_fixed(matrix / scale, MATRIX_BITS, MATRIX_BITS)
    vectors = np.eye(size)
    if block < size:
        vectors = _orthonormal(normals(size * block, 0, "eigenvectors").reshape(size, block))
        for _ in range(ITERATIONS):
            vectors = _orthonormal(_moved(fixed, vectors))
    moved = _moved(fixed, vectors)
    unit = _power_of_two(moved)
    rest = product(_fixed(vectors), VECTOR_BITS, _fixed(moved / unit), VECTOR_BITS).astype(np.float64)
    values, rotated = _jacobi((rest + rest.T) * (unit * 2.0 ** (-2 * VECTOR_BITS - 1)))
    least = RANK_SHARE * float(values.max(initial=0.0))
    order = [place for place in np.argsort(-values, kind="stable")[:count] if values[place] > least]
    kept, found = np.zeros(count), np.zeros((size, count))
    kept[: len(order)] = values[order] * scale
    for place, row in enumerate(rotated[:, order]):
        found[:, : len(order)] += vectors[:, place, None] * row
    largest = found[np.abs(found).argmax(axis=0), np.arange(count)]
    found *= np.where(largest < 0.0, -1.0, 1.0)
    return kept, found


def _power_of_two(values: Floats) -> float:
    """Return the smallest power of two above all values."""
    return float(np.ldexp(1.0, int(np.frexp(np.abs(values).max(initial=0.0))[1])))


def _fixed(values: Floats) -> Floats:
    """Return values up to ±1 as integers."""
    return to_fixed(values, VECTOR_BITS, VECTOR_BITS)


def _moved(fixed: Floats, vectors: Floats) -> Floats:
    """Return the matrix times vectors (size, block)."""
    total = product(fixed, MATRIX_BITS, _fixed(vectors), VECTOR_BITS).astype(np.float64)
    total *= 2.0 ** (-MATRIX_BITS - VECTOR_BITS)
    return total


def _orthonormal(vectors: Floats) -> Floats:
    """Return orthonormal vectors that span the same space; fewer if some depend on the others, none if all are 0."""
    if not vectors.size:
        return vectors
    fixed = np.stack([_fixed(one / _power_of_two(one)) for one in vectors.T], axis=1)
    factor = Cholesky.of(symmetric(to_floats(combine(gram(fixed, VECTOR_BITS), 0), 0)))
    found = fixed.T[factor.kept].copy()  # L X = fixed'
    for index in range(len(found)):
        found[index] /= factor.lower[index, index]
        found[index + 1 :] -= factor.lower[index + 1 :, index, None] * found[index]
    result: Floats = found.T
    return result


def _jacobi(matrix: Floats) -> tuple[Floats, Floats]:
    """Return all eigenvalues of a small symmetric matrix (size, size), and their vectors as columns."""
    rest, vectors, size = matrix.copy(), np.eye(len(matrix)), len(matrix)
    for _ in range(SWEEPS):
        least, rotations = NEGLIGIBLE * float(np.abs(rest).max(initial=0.0)), 0
        for one in range(size):
            for other in range(one + 1, size):
                beside = float(rest[one, other])
                if abs(beside) <= least:
                    continue
                rotations += 1
                ratio = (float(rest[other, other]) - float(rest[one, one])) / (2.0 * beside)
                tangent = math.copysign(1.0, ratio) / (abs(ratio) + math.sqrt(ratio * ratio + 1.0))
                cosine = 1.0 / math.sqrt(tangent * tangent + 1.0)
                for array in (rest.T, rest, vectors):  # columns, then rows
                    _rotate(array, one, other, cosine, tangent * cosine)
        if not rotations:
            break
    return np.diag(rest).copy(), vectors


def _rotate(array: Floats, one: int, other: int, cosine: float, sine: float) -> None:
    """Rotate two columns in place."""
    left, right = array[:, one].copy(), array[:, other].copy()
    array[:, one] = cosine * left - sine * right
    array[:, other] = sine * left + cosine * right
