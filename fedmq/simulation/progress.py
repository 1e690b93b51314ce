"""The progress of a simulation: a bar on a terminal and in a notebook."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fedmq.observe.console import PrintableConsole
from fedmq.observe.events import AnyEvent, RoundClosed

OnEvents = Callable[[Sequence[AnyEvent]], None]


@contextmanager
def progress_bar(rounds: int, metric: str, *, show: bool | None = None) -> Iterator[OnEvents]:
    """Show how many of the rounds are closed, and the metric of the best model.

    Yields a function that takes events. `show` is None for a bar where it can be redrawn: not in a pipe.
    """
    console = PrintableConsole()
    if not (console.is_terminal or console.is_jupyter if show is None else show):
        yield lambda _events: None
        return
    columns = (
        TextColumn("round"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console) as bar:
        shown = bar.add_task("", total=rounds)

        def update(happened: Sequence[AnyEvent]) -> None:
            for event in happened:
                if isinstance(event, RoundClosed):
                    text = "" if event.best is None else f"{metric} {event.best.value:.4g}"
                    bar.update(shown, completed=event.round, description=text)

        yield update
