"""Groups of commands that are imported when they are called, so that `--help` is quick, and one service's group may
have a command of another's.

Knows nothing of what the commands do.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

LINE_LETTERS = 90  # of a command's line in the overview


class LazyGroup(click.Group):
    """`lazy` maps the name of a command to its module and its line in the overview, in the order of that.

    The command has its own name in its module; a dash is an underscore there.
    """

    def __init__(self, *arguments: Any, lazy: Mapping[str, tuple[str, str]], **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """See `click.Group`."""
        return [*super().list_commands(ctx), *self._lazy]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """See `click.Group`."""
        if cmd_name not in self._lazy:
            return super().get_command(ctx, cmd_name)
        command = getattr(import_module(self._lazy[cmd_name][0]), cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See `click.Group`; from the table, so that `--help` imports nothing."""
        own = [(name, one.get_short_help_str(LINE_LETTERS)) for name, one in sorted(self.commands.items())]
        with formatter.section("Commands"):
            formatter.write_dl([*own, *((name, line) for name, (_, line) in self._lazy.items())])
