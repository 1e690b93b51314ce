"""From encoded columns to features: filled in, standardized, categories as zeros and ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedmq.errors import BadConfiguration
from fedmq.exact.integers import Floats
from fedmq.tables.schema import Schema


@dataclass(frozen=True, eq=False)
class Preparation:
    """What the statistics of all sites say about each column; part of the trained model.

    `shift`, `scale` and `fill` are (columns,) float64; those of category columns are not used.

    Raises:
        BadConfiguration: arrays of other shapes, numbers that are not finite, or a scale that is not above 0.
    """

    schema: Schema
    shift: Floats
    scale: Floats
    fill: Floats

    def __post_init__(self) -> None:
        columns = len(self.schema.columns)
        for name, array in (("shift", self.shift), ("scale", self.scale), ("fill", self.fill)):
            if array.shape != (columns,) or array.dtype != np.float64 or not np.isfinite(array).all():
                raise BadConfiguration(f"{name}: expected {columns} finite numbers, got {array.dtype} {array.shape}")
        if not (self.scale > 0.0).all():
            raise BadConfiguration(f"scale: expected numbers above 0, got {self.scale.min():g}")

    def features(self, columns: Floats) -> Floats:
        """Return the features (rows, schema.num_features) of encoded columns (rows, columns), NaN for missing.

        Elementwise, one operation each, so a row has the same bits on every machine.
        """
        pieces = []
        for place, column in enumerate(self.schema.columns):
            values = columns[:, place]
            if column.kind == "category":
                levels = np.arange(1.0, column.num_features + 1)
                codes = np.where(np.isnan(values), levels[-1], values)
                pieces.append((codes[:, None] == levels).astype(np.float64))
            else:
                filled = np.where(np.isnan(values), self.fill[place], values)
                pieces.append(((filled - self.shift[place]) / self.scale[place])[:, None])
        return np.concatenate(pieces, axis=1)
