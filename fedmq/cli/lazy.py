"""Groups of commands that are imported when they are called: `--help` stays fast, and rooms stay apart."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import click

from fedmq.errors import OutputClosed

LINE_CHARACTERS = 90  # of a command's line in the overview


@contextmanager
def _closed_output() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:  # click would end the process with 1, the code of an error
        raise OutputClosed from error


class LazyGroup(click.Group):
    """A group whose `lazy` maps a command's name to its module and its line in the overview, in order.

    The command's variable in its module has the same name, with underscores for dashes.
    """

    def __init__(self, *arguments: Any, lazy: Mapping[str, tuple[str, str]], **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._lazy = lazy

    def make_context(self, *arguments: Any, **settings: Any) -> click.Context:
        with _closed_output():  # --help prints
            return super().make_context(*arguments, **settings)

    def invoke(self, ctx: click.Context) -> Any:
        with _closed_output():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *self._lazy]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._lazy:
            return super().get_command(ctx, cmd_name)
        command = getattr(import_module(self._lazy[cmd_name][0]), cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, so that `--help` imports no command."""
        own = [(name, one.get_short_help_str(LINE_CHARACTERS)) for name, one in sorted(self.commands.items())]
        with formatter.section("Commands"):
            formatter.write_dl([*own, *((name, line) for name, (_, line) in self._lazy.items())])
