"""Options that were renamed: refused with the new name, on the command line, in the environment and in files."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import click
from click.core import ParameterSource


class Renamed(NamedTuple):
    """An option that was renamed; `value` is NAME=VALUE where the new option takes pairs."""

    old: str
    new: str
    value: str = ""
    values: Mapping[str, str] = {}  # new values by old values, where they differ


_STRATEGIES = {"fedavg": "averaging --param learner=evolution", "fedsgd": "averaging --param method=fedsgd"}
RENAMED = (
    Renamed("--max-samples", "--max-examples"),
    Renamed("--strategy", "--algorithm", values=_STRATEGIES),
    Renamed("--robust", "--param", "rule=RULE"),
)


def key_of(long_name: str) -> str:
    """Return the key of an option in a file of settings: `min_trainers` for `--min-trainers`."""
    return long_name.removeprefix("--").replace("-", "_")


def variable_of(long_name: str) -> str:
    """Return the environment variable of an option: `FEDMQ_MIN_TRAINERS` for `--min-trainers`."""
    return "FEDMQ_" + key_of(long_name).upper()


class RenamedOption(click.Option):
    """The hidden option of an old name."""

    def __init__(self, renamed: Renamed) -> None:
        super().__init__(
            [renamed.old], envvar=variable_of(renamed.old), hidden=True, expose_value=False, callback=self._refuse
        )
        self._renamed = renamed

    @property
    def fault_in_file(self) -> str:
        """Return the fault of a file that has the old name."""
        old, new, value, _ = self._renamed
        name, _, text = value.partition("=")
        return f"{key_of(old)} was renamed: use {key_of(new)}" + (f' = {{ {name} = "{text}" }}' if value else "")

    def _refuse(self, ctx: click.Context, _param: click.Parameter, given: Any) -> None:
        if given is None:
            return
        old, new, value, values = self._renamed
        value = values.get(str(given), value)
        if ctx.get_parameter_source(str(self.name)) is ParameterSource.ENVIRONMENT:
            old, new, value = variable_of(old), variable_of(new), value and f"={value}"
        else:
            value = value and f" {value}"
        raise click.UsageError(f"{old} was renamed: use {new}{value}", ctx)


def renamed_to(long_name: str) -> list[RenamedOption]:
    """Return the old names of an option, as hidden options that refuse their values."""
    return [RenamedOption(renamed) for renamed in RENAMED if renamed.new == long_name]
