"""The coefficients of a run on a terminal of 80 columns: one line each, and what a reader must know in words."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from table_rows import patients, table, table_task

from fedmq.algorithms.findings import Coefficient, Findings, Importance
from fedmq.algorithms.registry import find_algorithm
from fedmq.observe.regression_text import importance_lines, regression_lines, regression_remarks
from fedmq.simulation import Federation
from fedmq.tables.schema import Column, Schema, Target
from fedmq.tables.table import Table
from fedmq.tasks.task import Task

FIT = {"family": "classes", "status": "converged", "rows": 300, "coverage": 1.0, "rounds": 7, "reference": "no"}


def coefficients(*names: str, **about: float) -> tuple[Coefficient, ...]:
    figures = {"estimate": 0.5, "standard_error": 0.25, "z": 2.0, "p": 0.0455, "low": 0.01, "high": 0.99, **about}
    return tuple(Coefficient(output="yes", name=name, **figures) for name in names)


def test_table_has_the_figures_of_statsmodels_by_name() -> None:
    findings = Findings(
        coefficients=coefficients("(intercept)", "age"), figures={**FIT, "deviance": 321.5, "aic": 325.5}
    )
    lines = regression_lines(findings)
    assert "Logistic regression of yes against no: converged" in lines
    assert "rows 300, rounds 7, deviance 321.5, AIC 325.5" in lines
    heads = next(line for line in lines if "coef" in line)
    assert heads.split() == ["yes", "coef", "std", "err", "z", "P>|z|", "[0.025", "0.975]", "odds"]
    age = next(line for line in lines if line.startswith("age"))
    assert age.split() == ["age", "0.5000", "0.2500", "2.000", "0.045", "0.010", "0.990", "1.649"]


def test_lines_have_80_columns_for_any_figures() -> None:
    name = "a name that is much longer than its column"
    small = coefficients(name, "x\x1b[31m", estimate=-1.234567e-123, low=-1e123, high=1e308, z=-1e9)
    large = coefficients("y", estimate=-123456.7, z=-999.9)
    everything = {**FIT, "coverage": 0.25, "status": "separated", "clipped": 3, "penalty": 1.0, "deviance": 1e9 / 3}
    dropped = (msgspec.structs.replace(small[0], dropped=True),)
    lines = regression_lines(Findings(coefficients=(*small, *large, *dropped), figures=everything))
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in "".join(lines)
    assert name in lines
    widest = coefficients("z", estimate=700.0, high=-1.01e304)
    (line,) = (one for one in regression_lines(Findings(coefficients=widest, figures=FIT)) if one.startswith("z"))
    assert len(line.split()) == 8, "no cell touches the next one"


def test_importances_are_those_of_the_columns_with_the_largest() -> None:
    gains = {f"x{place}": place / 66 for place in range(1, 12)}
    found = Findings(importances=tuple(Importance(name=name, gain=gain) for name, gain in gains.items()))
    _, heading, first, *_, last = importance_lines(found)
    assert heading == "Importance of 10 of 11 columns"
    assert (first.split(), last.split()) == (["x11", "16.7%"], ["x2", "3.0%"])
    assert importance_lines(Findings()) == []


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({"status": "separated"}, "--param penalty=1"),
        ({"status": "running"}, "more rounds are needed"),
        ({"coverage": 0.8}, "80% of them"),
        ({"clipped": 2}, "2 values beyond 4,096 deviations"),
        ({"penalty": 1.0}, "no standard errors"),
    ],
)
def test_state_of_a_fit_is_said_in_words(figures: dict[str, float | str], words: str) -> None:
    assert regression_remarks(Findings(figures=dict(FIT))) == []
    assert words in " ".join(regression_remarks(Findings(figures={**FIT, **figures})))


def shown(task: Task, parts: list[Table]) -> str:
    strategy = find_algorithm("newton", task)
    federation = Federation(task, strategy, {f"site-{place}": one for place, one in enumerate(parts)}, seed=1)
    federation.train()
    findings = federation.aggregator.rounds.findings  # type: ignore[union-attr]
    assert findings is not None
    return "\n".join(regression_lines(findings))


def test_run_says_which_columns_are_left_out_and_why() -> None:
    whole = patients()
    columns = {**whole.columns, "months": np.arange(300.0) % 7}
    columns["weeks"] = 4.0 * columns["months"]
    names = ("months", "weeks", "days")
    schema = Schema(columns=tuple(Column(name=one) for one in names[:2]), target=Target(name="days"))
    task = msgspec.structs.replace(table_task("days"), schema=schema, model=type(table_task("days").model)(2))
    text = shown(task, [table(names, {name: columns[name] for name in names})])
    assert "rank of the columns is deficient" in text
    assert text.count("weeks") == 2
    assert "left out" in text
