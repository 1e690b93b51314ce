"""How a run stands, from what can be seen of it now: who has its store, what happened last; never from a stored word.

Knows a run's folder, nothing of its network.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from aggregator.lock import is_locked
from aggregator.report import EVENTS, Report
from fedmq import events

TAIL_BYTES = 64 << 10  # of the events' end that is looked at
STALLED_S = 15.0  # since a round was opened, or the run was continued


class _Line(msgspec.Struct, frozen=True):
    """What every line of events.jsonl has."""

    at: float
    event: str
    present: int = 0
    needed: int = 0


def state_of(folder: Path, report: Report | None, now: float) -> str:
    """In a few words; `now` is in seconds since 1970."""
    if report is not None:
        return "solved" if report.solved else "not solved"
    if not is_locked(folder):
        return "interrupted"
    last = _last(folder / EVENTS)
    if last is None:
        return "running"
    if last.event == _tag(events.Waiting):
        return f"waiting for trainers ({last.present} of {last.needed})"
    if last.event == _tag(events.RunPaused):
        return "paused"
    age_s = now - last.at
    return "running" if age_s < STALLED_S else f"stalled for {age_s:.0f} s"


def _last(path: Path) -> _Line | None:
    """The last event that says something of progress."""
    kinds = (events.RunStarted, events.RoundPublished, events.Waiting, events.RunPaused, events.RunResumed)
    telling = {_tag(kind) for kind in kinds}
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            event = msgspec.json.decode(line, type=_Line)
        except msgspec.MsgspecError:
            continue  # the first line of the tail, or one that is being written
        if event.event in telling:
            return event
    return None


def _tag(kind: type[events.Event]) -> str:
    return str(kind.__struct_config__.tag)
