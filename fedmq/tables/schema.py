"""A schema: which columns a table has, of which kind, and which of them is the target."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from fedmq.errors import BadConfiguration

Kind = Literal["number", "category", "ordinal", "boolean", "date"]
Fill = Literal["median", "mean", "drop"]  # drop: leave the row out
Label = Annotated[str, Meta(max_length=200)]
COLUMNS_MAX = 4096
CATEGORIES_MAX = 1000  # of one column
MISSING_MARKERS = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "?")
MISSING_LEVEL = "(missing)"


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One input column.

    Numbers, ordinals (in the order of their categories), booleans (0 and 1) and dates (days since 1970-01-01) are one
    feature each; what is missing is filled in. A category is one feature for each category but the first, and one for
    missing or not listed.
    """

    name: Label
    kind: Kind = "number"
    categories: tuple[Label, ...] = ()  # of a category or an ordinal
    missing: Fill = "median"  # of a category: any but drop makes a feature of its own
    unit: str = ""  # a note for people

    @property
    def num_features(self) -> int:
        return max(1, len(self.categories)) if self.kind == "category" else 1

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the features, such as ("age",) or ("color=red", "color=(missing)")."""
        if self.kind != "category":
            return (self.name,)
        return tuple(f"{self.name}={level}" for level in (*self.categories[1:], MISSING_LEVEL))


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The column to predict: a class by its label, a number, or a count."""

    name: Label
    kind: Literal["class", "number", "count"] = "number"
    classes: tuple[Label, ...] = ()  # as they are in the file; all sites have the same list
    missing: Literal["drop", "refuse"] = "drop"


class Schema(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The columns of a task by name. It is part of the task and of the trained model.

    Raises:
        BadConfiguration: no columns, a name twice, categories or classes that do not fit the kind; also while decoding.
    """

    columns: Annotated[tuple[Column, ...], Meta(max_length=COLUMNS_MAX)]
    target: Target
    weight: Label = ""  # the column with the weight of each row; "" for none
    offset: Label = ""  # the column that is added to the linear predictor; "" for none
    ignored: tuple[Label, ...] = ()
    missing: tuple[Label, ...] = MISSING_MARKERS

    def __post_init__(self) -> None:
        names = list(self.names())
        if not self.columns:
            raise BadConfiguration("columns: expected at least one input column, got none")
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise BadConfiguration(f"columns: expected each name once, got {twice!r:.80} twice")

    def names(self) -> Iterator[str]:
        """Yield the names of all columns that a table must have."""
        yield from (column.name for column in self.columns)
        yield from (name for name in (self.target.name, self.weight, self.offset) if name)

    @property
    def num_features(self) -> int:
        return sum(column.num_features for column in self.columns)

    @property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(name for column in self.columns for name in column.feature_names)
