"""Partitions: which rows each of so many trainers has. All are drawn from the seed, and give each trainer a row.

blocks          parts in the order of the rows, as `fedmq demo --trainers` splits them
iid             parts of equal size, of rows at random
shards:K        K shards each, of rows sorted by target (McMahan et al. 2017, K=2)
classes:K       K classes each, a class divided among the trainers that have it ("pathological")
dirichlet:A     of each class, shares of a Dirichlet distribution (Hsu et al. 2019); small A: few classes each
size:A          rows at random, their number by a Dirichlet distribution (quantity skew, Li et al. 2022)
sorted:COLUMN   parts in the order of a column, or of `target`
column:COLUMN   one trainer for each value of a column
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fedmq.errors import BadConfiguration
from fedmq.exact.integers import Floats, Integers
from fedmq.runtime.rng import derive_rng

DEFAULT = "blocks"
FORMS = "blocks, iid, shards:K, classes:K, dirichlet:A, size:A, sorted:COLUMN or column:COLUMN"
TARGET = "target"  # as a COLUMN
_BY_COLUMN = ("sorted", "column")
_WITH_NUMBER = ("shards", "classes", "dirichlet", "size")


def column_of(spec: str) -> str | None:
    """Return the column whose values a partition needs: a name, or `target`; None: none.

    >>> column_of("dirichlet:0.3"), column_of("sorted:age"), column_of("iid")
    ('target', 'age', None)
    """
    kind, _, rest = spec.partition(":")
    if kind in _BY_COLUMN:
        return rest or TARGET
    return TARGET if kind in ("shards", "classes", "dirichlet") else None


def partition(
    spec: str, rows: int, trainers: int, seed: int, values: npt.NDArray[np.generic] | None = None
) -> list[Integers]:
    """Return the indices of the rows of each trainer: int64, without repetition, all `rows` together.

    `values` (rows,) are those of `column_of(spec)`: labels, classes or numbers. By column there are as many trainers as
    values.

    Raises:
        BadConfiguration: no such partition, or one that is not possible with so many rows or classes.

    >>> [part.tolist() for part in partition("blocks", 5, 2, seed=0)]
    [[0, 1], [2, 3, 4]]
    """
    kind, _, rest = spec.partition(":")
    number = _number(spec, kind, rest)
    if kind == "column":
        assert values is not None
        _, places = np.unique(values, return_inverse=True)
        return [np.flatnonzero(places == value) for value in range(places.max() + 1)]
    if not 1 <= trainers <= rows:
        raise BadConfiguration(f"expected 1 to {rows} trainers, one for each row at most, got {trainers}")
    draws = derive_rng(seed, "partition", spec, trainers)
    if kind in ("blocks", "iid"):
        order = np.arange(rows) if kind == "blocks" else draws.permutation(rows)
        return _cut(order, [rows * place // trainers for place in range(1, trainers)])
    if kind == "size":
        return _filled(_cut(draws.permutation(rows), _cuts(rows, draws.dirichlet(np.full(trainers, number)))))
    assert values is not None
    order = np.argsort(values, kind="stable")
    if kind == "sorted":
        return _cut(order, [rows * place // trainers for place in range(1, trainers)])
    if kind == "shards":
        return _shards(order, trainers, int(number), draws)
    classes = [draws.permutation(np.flatnonzero(values == one)) for one in np.unique(values)]
    return (
        _classes(classes, trainers, int(number), draws)
        if kind == "classes"
        else _dirichlet(classes, trainers, number, draws)
    )


def _number(spec: str, kind: str, rest: str) -> float:
    """Return the number of a partition that has one, else 0."""
    if kind in _WITH_NUMBER:
        try:
            number = float(rest)
        except ValueError:
            number = 0.0
        whole = kind in ("dirichlet", "size") or number.is_integer()
        if 0.0 < number <= 1e6 and whole:
            return number
    elif (kind in ("blocks", "iid") and not rest) or (kind in _BY_COLUMN and rest):
        return 0.0
    raise BadConfiguration(f"split: expected {FORMS}, got {spec!r:.80}: such as dirichlet:0.3")


def _cut(order: Integers, cuts: Sequence[int] | Integers) -> list[Integers]:
    return [np.asarray(part, np.int64) for part in np.split(order, cuts)]


def _cuts(rows: int, shares: Floats) -> Integers:
    """Return where to cut so many rows into parts with these shares."""
    return np.rint(np.cumsum(shares)[:-1] * rows).astype(np.int64)


def _shards(order: Integers, trainers: int, each: int, draws: np.random.Generator) -> list[Integers]:
    count = trainers * each
    if count > len(order):
        raise BadConfiguration(f"split: expected at most {len(order)} shards, one for each row, got {count}")
    shards = _cut(order, [len(order) * place // count for place in range(1, count)])
    dealt = draws.permutation(count).reshape(trainers, each)
    return [np.concatenate([shards[place] for place in sorted(mine)]) for mine in dealt]


def _classes(classes: list[Integers], trainers: int, each: int, draws: np.random.Generator) -> list[Integers]:
    if each > len(classes) or trainers * each < len(classes):
        raise BadConfiguration(
            f"split: expected K classes for each of {trainers} trainers, all {len(classes)} in all, got K={each}: "
            "such as classes:2"
        )
    order = draws.permutation(len(classes))
    slots = np.arange(trainers * each) % len(classes)  # neighbors differ, so a trainer has `each` different classes
    owners = draws.permutation(trainers)
    parts: list[list[Integers]] = [[] for _ in range(trainers)]
    for place, rows in enumerate(classes):
        mine = np.flatnonzero(order[slots] == place) // each
        for owner, part in zip(owners[mine], np.array_split(rows, len(mine)), strict=True):
            parts[owner].append(part)
    return _filled([np.concatenate(part) for part in parts])


def _dirichlet(classes: list[Integers], trainers: int, alpha: float, draws: np.random.Generator) -> list[Integers]:
    parts: list[list[Integers]] = [[] for _ in range(trainers)]
    for rows in classes:
        shares = draws.dirichlet(np.full(trainers, alpha))
        for place, part in enumerate(_cut(rows, _cuts(len(rows), shares))):
            parts[place].append(part)
    return _filled([np.concatenate(part) for part in parts])


def _filled(parts: list[Integers]) -> list[Integers]:
    """Return the parts with a row for each that has none, from the largest part."""
    for place, part in enumerate(parts):
        if not len(part):
            largest = max(range(len(parts)), key=lambda one: len(parts[one]))
            parts[place], parts[largest] = parts[largest][-1:], parts[largest][:-1]
    return parts
