"""What an algorithm found beside the model, as plain data that a run keeps: coefficients, statistics of the columns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import combinations

import msgspec
import numpy as np

from fedmq.algorithms.statistics.query import num_classes
from fedmq.algorithms.statistics.survey import Survey, is_coded
from fedmq.models.arrays import Floats
from fedmq.tasks.task import Task

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# Of an event, which is small: the report has all.
GENES_OBSERVED_MAX = 24
FRONT_NUMBERS_MAX = 256  # candidates of the front times objectives
CORRELATED_OBSERVED_MAX = 16
NAME_OBSERVED_MAX = 30  # characters


class Coefficient(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One coefficient in the units of the columns. What is not known is None."""

    output: str  # the class, or the name of the target
    name: str  # of the feature; "(intercept)" for the constant
    estimate: float
    standard_error: float | None = None
    z: float | None = None
    p: float | None = None
    low: float | None = None  # of the confidence interval of 95 %
    high: float | None = None
    dropped: bool = False  # it depends on those before it


class ColumnFigures(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Statistics of one column over the training rows of all trainers."""

    name: str
    kind: str
    count: int  # of values that are present
    missing: int
    clipped: int = 0  # values beyond 2**64
    mean: float
    deviation: float  # of the population
    smallest: tuple[float, float]  # bounds of the minimum
    largest: tuple[float, float]  # bounds of the maximum
    quantiles: dict[str, float] = {}  # by share, such as "0.5"
    categories: dict[str, int] = {}  # rows by category
    edges: tuple[float, ...] = ()  # of the histogram, one more than counts
    counts: tuple[int, ...] = ()

    def bars(self, count: int) -> list[float]:
        """Return the histogram in so many equal steps over the part that has values; none if that is one bucket.

        The rows of a bucket are shared out evenly.
        """
        filled = [place for place, rows in enumerate(self.counts) if rows]
        if len(filled) < 2:
            return []
        low, high = self.edges[filled[0]], self.edges[filled[-1] + 1]
        steps, heights = np.linspace(low, high, count + 1), np.zeros(count)
        for place in filled:
            start, end = self.edges[place], max(self.edges[place + 1], np.nextafter(self.edges[place], np.inf))
            shared = np.minimum(steps[1:], end) - np.maximum(steps[:-1], start)
            heights += self.counts[place] * np.maximum(shared, 0.0) / (end - start)
        return [float(one) for one in heights]


class Importance(msgspec.Struct, frozen=True, kw_only=True):
    """How much the splits of a column lower the loss, as a share of all columns."""

    name: str
    gain: float


class FrontMember(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate that no other dominates: none is better in one objective and as good in the others."""

    fitness: tuple[float, ...]  # one for each objective, over the rows of all trainers
    genes: tuple[int | float, ...]


class Findings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The file `result.json` of a run."""

    num_examples: int = 0  # rows that the survey is about
    coverage: float = 0.0  # the share of the members that are in it
    columns: tuple[ColumnFigures, ...] = ()
    classes: dict[str, int] = {}  # rows by class
    coefficients: tuple[Coefficient, ...] = ()
    importances: tuple[Importance, ...] = ()
    correlated: tuple[str, ...] = ()  # the names of what follows: features, and the target or its classes
    correlations: tuple[tuple[float, ...], ...] = ()  # of each pair
    gene_names: tuple[str, ...] = ()
    gene_types: tuple[str, ...] = ()  # names of types such as "int"
    genes: tuple[int | float, ...] = ()  # of the model
    objectives: tuple[str, ...] = ()  # names
    front: tuple[FrontMember, ...] = ()  # of several objectives, the highest first objective first
    figures: dict[str, float | str | None] = {}  # others by name, such as the penalty or the deviance

    def strongest_correlations(self, count: int) -> list[tuple[float, str, str]]:
        """Return the correlation and the names of the pairs with the largest ones, at most `count`, largest first.

        Pairs of classes say nothing, nor does the first of two classes, so they are left out.
        """
        names, first_class = self.correlated, len(self.correlated) - len(self.classes)
        left_out = first_class if len(self.classes) == 2 else -1
        pairs = [
            (self.correlations[row][column], names[row], names[column])
            for row, column in combinations(range(len(names)), 2)
            if (row < first_class or not self.classes) and column != left_out
        ]
        return sorted(pairs, key=lambda pair: -abs(pair[0]))[:count]

    def for_observers(self) -> Findings | None:
        """Return what a live page shows, as small as an event must be; None if that is nothing.

        These are the first genes, the fitness of candidates evenly chosen from the front, and the correlations of the
        names with the largest ones.
        """
        if not self.genes and not self.correlated:
            return None
        most = max(2, FRONT_NUMBERS_MAX // max(1, len(self.objectives)))
        chosen = np.unique(np.linspace(0, len(self.front) - 1, min(most, len(self.front))).astype(int))
        largest = np.abs(np.array(self.correlations, np.float64).reshape(2 * (len(self.correlated),)))
        np.fill_diagonal(largest, 0.0)
        related = np.sort(np.argsort(-largest.max(axis=1, initial=0.0), kind="stable")[:CORRELATED_OBSERVED_MAX])
        return Findings(
            gene_names=_short(self.gene_names[:GENES_OBSERVED_MAX]),
            gene_types=self.gene_types[:GENES_OBSERVED_MAX],
            genes=self.genes[:GENES_OBSERVED_MAX],
            objectives=_short(self.objectives),
            front=tuple(FrontMember(fitness=self.front[place].fitness, genes=()) for place in chosen),
            correlated=_short(self.correlated[place] for place in related),
            correlations=tuple(tuple(self.correlations[row][column] for column in related) for row in related),
        )

    def largest_importances(self, count: int) -> list[Importance]:
        """Return the columns with the largest importance, at most `count`, largest first."""
        return sorted(self.importances, key=lambda one: -one.gain)[:count]


def with_survey(findings: Findings, task: Task, survey: Survey) -> Findings:
    """Return the findings with the statistics of the columns."""
    names = _column_names(task)
    columns = tuple(_column(task, survey, place, name) for place, name in enumerate(names))
    classes = dict(zip(class_names(task), survey.moments.classes.tolist(), strict=False))
    return msgspec.structs.replace(
        findings, num_examples=survey.num_examples, coverage=survey.coverage, columns=columns, classes=classes
    )


def class_names(task: Task) -> tuple[str, ...]:
    """Return the labels of the classes; their numbers without a schema."""
    if task.schema is not None and task.schema.target.classes:
        return task.schema.target.classes
    return tuple(map(str, range(num_classes(task))))


def output_names(task: Task) -> tuple[str, ...]:
    """Return the names of the outputs of a model: the classes, or the target."""
    return class_names(task) or (task.schema.target.name if task.schema is not None else "target",)


def feature_names(task: Task) -> tuple[str, ...]:
    """Return the names of the inputs of a model; x1, x2, ... without a schema."""
    return task.schema.feature_names if task.schema is not None else _numbered(task.model.inputs)


def input_names(task: Task) -> tuple[str, ...]:
    """Return the names of the columns that a model is made of; x1, x2, ... without a schema."""
    if task.schema is None:
        return _numbered(task.model.inputs)
    return tuple(column.name for column in task.schema.columns)


def linear_coefficients(task: Task, survey: Survey, slopes: Floats, biases: Floats) -> tuple[Coefficient, ...]:
    """Return the coefficients of a linear model of features, slopes (inputs, outputs) and biases (outputs,)."""
    shift, scale = np.zeros(len(slopes)), np.ones(len(slopes))
    if task.schema is not None:
        sizes = [column.num_features for column in task.schema.columns]
        shift = np.repeat(survey.preparation["column_shift"], sizes)
        scale = np.repeat(survey.preparation["column_scale"], sizes)
    found = []
    for place, output in enumerate(output_names(task)):
        raw = slopes[:, place] / scale
        intercept = float(biases[place]) - math.fsum((raw * shift).tolist())
        for name, estimate in zip(("(intercept)", *feature_names(task)), (intercept, *raw.tolist()), strict=True):
            found.append(Coefficient(output=output, name=name, estimate=estimate))
    return tuple(found)


def known(value: float) -> float | None:
    """Return a number, None if it is not finite."""
    return float(value) if math.isfinite(value) else None


def _short(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name if len(name) <= NAME_OBSERVED_MAX else f"{name[: NAME_OBSERVED_MAX - 1]}…" for name in names)


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"x{place}" for place in range(1, count + 1))


def _column_names(task: Task) -> tuple[str, ...]:
    if task.schema is None:
        return (*_numbered(task.model.inputs), *(() if num_classes(task) else ("target",)))
    weight = (task.schema.weight,) if task.schema.weight else ()
    target = () if num_classes(task) else (task.schema.target.name,)
    return (*(column.name for column in task.schema.columns), *weight, *target)


def _column(task: Task, survey: Survey, place: int, name: str) -> ColumnFigures:
    moments, schema = survey.moments, task.schema
    column = schema.columns[place] if schema is not None and place < len(schema.columns) else None
    (low, least), (most, high) = survey.smallest(), survey.largest()
    about: Mapping[str, object] = {}
    counts = survey.histograms[place].tolist()
    if column is not None and is_coded(column):
        levels = column.categories or ("no", "yes")
        about = {"categories": dict(zip(levels, counts, strict=False))}
    elif len(counts) > 1:
        shares = {f"{share:g}": survey.quantile_of(place, share) for share in QUANTILES}
        edges = (*survey.lower[place].tolist(), float(survey.upper[place][-1]))
        about = {"quantiles": shares, "edges": edges, "counts": tuple(counts)}
    return msgspec.convert(
        {
            "name": name,
            "kind": "number" if column is None else column.kind,
            "count": int(moments.counts[place]),
            "missing": int(survey.missing[place]),
            "clipped": int(moments.clipped[place]),
            "mean": float(moments.means[place]),
            "deviation": float(np.sqrt(moments.variances[place])),
            "smallest": (float(low[place]), float(least[place])),
            "largest": (float(most[place]), float(high[place])),
            **about,
        },
        ColumnFigures,
    )
