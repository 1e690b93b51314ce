"""How a run stands, from what can be seen of it now: who has its store, what happened last; never from a stored word.

Knows a run's folder, nothing of its network.
"""

from __future__ import annotations

from pathlib import Path

from fedmq.observe.event_log import TAIL_BYTES, read_run_state
from fedmq.runs.report import Report
from fedmq.runtime.lock import is_locked
from fedmq.runtime.run_folder import EVENTS


def state_of(folder: Path, report: Report | None, now: float) -> str:
    """In a few words; `now` is in seconds since 1970."""
    here = is_locked(folder)
    if report is None and not here:
        return "interrupted"
    view = read_run_state(folder / EVENTS, tail=TAIL_BYTES)
    if report is None or here or view.finished is not None:
        return view.status_text(now, here=here)
    return "solved" if report.solved else "not solved"
