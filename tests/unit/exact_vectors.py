"""Test vectors of exact arithmetic: hashes that are the same under every CPU, BLAS kernel and version of numpy.

Run as a script it prints them as JSON; `test_exact_portability.py` compares them with the table there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import msgspec
import numpy as np
from five_tables import ALGORITHMS, DataSet, data_sets
from glm_rows import cases
from splits import classification, closed, model_sha256, part, state_after

from fedmq.algorithms.checkpoint import dump
from fedmq.algorithms.registry import find_algorithm
from fedmq.exact.algebra import Cholesky, quadratic_form
from fedmq.exact.draws import hash_rows, normals, permutation, signs, words
from fedmq.exact.eigen import leading_eigenvectors
from fedmq.exact.elementary import exp, linear_outputs, log, sigmoid, softmax, softplus
from fedmq.exact.fourier import integer_cosines
from fedmq.exact.integers import (
    combine,
    gram_of_parts,
    product,
    products_are_exact,
    split,
    symmetric,
    to_fixed,
    to_floats,
)
from fedmq.models.exact_outputs import exact_outputs
from fedmq.models.fourier import Fourier
from fedmq.models.networks import MLP, Hidden
from fedmq.models.trees import Trees
from fedmq.tables.table import Table
from fedmq.tasks.row_views import RowViews
from fedmq.tasks.task import Task


def fingerprint(*arrays: np.ndarray) -> str:
    """Return the first 16 digits of SHA-256 over dtypes, shapes and contents."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def vectors() -> Iterator[tuple[str, str]]:
    """Yield the name and the fingerprint of each test vector."""
    assert products_are_exact()
    table = normals(1500 * 23, 1, "table").reshape(1500, 23)
    table[:, 3] = table[:, 1] * 2.0 - table[:, 2]  # depends on two others
    wide = table.ravel() * 20.0
    yield (
        "words, signs, normals, permutation",
        fingerprint(words(100, 2, "a"), signs(100, 2, "a"), normals(10_000, 2, "b"), permutation(1000, 2, "c")),
    )
    yield "hashes of rows", fingerprint(hash_rows(np.ascontiguousarray(table.T)))
    yield "exp, log", fingerprint(exp(wide), log(np.abs(wide)), log(exp(wide)))
    yield "sigmoid, softplus, softmax", fingerprint(sigmoid(wide), softplus(wide), *softmax(table.T))
    yield "linear outputs", fingerprint(linear_outputs(np.ascontiguousarray(table.T), table[0]))
    networks = [MLP((23, 8, 4), hidden) for hidden in ("relu", "tanh", "sigmoid")]  # type: ignore[arg-type]
    yield (
        "outputs of networks",
        fingerprint(*(exact_outputs(one, table.ravel()[: one.num_parameters], table) for one in networks)),
    )
    yield "cosines", fingerprint(integer_cosines(np.arange(1 << 16)))
    parts = split(to_fixed(table, 36, 40), 20)
    sums = gram_of_parts(parts, 20)
    yield "sums of products", fingerprint(sums, product(parts.high, 20, parts.low, 20))
    matrix = symmetric(to_floats(combine(sums, 20), 72))
    factor = Cholesky.of(matrix)
    solution = factor.solve(matrix[:, :5])
    yield "combined sums", fingerprint(matrix)
    yield (
        "Cholesky",
        fingerprint(factor.lower, factor.kept, solution, factor.inverse(), quadratic_form(matrix, solution)),
    )
    yield "eigenvectors", fingerprint(*leading_eigenvectors(matrix, 2))


def models() -> Iterator[tuple[str, str]]:
    """Yield the name of an algorithm and a case, and the first 16 digits of the SHA-256 of its model and result."""
    chosen = cases()
    features = classification(5, 2, Fourier(5, 2, 60, "softmax"))

    def hidden(activation: Hidden) -> Task:
        inputs = chosen["three classes"].task.model.inputs
        return classification(inputs, 3, MLP((inputs, 9, 7, 3), activation))

    for algorithm, name, task, rounds in (
        ("statistics", "values", None, 3),
        ("ridge", "values", None, 4),
        ("ridge", "two classes", features, 4),
        ("newton", "values", None, 6),
        ("newton", "three classes", None, 12),
        ("newton", "counts", None, 12),
        ("boosting", "values", None, 24),
        ("boosting", "three classes", None, 24),
        ("boosting", "counts", None, 24),
        ("es", "values", None, 6),
        ("es", "three classes", hidden("relu"), 6),
        ("es", "three classes", hidden("tanh"), 6),
        ("es", "counts", None, 6),
    ):
        case = chosen[name]
        shards = [part(case.rows, one) for one in np.array_split(np.arange(len(case.rows.inputs)), 2)]
        strategy, task_of_rows = find_algorithm(algorithm), task or case.task
        if algorithm == "boosting":
            of_rows = task_of_rows.model
            output = "softmax" if task_of_rows.loss == "cross-entropy" else "identity"
            trees = Trees(of_rows.inputs, of_rows.outputs, output, trees=4, counts=name == "counts")  # type: ignore[union-attr,arg-type]
            task_of_rows = msgspec.structs.replace(task_of_rows, model=trees)
        state = state_after(strategy, task_of_rows, shards, rounds)
        found = model_sha256(strategy, task_of_rows, state).encode() + dump(strategy.result(state))  # type: ignore[attr-defined]
        about = f"{name} by features" if task is features else name
        if algorithm == "es" and isinstance(task_of_rows.model, MLP):
            about = f"{name}, {task_of_rows.model.hidden}"
        yield f"{algorithm}: {about}", hashlib.sha256(found).hexdigest()[:16]
    for name, data in data_sets().items():
        tables = dict(data.splits())["three"]
        for algorithm in ALGORITHMS:
            yield f"{algorithm}: table, {name}", outcome_of_table(data, algorithm, tables)


def outcome_of_table(data: DataSet, algorithm: str, tables: list[Table]) -> str:
    """Return the first 16 digits of the SHA-256 of the model on these tables and of its figures and result."""
    task = data.task(algorithm)
    strategy, views = find_algorithm(algorithm, task), [RowViews(task, one) for one in tables]
    state = strategy.init(task, 1)
    while not strategy.finished(state):
        state = closed(strategy, state, task, views)
    evaluation = strategy.evaluation(state)
    assert evaluation is not None
    assert evaluation.measured is not None
    measured, result = evaluation.measured, strategy.result(state)  # type: ignore[attr-defined]
    figures = [msgspec.structs.replace(one, trainers=0) for one in (measured.held_out, measured.training) if one]
    assert [one.rows > 0 for one in figures] == [True, True]
    found = model_sha256(strategy, task, state).encode() + dump(figures) + dump(result)
    return hashlib.sha256(found).hexdigest()[:16]


if __name__ == "__main__":
    print(json.dumps({**dict(vectors()), **dict(models())}))
