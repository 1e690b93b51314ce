"""Tables and screens of rich that print all text as it is written: it may come from another machine."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from fedmq.errors import OutputClosed
from fedmq.runtime.printable import printable


class PrintableTable(Table):
    """A table whose cells are printable and measured as they are printed."""

    def add_row(self, *renderables: RenderableType | None, **settings: Any) -> None:
        super().add_row(*map(_without_controls, renderables), **settings)


class PrintableConsole(Console):
    """A console without markup, emoji codes and highlighting that makes every text printable."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        return super().render(_without_controls(renderable), options)

    def on_broken_pipe(self) -> None:  # rich would end the process with 1, the code of an error
        raise OutputClosed


def _without_controls(renderable: Any) -> Any:
    """Return a text with its styles, printable; anything else as it is: it is made of texts."""
    if isinstance(renderable, str):
        return Text(printable(renderable))
    if isinstance(renderable, Text):
        styled = renderable.copy()
        styled.plain = printable(renderable.plain)  # of the same length, so styles stay in place
        return styled
    return renderable
