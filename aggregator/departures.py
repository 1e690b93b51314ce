"""Departures: why trainers contribute nothing to a run, and what that means for the run, in one line."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

from fedmq.errors import LeaveReason

DECLINES = frozenset[str]({"rows", "evaluations", "code", "query", "work", "limit", "policy", "duplicate"})
CAUSES_MAX = 3  # in one line
CAUSES: dict[Literal["", LeaveReason], str] = {
    "": "no reason given",
    "leaving": "stopped by their operators",
    "rows": "their rows do not fit the task",
    "evaluations": "their --max-evaluations are used up",
    "code": "they do not run the code of the task",
    "query": "they do not know the query",
    "work": "their work failed",
    "limit": "a round asks for more memory or time than they give",
    "policy": "their sites do not permit what the run asks",
    "duplicate": "their names are in use",
    "other": "another reason",
}


class Departure(NamedTuple):
    """Why a trainer contributes nothing: from its Goodbye, or from the refusal of its result of the open round."""

    reason: Literal["", LeaveReason]
    detail: str = ""


def failure_text(departures: Sequence[Departure]) -> str:
    """Return why a run without trainers cannot go on: the causes, not the sites."""
    return f"all trainers declined or left the run: {causes_text(departures)}"


def shortage_text(present: int, needed: int, wait_s: float, departures: Sequence[Departure]) -> str:
    """Return why the wait for trainers has ended."""
    text = f"expected {needed} trainers within {wait_s:g} s, got {present}: start more, or lower --min-trainers"
    return f"{text}; absent: {causes_text(departures)}" if departures else text


def causes_text(departures: Sequence[Departure]) -> str:
    """Return the causes with their numbers of trainers, the most frequent first; one detail for each reason."""
    counts = Counter(one.reason for one in departures)
    details = {one.reason: one.detail for one in reversed(departures) if one.detail}  # of the first trainer
    causes = [
        f"{details.get(reason) or CAUSES[reason]} ({reason or 'left'}, {count} trainer{'s' * (count > 1)})"
        for reason, count in counts.most_common(CAUSES_MAX)
    ]
    return "; ".join(causes)
