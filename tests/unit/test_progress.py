"""Progress of a run: one line an event in a pipe, a view on a terminal."""

from __future__ import annotations

import io
import logging

import pytest
from msgspec.structs import replace

from fedmq.aggregator.progress import live_view, log_event, open_progress, plain_progress
from fedmq.observe import events
from fedmq.observe.console import PrintableConsole
from fedmq.observe.event_text import event_line
from fedmq.observe.run_state import RunState
from fedmq.testing import run_started

BEST = events.Best(value=0.75, coverage=1.0, fitness=-0.25, fitness_mean=-0.5, fitness_worst=-2.0, diversity=0.3)
HALF = events.Best(value=1.0, coverage=0.5, fitness=-0.25, fitness_mean=-0.5, fitness_worst=-2.0, diversity=0.3)
STARTED = run_started(run="one", term=1, round=1, task="xor", algorithm="evolution", seed=7, rounds_max=200)


def closed(number: int, best: events.Best | None = BEST, why: str = "complete") -> events.RoundClosed:
    return events.RoundClosed(round=number, why=why, results=2, round_s=0.0125, present=3, best=best)


TOLD = [
    (STARTED, "run one: task xor, algorithm evolution, seed 7"),
    (
        run_started(run="one", term=3, again=True, round=5, task="xor", algorithm="evolution", seed=7),
        "run one continues at round 5",
    ),
    (events.Waiting(present=1, needed=2), "waiting for trainers (1 of 2)"),
    (events.RunPaused(), "paused; continue with fedmq runs resume"),
    (events.RunResumed(), "resumed"),
    (events.TrainerJoined(trainer="bob", num_examples=2), "trainer bob joined (2 rows)"),
    (events.TrainerLeft(trainer="bob", goodbye=True), "trainer bob left"),
    (events.TrainerLeft(trainer="bob", goodbye=False), "trainer bob disconnected"),
    (events.TrainerSuspected(trainer="bob"), "trainer bob missed a deadline"),
    (
        events.Stalled(round=2, seconds=15.4, missing=("amy", "bob")),
        "no result for 15 s; missing: amy, bob",
    ),
    (
        events.ResultRejected(trainer="bob", reason="values", detail="a negative loss"),
        "rejected from bob: values: a negative loss",
    ),
    (
        events.ResultRejected(trainer="", reason="frames", detail="none"),
        "rejected from an unknown sender: frames: none",
    ),
    (closed(7), "round   7  75% right  fitness best -0.2500 mean -0.5000  2 results of 3 trainers  12.5 ms"),
    (
        closed(7, HALF, "deadline"),
        "round   7  100% right of 50% of the rows  fitness best -0.2500 mean -0.5000  2 results of 3 trainers  "
        "12.5 ms  (deadline)",
    ),
    (
        replace(closed(7), results=3, secure=True),
        "round   7  75% right  fitness best -0.2500 mean -0.5000  secure sum of 3 of 3 trainers  12.5 ms",
    ),
    (closed(7, None), "round   7  nothing scored yet  2 results of 3 trainers  12.5 ms"),
]
UNTOLD: list[events.AnyEvent] = [
    events.RoundPublished(round=1, invited=2),
    events.ResultAccepted(round=1, trainer="bob", staleness=0, train_s=0.1),
    events.RunFinished(solved=True, rounds=1, value=1.0),  # the report says it, with more figures
]


@pytest.mark.parametrize(("event", "line"), TOLD, ids=lambda value: type(value).__name__)
def test_event_is_one_line(event: events.AnyEvent, line: str) -> None:
    lines: list[str] = []
    plain_progress("accuracy", lines.append)(event)
    assert lines == [line]


@pytest.mark.parametrize("event", UNTOLD, ids=lambda event: type(event).__name__)
def test_frequent_events_have_no_line(event: events.AnyEvent) -> None:
    lines: list[str] = []
    plain_progress("accuracy", lines.append)(event)
    assert lines == []


def test_of_many_fast_rounds_a_pipe_gets_the_first_and_one_a_second() -> None:
    lines: list[str] = []
    progress = plain_progress("accuracy", lines.append)
    for number in range(1, 61):
        progress(replace(closed(number, why="deadline" if number == 30 else "complete"), round_s=0.125))
    assert [int(line.split()[1]) for line in lines] == [*range(1, 21), 28, 30, 38, 46, 54]


def test_each_slow_round_has_a_line_in_a_pipe() -> None:
    lines: list[str] = []
    progress = plain_progress("accuracy", lines.append)
    for number in range(100, 110):
        progress(replace(closed(number), round_s=1.5))
    assert len(lines) == 10


def test_task_with_metric_loss_shows_its_loss() -> None:
    assert "loss 0.75  " in str(event_line(closed(1), "loss"))


def panel(*seen: events.AnyEvent) -> str:
    """The last picture of a terminal on which these events were shown."""
    screen, view = io.StringIO(), RunState()
    console = PrintableConsole(file=screen, force_terminal=True, width=120, height=40, color_system=None)
    with live_view(view, console, wall=lambda: 100.0):
        for event in seen:
            view.apply(99.0, event)
    return screen.getvalue()


def test_terminal_shows_the_view_of_fedmq_watch_and_leaves_it() -> None:
    picture = panel(STARTED, events.TrainerJoined(trainer="bob", num_examples=2), closed(1), closed(2, HALF))
    assert "● running" in picture
    assert "round 2 of 200" in picture
    assert "trainer bob joined (2 rows)" in picture


def test_view_renders_after_any_order_of_events() -> None:
    for event in [*(event for event, _ in TOLD), *UNTOLD]:
        assert panel(event)


def test_untrusted_text_sends_no_control_codes_to_the_terminal() -> None:
    """A rejection may quote what came."""
    event = events.ResultRejected(trainer="", reason="header", detail="[bold]a[/b] \x1b[2J\nrun one is solved")
    assert "header: [bold]a[/b] ?[2J run one" in panel(event)


def test_piped_output_is_plain_lines_and_quiet_prints_none(capsys: pytest.CaptureFixture[str]) -> None:
    for quiet in (False, True):
        with open_progress(RunState(), "accuracy", quiet=quiet) as progress:
            progress(events.TrainerJoined(trainer="bob", num_examples=2))
    assert capsys.readouterr().out == "trainer bob joined (2 rows)\n"


@pytest.mark.parametrize(
    ("event", "said", "fields"),
    [
        (closed(7), "round   7  75% right", {"run": "one", "round": 7}),
        (events.TrainerJoined(trainer="bob", num_examples=2), "trainer bob joined", {"run": "one", "trainer": "bob"}),
        (
            events.RunFinished(solved=True, rounds=4, value=1.0),
            "the run is over after 4 rounds: solved",
            {"run": "one"},
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_event_is_logged_with_its_fields(
    event: events.AnyEvent, said: str, fields: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        log_event(event, "one", "accuracy")
    (record,) = caplog.records
    assert record.getMessage().startswith(said)
    assert {name: getattr(record, name) for name in ("run", "round", "trainer") if hasattr(record, name)} == fields


def test_event_without_a_line_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        log_event(events.RoundPublished(round=1, invited=2), "one", "accuracy")
    assert caplog.records == []
