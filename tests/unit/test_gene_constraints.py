"""Gene constraints as texts: what they compute, and what they may not contain."""

from __future__ import annotations

from typing import Any

import pytest

from fedmq.errors import BadConfiguration
from fedmq.models.gene_constraints import constraint_of, text_of_function

LAMBDAS = [lambda solution, values: [v for v in values if v > solution[0]], lambda s, v: [x for x in v if x != s[1]]]


def documented(solution: Any, values: Any) -> Any:
    """Return larger values."""
    return [one for one in values if one >= sum(solution[:2])]


def longer(_solution: Any, values: Any) -> Any:
    print(values)
    return values


def test_constraint_returns_the_values_allowed() -> None:
    assert constraint_of("lambda solution, values: [v for v in values if v + solution[0] <= 10]")([4], [5, 6, 7]) == [
        5,
        6,
    ]


@pytest.mark.parametrize(("place", "allowed"), [(0, [3]), (1, [1, 3])])
def test_each_lambda_of_a_line_becomes_its_own_text(place: int, allowed: list[int]) -> None:
    assert constraint_of(text_of_function(LAMBDAS[place]))([2, 2], [1, 2, 3]) == allowed


def test_function_that_only_returns_becomes_a_text() -> None:
    assert constraint_of(text_of_function(documented))([2, 2, 9], [3, 4, 5]) == [4, 5]


def test_function_with_more_than_one_statement_is_refused() -> None:
    with pytest.raises(BadConfiguration, match="write it as a text"):
        text_of_function(longer)


def test_loops_of_a_constraint_end_after_their_steps() -> None:
    nested = constraint_of("lambda s, v: [x for x in v if all([x >= y for y in v])]")
    assert nested([0], range(300)) == [299]
    with pytest.raises(BadConfiguration, match="at most 100000 steps"):
        nested([0], range(1000))


@pytest.mark.parametrize(
    "text",
    [
        "lambda s, v: ().__class__",
        "lambda s, v: v.tolist()",
        "lambda s, v: open('x')",
        "lambda s, v: [1] * 1000000000",
        "lambda s, v: (v if 1 else [1]) * 1000000000",
        "lambda s, v: 9 ** 9 ** 9",
        "lambda s, v: 1 << 1000",
        "lambda s, v: [a for a in v for b in v for c in v]",
        "lambda s, v: (lambda a, b: a)(s, v)",
        "lambda s, v: [x := 1]",
        "lambda s, v: f'{s}'",
        "lambda s, v: limit",
        "lambda s, v=1: v",
        "lambda s: s",
        "[1, 2]",
        "lambda s, v:",
        "lambda s, v: [" + "1, " * 400 + "]",
        "(" * 300 + "lambda s, v: v" + ")" * 300,
    ],
)
def test_text_that_is_more_than_arithmetic_is_refused(text: str) -> None:
    with pytest.raises(BadConfiguration, match="gene_constraint"):
        constraint_of(text)
