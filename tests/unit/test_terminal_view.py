"""The run_state of a run on a terminal: its content, and that it fits the screen."""

from __future__ import annotations

import io
import re

import pytest
from msgspec.structs import replace
from rich.console import RenderableType

from fedmq.observe import events
from fedmq.observe.braille import Curve, draw_blocks, draw_curves
from fedmq.observe.console import PrintableConsole
from fedmq.observe.run_state import STALLED_S, ObservedRun, RunState
from fedmq.observe.terminal_view import render_list, render_run, span
from fedmq.testing import run_started

STARTED = run_started(
    run="one",
    term=1,
    round=1,
    task="xor",
    algorithm="evolution",
    seed=7,
    parameters={"rule": "clip"},
    metric="accuracy",
    target=1.0,
    rounds_max=200,
)


def best(fitness: float, value: float = 0.75) -> events.Best:
    return events.Best(
        value=value, coverage=1.0, fitness=fitness, fitness_mean=2 * fitness, fitness_worst=-9.0, diversity=0.3
    )


def closed(number: int, fitness: float = -0.25) -> events.RoundClosed:
    return events.RoundClosed(
        round=number, why="complete", results=2, round_s=0.0125, present=3, best=best(fitness), rejected=1
    )


def state_of(*happened: events.AnyEvent, begin: float = 100.0) -> RunState:
    """Return the state after these events, one a second."""
    run_state = RunState()
    for second, event in enumerate((STARTED, *happened)):
        run_state.apply(begin + second, event)
    return run_state


def printed(shown: RenderableType, width: int = 100, height: int = 40) -> list[str]:
    screen = io.StringIO()
    PrintableConsole(file=screen, width=width, height=height, color_system=None).print(shown)
    return screen.getvalue().splitlines()


def drawn(
    run_state: RunState, *, now: float | None = None, connected: bool = True, width: int = 100, height: int = 40
) -> str:
    lines = printed(
        render_run(ObservedRun(run_state, run_state.event_at if now is None else now, connected), width, height),
        width,
        height,
    )
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    return "\n".join(lines)


def trainers(count: int) -> list[events.AnyEvent]:
    return [events.TrainerJoined(trainer=f"t{number:03}", num_examples=number) for number in range(count)]


def test_view_shows_the_main_figures() -> None:
    happened = [
        events.TrainerJoined(trainer="bob", num_examples=3, labels=("north", "gpu")),
        closed(1, -0.6),
        closed(2, -0.5),
    ]
    accepted = events.ResultAccepted(
        round=2, trainer="bob", staleness=0, train_s=0.004, answer_s=0.010, cpu_s=1.0, memory=57_000_000
    )
    run_state = state_of(*happened, accepted)
    shown = drawn(run_state, now=run_state.event_at + 3, width=140)
    for words in (
        "one  xor, evolution (clip), seed 7",
        "● running",
        "round 2 of 200",
        "at most 3 min left",  # 198 rounds of a second
        "75% right (target 100%)   fitness best -0.5000  mean -1.0000",
        "progress 3.0 s ago",
        "median 12.5 ms, last 12.5, longest 12.5",
        "trainer bob joined (3 rows)",
    ):
        assert words in shown
    (row,) = [line for line in shown.splitlines() if line.startswith("bob")]
    assert re.split(r" {2,}", row.strip())[1:] == (
        ["● alive", "3", "1", "100%", "3.0 s ago", "4.0 ms", "6.0 ms", "0%", "57 MB", "north, gpu"]
    )


@pytest.mark.parametrize(("width", "height"), [(60, 20), (80, 24), (100, 30), (200, 60)])
def test_view_of_a_thousand_trainers_fits_any_screen(width: int, height: int) -> None:
    run_state = state_of(*trainers(1000), *(closed(number) for number in range(1, 400)))
    shown = drawn(run_state, width=width, height=height)
    assert re.search(r"and \d+ more \(\d+ alive\)", shown)
    assert "round 399 of 200" in shown


def test_absent_trainers_are_shown_first() -> None:
    gone = [events.TrainerLeft(trainer="t900", goodbye=False), events.TrainerSuspected(trainer="t901")]
    shown = drawn(state_of(*trainers(1000), *gone), height=24)
    assert re.search(r"^t900 +● gone", shown, flags=re.MULTILINE)
    assert re.search(r"^t901 +● suspect", shown, flags=re.MULTILINE)
    assert "alive)" in shown


