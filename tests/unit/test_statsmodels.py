"""Newton over several trainers gives the coefficients and standard errors of statsmodels on pooled rows, to 1e-8."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import statsmodels.api as statsmodels
from sklearn import datasets
from splits import closed
from table_rows import chosen, table

from fedmq.algorithms.findings import Findings
from fedmq.algorithms.newton.summary import Coefficients
from fedmq.algorithms.registry import find_algorithm
from fedmq.models.networks import MLP, Linear, LogLinear
from fedmq.tables.schema import Column, Schema, Target
from fedmq.tables.table import Table
from fedmq.tasks.row_views import RowViews
from fedmq.tasks.task import Task

ROUNDS = 13  # three about the columns, nine questions, one score
LABELS = ("no", "yes")
Fit = Callable[[np.ndarray, np.ndarray, dict[str, np.ndarray]], Any]  # (design, targets, columns) -> results


class Case(NamedTuple):
    data: Any  # of scikit-learn
    columns: tuple[str, ...]
    target: Target
    fit: Fit
    values: Callable[[np.ndarray], np.ndarray]  # of its targets
    weight: str = ""
    offset: str = ""
    trainers: int = 4
    by_label: bool = True


def linear(design: np.ndarray, targets: np.ndarray, _: dict[str, np.ndarray]) -> Any:
    return statsmodels.OLS(targets, design).fit()


def logistic(design: np.ndarray, targets: np.ndarray, _: dict[str, np.ndarray]) -> Any:
    kind = statsmodels.MNLogit if targets.max() > 1 else statsmodels.Logit
    return kind(targets, design).fit(method="newton", tol=1e-14, maxiter=100, disp=0)


def weighted(family: Any) -> Fit:
    def fit(design: np.ndarray, targets: np.ndarray, columns: dict[str, np.ndarray]) -> Any:
        about = {"offset": columns["offset"], "var_weights": columns["weight"]}
        return statsmodels.GLM(targets, design, family(), **about).fit(tol=1e-15, maxiter=100)

    return fit


DIABETES, TUMOR, WINE, IRIS = (
    datasets.load_diabetes(scaled=False),
    datasets.load_breast_cancer(),
    datasets.load_wine(),
    datasets.load_iris(),
)
TUMOR_COLUMNS = ("mean radius", "mean texture", "mean smoothness", "mean concavity", "mean symmetry")
BOTH = {"weight": "weight", "offset": "offset"}
FAMILIES = statsmodels.families
CASES = {
    "values": Case(DIABETES, tuple(DIABETES.feature_names), Target(name="y"), linear, np.asarray),
    "two classes": Case(
        TUMOR, TUMOR_COLUMNS, Target(name="y", kind="class", classes=LABELS), logistic, np.asarray, trainers=10
    ),
    "three classes": Case(
        WINE,
        ("malic_acid", "ash", "magnesium"),
        Target(name="y", kind="class", classes=("a", "b", "c")),
        logistic,
        np.asarray,
        trainers=3,  # each has one class only
    ),
    "counts": Case(
        DIABETES,
        tuple(DIABETES.feature_names),
        Target(name="y", kind="count"),
        weighted(FAMILIES.Poisson),
        np.asarray,
        **BOTH,
    ),
    "large counts": Case(
        DIABETES,
        ("age", "bmi"),
        Target(name="y", kind="count"),
        weighted(FAMILIES.Poisson),
        lambda targets: targets * 1e6,
        **BOTH,
    ),
    "weighted values": Case(
        IRIS,
        ("sepal length (cm)", "sepal width (cm)", "petal length (cm)"),
        Target(name="y"),
        weighted(FAMILIES.Gaussian),
        lambda _: IRIS.data[:, 3],
        **BOTH,
        by_label=False,
    ),
    "weighted classes": Case(
        IRIS,
        ("sepal length (cm)", "sepal width (cm)"),
        Target(name="y", kind="class", classes=LABELS),
        weighted(FAMILIES.Binomial),
        lambda targets: (targets == 2).astype(int),
        **BOTH,
    ),
}


def prepared(case: Case) -> tuple[Task, Table, Any]:
    """The task, the table of all rows, and what statsmodels finds on it."""
    size, names = len(case.data.target), list(case.data.feature_names)
    targets = case.values(case.data.target)
    inputs = np.column_stack([case.data.data[:, names.index(name)] for name in case.columns])
    columns = dict(zip(case.columns, inputs.T, strict=True))
    columns["weight"] = 0.5 + np.arange(size) % 4
    columns["offset"] = 0.25 * (np.arange(size) % 3)
    classes = case.target.classes
    columns["y"] = np.array(classes)[targets] if classes else targets.astype(float)
    unused = tuple(one for one in ("weight", "offset") if one not in (case.weight, case.offset))
    schema = Schema(
        columns=tuple(Column(name=name) for name in case.columns),
        target=case.target,
        weight=case.weight,
        offset=case.offset,
        ignored=unused,
    )
    model: Any = MLP((len(case.columns), len(classes))) if classes else Linear(len(case.columns))
    if case.target.kind == "count":
        model = LogLinear(len(case.columns))
    about: dict[str, Any] = {"loss": "squared-error", "metric": "loss"}
    if classes:
        about = {"loss": "cross-entropy", "metric": "accuracy"}
    task = Task(name="rows", model=model, trainers=1, schema=schema, **about)
    expected = case.fit(statsmodels.add_constant(inputs), targets, columns)
    return task, table(tuple(columns), columns), expected


def found_by_newton(case: Case, task: Task, whole: Table, **options: Any) -> tuple[Coefficients, Findings]:
    order = np.arange(whole.num_rows)
    if case.by_label:
        order = np.argsort(whole.columns["y"], kind="stable")
    views = [RowViews(task, chosen(whole, one)) for one in np.array_split(order, case.trainers)]
    strategy: Any = find_algorithm("newton", task)
    state = strategy.init(task, 1)
    for _ in range(options.pop("rounds", ROUNDS)):
        if strategy.finished(state):
            break
        state = closed(strategy, state, task, views, **options)
    assert strategy.finished(state)
    return strategy.result(state), strategy.findings(state)


@pytest.mark.filterwarnings("ignore:Maximum Likelihood optimization failed")  # at 1e-14, where rounding begins
@pytest.mark.parametrize("name", CASES)
def test_coefficients_and_errors_are_those_of_statsmodels(name: str) -> None:
    case = CASES[name]
    task, whole, expected = prepared(case)
    found, findings = found_by_newton(case, task, whole)
    assert (found.status, found.coverage, found.num_examples) == ("converged", 1.0, whole.num_rows)
    assert found.rounds <= 10
    assert found.estimates == pytest.approx(np.atleast_2d(expected.params.T), rel=1e-8)
    assert found.standard_errors == pytest.approx(np.atleast_2d(expected.bse.T), rel=1e-8)
    by_name = {(one.output, one.name): one for one in findings.coefficients}
    last = by_name[task.schema.target.classes[-1] if task.schema.target.classes else "y", case.columns[-1]]  # type: ignore[union-attr]
    assert last.estimate == pytest.approx(expected.params.T.ravel()[-1], rel=1e-8)
