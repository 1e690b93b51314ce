"""Renamed options: old names on the command line, in the environment and in files are refused with the new name."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from fedmq.cli.main import fedmq
from fedmq.cli.options import option
from fedmq.cli.renamed import RENAMED, Renamed, key_of, variable_of
from fedmq.cli.settings import template, values_of


def command_with(long_name: str) -> click.Command:
    @click.command()
    @option(long_name, metavar="VALUE")
    def service(**_values: str) -> None:
        """Print nothing."""

    return service


@pytest.mark.parametrize("renamed", RENAMED)
def test_old_option_is_a_usage_error_with_the_new_name(renamed: Renamed) -> None:
    done = CliRunner().invoke(command_with(renamed.new), [renamed.old, "1"])
    assert done.exit_code == 2
    assert renamed.new in done.output
    assert renamed.value in done.output


@pytest.mark.parametrize("renamed", RENAMED)
def test_old_variable_is_a_usage_error_with_the_new_name(renamed: Renamed) -> None:
    done = CliRunner(env={variable_of(renamed.old): "1"}).invoke(command_with(renamed.new))
    assert done.exit_code == 2
    assert variable_of(renamed.new) in done.output


@pytest.mark.parametrize("renamed", RENAMED)
def test_old_setting_is_a_fault_with_the_new_name(renamed: Renamed) -> None:
    values, faults = values_of(command_with(renamed.new), f"\n{key_of(renamed.old)} = 1\n")
    assert values == {}
    assert [fault.line for fault in faults] == [2]
    assert key_of(renamed.new) in faults[0].text


@pytest.mark.parametrize("renamed", RENAMED)
def test_old_name_is_in_no_help_and_no_template(renamed: Renamed) -> None:
    service = command_with(renamed.new)
    assert renamed.old not in CliRunner().invoke(service, ["--help"]).output
    assert key_of(renamed.old) not in template(service, "service").split()


@pytest.mark.parametrize("renamed", RENAMED)
def test_new_option_is_accepted_without_its_old_name(renamed: Renamed) -> None:
    assert CliRunner().invoke(command_with(renamed.new), [renamed.new, "1"]).exit_code == 0


def test_aggregator_refuses_max_samples() -> None:
    done = CliRunner().invoke(fedmq, ["aggregator", "--task", "xor", "--max-samples", "3"])
    assert done.exit_code == 2
    assert "--max-examples" in done.output
