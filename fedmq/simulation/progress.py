"""The progress of a simulation: a bar on a terminal, and a curve in a notebook."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fedmq.observe.console import PrintableConsole
from fedmq.observe.events import AnyEvent, RoundClosed
from fedmq.runs.charts import Series, line_chart
from fedmq.simulation.run import page_of

DRAWN_EVERY_S = 1.0  # in a notebook
OnEvents = Callable[[Sequence[AnyEvent]], None]


@contextmanager
def progress_bar(rounds: int, metric: str, *, show: bool | None = None) -> Iterator[OnEvents]:
    """Show how many of the rounds are closed, and the metric of the best model; in a notebook, its curve.

    Yields a function that takes events. `show` is None for a display where it can be redrawn: not in a pipe.
    """
    console = PrintableConsole()
    if not (console.is_terminal or console.is_jupyter if show is None else show):
        yield lambda _events: None
        return
    if console.is_jupyter:
        with _notebook(rounds, metric) as on_events:
            yield on_events
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


@contextmanager
def _notebook(rounds: int, metric: str) -> Iterator[OnEvents]:
    """Draw the metric by round below a cell, again and again, and at the end."""
    from IPython.display import display

    shown: Any = None
    drawn_at, closed = -DRAWN_EVERY_S, 0
    curve: list[tuple[float, float]] = []

    def draw() -> None:
        nonlocal shown
        chart = page_of(line_chart(f"round {closed} of {rounds}", "round", metric, [Series(metric, curve)]))
        if shown is None:
            shown = display(chart, display_id=True)
        else:
            shown.update(chart)

    def update(happened: Sequence[AnyEvent]) -> None:
        nonlocal drawn_at, closed
        for event in happened:
            if isinstance(event, RoundClosed):
                closed = event.round
                if event.best is not None:
                    curve.append((float(closed), event.best.value))
        if curve and time.monotonic() >= drawn_at + DRAWN_EVERY_S:
            drawn_at = time.monotonic()
            draw()

    try:
        yield update
    finally:
        if curve:
            draw()
