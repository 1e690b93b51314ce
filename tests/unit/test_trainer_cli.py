"""Checks of `fedmq trainer` before it connects: number of rows, options, labels."""

from __future__ import annotations

import logging

import click
import pytest
from click.testing import CliRunner

from fedmq.algorithms.base import MEMORY_BYTES_MAX, WORK_SECONDS_MAX, WorkLimits
from fedmq.errors import BadData
from fedmq.protocol import fixed_point as scores
from fedmq.protocol import messages
from fedmq.runtime.memory_limit import memory_allowed
from fedmq.trainer import cli
from fedmq.trainer.budget import Budget
from fedmq.trainer.questions import Questions


@pytest.mark.parametrize(("rows", "least"), [(2, 3), (9, 10), (1, 2**40)])
def test_fewer_rows_than_the_minimum_are_an_error(rows: int, least: int) -> None:
    with pytest.raises(BadData, match=rf"^--min-rows: expected at least {least} rows, got {rows}: .*$") as refusal:
        cli._check_count("bob", rows, least)
    assert refusal.value.exit_code == 78


@pytest.mark.parametrize(("rows", "least"), [(2, 2), (2, 1), (10, None), (500, 500)])
def test_enough_rows_cause_no_warning(rows: int, least: int | None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        cli._check_count("bob", rows, least)
    assert caplog.messages == []


@pytest.mark.parametrize("rows", [1, 9])
def test_few_rows_without_a_minimum_cause_a_warning(rows: int, caplog: pytest.LogCaptureFixture) -> None:
    cli._check_count("bob", rows, None)
    (line,) = caplog.messages
    assert f"trainer bob has {rows} rows" in line
    assert "\n" not in line


def test_command_checks_rows_before_it_connects() -> None:
    done = CliRunner().invoke(cli.trainer, ["--name", "bob", "--data", "xor:1/2", "--min-rows", "3"])
    assert isinstance(done.exception, BadData)


@pytest.mark.parametrize(
    "flags",
    [
        ["--score-bits", "31"],
        ["--score-bits", "-1"],
        ["--min-rows", "0"],
        ["--max-evaluations", "0"],
        ["--labels", "a,b,c,d,e,f,g,h,i"],
        ["--labels", "x" * 65],
        ["--labels", "two\nlines"],
    ],
)
def test_option_out_of_bounds_is_a_usage_error(flags: list[str]) -> None:
    done = CliRunner().invoke(cli.trainer, ["--data", "xor:1/2", *flags])
    assert done.exit_code == 2


@pytest.mark.parametrize(("text", "words"), [("", ()), ("north", ("north",)), (" a=1 ,b, ,", ("a=1", "b"))])
def test_labels_are_separated_by_commas(text: str, words: tuple[str, ...]) -> None:
    param = next(param for param in cli.trainer.params if param.name == "labels")
    assert param.callback is not None
    checked = param.callback(click.Context(cli.trainer), param, text)
    assert cli._session("bob", 3, None, 16, Budget(), Questions(), checked, 60.0, site_figures=True).labels == words


def test_limit_of_score_bits_is_that_of_the_protocol() -> None:
    assert cli.FRACTION_BITS_MAX == messages.FRACTION_BITS_MAX
    (bits,) = (parameter for parameter in cli.trainer.params if parameter.name == "score_bits")
    assert bits.default == scores.FRACTION_BITS


def test_limit_of_seconds_is_the_default_of_the_work() -> None:
    (limit,) = (parameter for parameter in cli.trainer.params if parameter.name == "work_seconds_max")
    assert limit.default == cli.WORK_SECONDS_MAX == WORK_SECONDS_MAX


def test_memory_of_the_work_is_half_of_the_machines_or_the_given() -> None:
    half = (memory_allowed() or 2 * MEMORY_BYTES_MAX) // 2
    assert cli._limits(None, 9.0) == WorkLimits(min(MEMORY_BYTES_MAX, half), 9.0)
    assert cli._limits(64, 9.0) == WorkLimits(64 << 20, 9.0)
