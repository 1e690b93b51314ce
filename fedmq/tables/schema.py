"""A schema: which columns a table has, of which kind, and which of them is the target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from fedmq.errors import BadConfiguration
from fedmq.tables.labels import label_key

Kind = Literal["number", "category", "ordinal", "boolean", "date"]
Fill = Literal["median", "mean", "drop"]  # drop: leave the row out
DateForm = Literal[
    "YYYY-MM-DD", "YYYY/MM/DD", "DD.MM.YYYY", "DD/MM/YYYY", "MM/DD/YYYY", "DD-MM-YYYY", "YYYY-MM", "YYYYMMDD"
]
Label = Annotated[str, Meta(max_length=200)]
Bounds = tuple[Annotated[float, Meta(ge=-1e100, le=1e100)], Annotated[float, Meta(ge=-1e100, le=1e100)]]
COLUMNS_MAX = 4096
CATEGORIES_MAX = 1000  # of one column
MISSING_CELLS_MAX = 1000  # of one list
CLASSES_MIN = ORDINALS_MIN = 2
FEATURES_MAX = 65_536  # of a model
MISSING_CELLS = ("", "?", "NA", "N/A", "n/a", "NaN", "nan", "NAN", "null", "NULL", "#N/A")
MISSING_LEVEL = "(missing)"


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One input column.

    Numbers, ordinals (in the order of their categories), booleans (0 and 1) and dates (days since 1970-01-01) are one
    feature each; what is missing is filled in. A category is one feature for each category but the first, and one for
    missing or not listed.

    Raises:
        BadConfiguration: fields that do not fit the kind, categories that are equal, or too many missing cells; also
            while decoding.
    """

    name: Label
    kind: Kind = "number"
    categories: tuple[Label, ...] = ()  # of a category or an ordinal
    missing: Fill = "median"  # of a category: any but drop makes a feature of its own
    missing_cells: tuple[Label, ...] = ()  # in this column, beside those of the schema
    form: DateForm = "YYYY-MM-DD"  # of a date; a time of day may follow
    strip: Label = ""  # a sign in the cells that is no part of the number, such as %
    unit: str = ""  # a note for people
    bounds: Bounds | None = None  # of a number or a date, known without the data: for private runs

    def __post_init__(self) -> None:
        check_column_bounds(f"column {self.name!r:.80}", self.bounds, self.kind in ("number", "date"))
        where, listed = f"column {self.name!r:.80}", self.kind in ("category", "ordinal")
        if listed:
            at_least = ORDINALS_MIN if self.kind == "ordinal" else 1
            check_category_labels(where, "categories", self.categories, at_least)
        elif self.categories:
            raise BadConfiguration(f"{where}: expected no categories for a {self.kind}, got some: make it a category")
        _check_missing_cells(f"{where}: ", self.missing_cells)
        if self.strip and self.kind != "number":
            raise BadConfiguration(f"{where}: expected strip for a number only, got a {self.kind}: remove it")
        if self.form != "YYYY-MM-DD" and self.kind != "date":
            raise BadConfiguration(f"{where}: expected form for a date only, got a {self.kind}: remove it")

    @property
    def num_features(self) -> int:
        return len(self.categories) if self.kind == "category" else 1

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the features, such as ("age",) or ("color=red", "color=(missing)")."""
        if self.kind != "category":
            return (self.name,)
        return tuple(f"{self.name}={level}" for level in (*self.categories[1:], MISSING_LEVEL))


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The column to predict: a class by its label, a number, or a count.

    Raises:
        BadConfiguration: fewer than two classes, classes that are equal, or classes of a number; also while decoding.
    """

    name: Label
    kind: Literal["class", "number", "count"] = "number"
    classes: tuple[Label, ...] = ()  # as they are in the file; all sites have the same list
    missing: Literal["drop", "refuse"] = "drop"
    unit: str = ""  # a note for people
    bounds: Bounds | None = None  # of a number, known without the data: for private runs

    def __post_init__(self) -> None:
        check_column_bounds(f"target {self.name!r:.80}", self.bounds, self.kind == "number")
        where = f"target {self.name!r:.80}"
        if self.kind == "class":
            check_category_labels(where, "classes", self.classes, CLASSES_MIN)
        elif self.classes:
            raise BadConfiguration(f'{where}: expected no classes for a {self.kind}, got some: write kind = "class"')


class Schema(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The columns of a task by name. It is part of the task and of the trained model.

    Raises:
        BadConfiguration: no columns, a name twice, too many features or missing cells; also while decoding.
    """

    columns: Annotated[tuple[Column, ...], Meta(max_length=COLUMNS_MAX)]
    target: Target
    weight: Label = ""  # the column with the weight of each row; "" for none
    offset: Label = ""  # the column that is added to the linear predictor; "" for none
    ignored: tuple[Label, ...] = ()  # known columns that are not used
    missing_cells: tuple[Label, ...] = MISSING_CELLS  # cells without a value, in any column

    def __post_init__(self) -> None:
        if not self.columns:
            raise BadConfiguration("columns: expected at least one input column, got none")
        _check_missing_cells("", self.missing_cells)
        counts = Counter([*self.names(), *self.ignored])
        if twice := next((name for name, count in counts.items() if count > 1), None):
            raise BadConfiguration(f"columns: expected each name once, got {twice!r:.80} twice: remove one")
        if self.num_features > FEATURES_MAX:
            raise BadConfiguration(
                f"columns: expected at most {FEATURES_MAX} features, got {self.num_features}: "
                "ignore columns with many categories"
            )

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


def check_column_bounds(where: str, bounds: Bounds | None, fits: bool) -> None:
    """Check that bounds rise, and that the kind of the column has some.

    Raises:
        BadConfiguration: they do not, or it has none.
    """
    if bounds is None:
        return
    if not fits:
        raise BadConfiguration(f"{where}: expected bounds of a number or a date only, got some: remove them")
    if not bounds[0] < bounds[1]:
        raise BadConfiguration(f"{where}: expected bounds = [LOW, HIGH] that rise, got {list(bounds)}")


def check_category_labels(where: str, field: str, labels: tuple[str, ...], at_least: int) -> None:
    """Check that labels are between `at_least` and CATEGORIES_MAX, and no two of them are one label.

    Raises:
        BadConfiguration: they are not.
    """
    if not at_least <= len(labels) <= CATEGORIES_MAX:
        raise BadConfiguration(
            f"{where}: expected {at_least} to {CATEGORIES_MAX} {field}, got {len(labels)}: list them in the task"
        )
    seen: dict[object, int] = {}
    for place, label in enumerate(labels):
        if (first := seen.setdefault(label_key(label), place)) != place:
            other = labels[first]
            same = "twice" if other == label else f"and {label!r:.80}, which are one label"
            raise BadConfiguration(f"{where}: expected each of its {field} once, got {other!r:.80} {same}: remove one")


def _check_missing_cells(where: str, cells: tuple[str, ...]) -> None:
    if len(cells) > MISSING_CELLS_MAX:
        raise BadConfiguration(
            f"{where}missing_cells: expected at most {MISSING_CELLS_MAX}, got {len(cells)}: leave some out"
        )
