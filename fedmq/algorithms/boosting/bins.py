"""Bins: the cells of each column's histogram, and their edges from counts of all rows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from fedmq.models.arrays import Floats, Integers
from fedmq.models.trees import Trees


@dataclass(frozen=True, eq=False)
class Bins:
    """The cells of all columns, one column after the other.

    A column of numbers has the cells between its edges, a column of categories one for each; then one for missing
    values. A number that equals an edge is in the cell above it.
    """

    edges: Floats  # (edges of all columns,), rising for each column
    edge_counts: Integers  # (columns,), 0 for categories
    categories: Integers  # (columns,), 0 for numbers

    @classmethod
    def of(cls, model: Trees, edges: Sequence[Floats]) -> Bins:
        """Return the bins with these edges of each column; those of categories are not used."""
        categories = category_counts_of(model)
        used = [one[:0] if count else one for one, count in zip(edges, categories, strict=True)]
        return cls(np.concatenate(used), np.array([len(one) for one in used], np.int64), categories)

    @property
    def cells(self) -> Integers:
        """The number of cells of each column, (columns,)."""
        values = np.where(self.categories > 0, self.categories, self.edge_counts + 1)
        return values.astype(np.int64) + 1

    @property
    def starts(self) -> Integers:
        """The first cell of each column, (columns,)."""
        cells = self.cells
        return np.cumsum(cells) - cells

    def edges_of(self, column: int) -> Floats:
        """Return the edges of a column."""
        end = int(self.edge_counts[: column + 1].sum())
        return self.edges[end - int(self.edge_counts[column]) : end]

    def find(self, columns: Floats) -> npt.NDArray[np.int32]:
        """Return the cell of each value of `columns` (inputs, rows), (rows, inputs), counted over all columns."""
        found = np.empty(columns.shape[::-1], np.int32)
        for place, (values, start, cells) in enumerate(zip(columns, self.starts, self.cells, strict=True)):
            missing = np.isnan(values)
            if self.categories[place]:
                local = np.clip(np.where(missing, 0.0, values), 0, cells - 2).astype(np.int64)
            else:
                local = np.searchsorted(self.edges_of(place), values, side="right").astype(np.int64)
            found[:, place] = start + np.where(missing, cells - 1, local)
        return found

    def digest(self, model: Trees, start: Floats) -> bytes:
        """Return the digest of a forest without trees."""
        digest = hashlib.sha256(msgspec.msgpack.encode(model))
        for array in (self.edges, self.edge_counts, start):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.digest()


def category_counts_of(model: Trees) -> Integers:
    """Return the number of categories of each column, (columns,); 0 for numbers."""
    return np.array(model.categories or (0,) * model.inputs, np.int64)


def next_digest(digest: bytes, trees: Floats) -> bytes:
    """Return the digest of a forest with one more round of trees (scores, tree_size)."""
    return hashlib.sha256(digest + np.ascontiguousarray(trees).tobytes()).digest()


def refined_edges(bounds: Floats, counts: Integers, edges: int) -> Floats:
    """Return `edges` rising numbers for each column, (columns, edges), dense where the values are.

    `counts` (columns, buckets) are those of the buckets between `bounds` (columns, buckets + 1). Half of the new edges
    go to buckets by their counts, half to all buckets with a value alike, in even steps within each. So a bucket with
    many values is divided many times, and no rare value is overlooked.
    """
    found = []
    for column, buckets in zip(bounds, counts, strict=True):
        present = (buckets > 0).astype(np.float64)
        shares = buckets * (1.0 / max(1, int(buckets.sum())))
        shares += present * (1.0 / max(1.0, float(present.sum())))
        ranks = np.concatenate([[0.0], np.cumsum(shares)])  # one after the other: the same on every machine
        wanted = np.arange(1.0, edges + 1.0) * (1.0 / (edges + 1)) * float(ranks[-1])
        bucket = np.clip(np.searchsorted(ranks, wanted, side="right") - 1, 0, len(buckets) - 1)
        moved = (wanted - ranks[bucket]) / np.where(shares[bucket] > 0.0, shares[bucket], 1.0)
        moved *= column[bucket + 1] - column[bucket]
        moved += column[bucket]
        found.append(np.maximum.accumulate(moved))
    return np.stack(found)


def quantile_edges(edges: Floats, counts: Integers, bins: int) -> list[Floats]:
    """Return at most `bins` - 1 edges of each column that divide its values into parts of about equal size.

    `counts` (columns, edges + 1) are those of the buckets between `edges` (columns, edges). A column with fewer
    buckets with values than `bins` has an edge in the middle between each two of these.
    """
    found = []
    for column_edges, buckets in zip(edges, counts, strict=True):
        occupied = np.flatnonzero(buckets)
        if len(occupied) <= bins:
            low, high = column_edges[occupied[:-1]], column_edges[np.maximum(occupied[1:], 1) - 1]
            middle = high - low
            middle *= 0.5
            middle += low
            chosen = middle
        else:
            ranks = np.cumsum(buckets)
            wanted = np.arange(1, bins) * int(ranks[-1])
            chosen = column_edges[np.minimum(np.searchsorted(ranks * bins, wanted), len(column_edges) - 1)]
        found.append(np.unique(chosen))
    return found