def test_stall_is_an_alarm_with_the_missing_trainers() -> None:
    stalled = events.Stalled(round=1, seconds=15.0, missing=("bob",))
    run_state = state_of(*trainers(2), events.RoundPublished(round=1, invited=2), stalled)
    assert "stalled for 41 s: no result from bob" in drawn(run_state, now=run_state.progress_at + 41)
    assert "stalled for" not in drawn(run_state, now=run_state.progress_at + STALLED_S - 1)


def test_alarm_names_missing_trainers_of_the_current_stall_only() -> None:
    stalled = events.Stalled(round=1, seconds=15.0, missing=("bob",))
    rejected = events.ResultRejected(trainer="amy", reason="values", detail="no")
    run_state = state_of(events.RoundPublished(round=1, invited=2), stalled, *[rejected] * 20)
    assert "no result from bob" in drawn(run_state, now=run_state.progress_at + 41)
    run_state.apply(200.0, events.RoundPublished(round=2, invited=2))
    assert "stalled for 41 s " in drawn(run_state, now=241.0)


@pytest.mark.parametrize(
    ("happened", "connected", "state"),
    [
        ((), False, "interrupted"),
        ((events.RunPaused(),), True, "paused"),
        ((events.Waiting(present=1, needed=2),), True, "waiting for trainers (1 of 2)"),
        ((closed(1), events.RunFinished(solved=True, rounds=1, value=1.0)), False, "solved"),
        ((closed(1), events.RunFinished(solved=False, rounds=1, value=0.5)), True, "finished"),
    ],
)
def test_status_is_in_the_first_line(happened: tuple[events.AnyEvent, ...], connected: bool, state: str) -> None:
    first = drawn(state_of(*happened), connected=connected).splitlines()[0]
    assert first.endswith(f"● {state}")


def test_empty_state_is_rendered() -> None:
    assert "no trainer yet" in drawn(RunState())


def test_list_has_a_line_for_each_run() -> None:
    several = [ObservedRun(state_of(*trainers(2), closed(1)), 110.0, here) for here in (True, False)]
    heading, first, second = printed(render_list(several, 100, 20))
    assert heading.split() == ["run", "state", "task", "algorithm", "round", "of", "value", "trainers", "progress"]
    assert first.split()[:7] == ["one", "●", "running", "xor", "evolution", "1", "200"]
    assert "interrupted" in second
    assert printed(render_list(several * 20, 100, 10))[-1].split() == ["and", "33", "more"]


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_list_cuts_no_heading_and_no_end_of_a_name(width: int) -> None:
    """Thirty nights of one task, some of them waiting: the names differ at their ends."""
    nights = []
    for night in range(1, 31):
        state = state_of(*trainers(40), events.Waiting(present=1, needed=40), closed(night, -0.25))
        assert state.config is not None
        task = replace(state.config.task, name="readmission-of-cardiac-patients")
        state.config = replace(
            state.config, run=f"readmission-of-cardiac-patients-202611{night:02}-010000-ab{night:02}", task=task
        )
        nights.append(ObservedRun(state, state.event_at + 100.0, connected=True))
    heading, *lines = printed(render_list(nights, width, 40), width)
    assert max(map(len, [heading, *lines])) <= width
    full = ["run", "state", "task", "algorithm", "round", "of", "value", "trainers", "progress"]
    assert set(heading.split()) <= set(full)
    assert {"run", "state", "round", "value", "trainers", "progress"} <= set(heading.split())
    assert [f"-ab{night:02} " in line for night, line in enumerate(lines, 1)] == [True] * 30


def test_received_text_has_no_control_characters() -> None:
    joined = events.TrainerJoined(trainer="[red]b\x1b[2Job", num_examples=1, labels=("[blink]\x1b[5m",))
    shown = drawn(state_of(joined), width=140)
    assert "\x1b" not in shown
    assert "[red]b?[2Job" in shown


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.9, "9.9 s"), (42.2, "42 s"), (600, "10 min"), (7300, "2 h")]
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_curve_spans_the_chart() -> None:
    lines = [str(line) for line in draw_curves([Curve([0.0, 1.0], "red")], 0.0, 1.0, 4, 2)]
    assert lines[0][-1] != " "
    assert lines[1][0] != " "
    assert lines[0][0] == lines[1][-1] == " "


def test_values_out_of_range_lie_on_the_edge() -> None:
    (line,) = draw_curves([Curve([-5.0, 5.0], "red")], 0.0, 1.0, 8, 1)
    assert " " not in str(line)


def test_bars_show_the_last_values_from_zero() -> None:
    assert draw_blocks([9.0, 0.0, 4.0, 8.0], 3) == "▁▅█"
    assert draw_blocks([], 3) == ""
    assert draw_blocks([0.0, 0.0], 3) == "▁▁"
