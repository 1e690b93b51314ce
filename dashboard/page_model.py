"""A run's picture as the page takes it: everything, or what has changed since an event; columns of plain values.

Pure: a `View` and the time in, values for JSON out. Knows nothing of HTTP; the page's side of it is `static/`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from fedmq.models.code import Code, Model
from fedmq.models.networks import MLP
from fedmq.observe import events
from fedmq.observe.event_text import event_line
from fedmq.observe.run_state import WORKS_KEPT_MAX, RoundRecord, RunState, drawable

DIGITS = 6  # that are significant, of a figure; of a time milliseconds are told

Values = dict[str, Any]
_BEST = ("value", "coverage", "fitness", "fitness_mean", "fitness_worst", "diversity")
_GOOD = (events.TrainerJoined, events.TrainerReadmitted, events.RunResumed)
_WARNINGS = (
    events.TrainerLeft,
    events.TrainerSuspected,
    events.TrainerBarred,
    events.RunPaused,
    events.Waiting,
    events.ResultResent,
)


class Origin(NamedTuple):
    """Where a run's picture comes from; `here` says whether its aggregator is there, `broker` whether that is."""

    here: bool
    source: str  # "live" or "folder"
    folder: str | None
    broker: bool
    ahead_s: float = 0.0  # how far its aggregator's clock is ahead of ours


def head_of(view: RunState, origin: Origin, now: float) -> Values:
    """The figures of a run that stand alone; `now`, here and below, is by its aggregator's clock."""
    newest, here, left_s = view.newest, origin.here, view.left_s(now, here=origin.here)
    return {
        "run": view.run,
        "term": view.term,
        "task": view.task,
        "strategy": view.strategy,
        "robust": view.robust,
        "seed": view.seed,
        "metric": view.metric,
        "target": view.target,
        "rounds_max": view.rounds_max,
        "min_trainers": view.min_trainers,
        "model": _model_text(view.model),
        "drawable": view.model is not None and drawable(view.model),
        "started_at": _time(view.started_at),
        "progress_at": _time(view.progress_at),
        "event_at": _time(view.event_at),
        "paused": view.paused,
        "waiting": view.waiting,
        "finished": None
        if view.finished is None
        else {name: getattr(view.finished, name) for name in ("solved", "rounds", "value", "why")},
        "here": here,
        "state": view.status_text(now, here=here),
        "condition": view.condition(now, here=here),
        "source": origin.source,
        "folder": origin.folder,
        "broker": origin.broker,
        "round": 0 if newest is None else newest.round,
        "open": newest is not None and newest.closed_at is None and view.finished is None,
        "results": view.results,
        "late": view.late,
        "resent": view.resent,
        "rejections": dict(view.rejections),
        "checkpoint": view.checkpoint,
        "present": view.present,
        "left_s": None if left_s is None else _figure(left_s),
        "best": None if view.best is None else {name: _figure(getattr(view.best, name)) for name in _BEST},
    }


def row_of(view: RunState, origin: Origin, now: float) -> Values:
    """A run in the list of runs."""
    head = head_of(view, origin, now)
    kept = ("run", "task", "strategy", "state", "condition", "here", "source", "round", "rounds_max", "metric")
    best = head["best"]
    return {
        **{name: head[name] for name in kept},
        "value": None if best is None else best["value"],
        "trainers": head["present"],
        "started_at": head["started_at"],
        "event_at": head["event_at"],
    }


def tables_of(view: RunState, since: int | None) -> dict[str, Values]:
    """The tables of a run as columns: all rows, or of each table those that changed after event number `since`.

    With `since` a table in which nothing has changed is left out.
    """
    rows: dict[str, Sequence[Any]] = {
        "rounds": _newer(view.rounds, since),
        "trainers": [one for one in view.trainers.values() if since is None or one.touched > since],
        "works": _newer(view.works, since)[-WORKS_KEPT_MAX:],
        "bests": _newer(view.bests, since),
        "feed": _newer(view.feed, since),
    }
    found: dict[str, Values] = {}
    for name, changed in rows.items():
        if changed or since is None:
            columns = _COLUMNS[name]
            found[name] = {key: [column(row) for row in changed] for key, column in columns.items()}
    if "feed" in found:
        found["feed"]["text"] = [event_line(told.event, view.metric) or "" for told in rows["feed"]]
    return found


def full_of(view: RunState, origin: Origin, now: float) -> Values:
    """Everything."""
    return {"now": _time(now), "head": head_of(view, origin, now), **tables_of(view, None)}


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Values:
    """What of `after` is not as it was."""
    return {name: value for name, value in after.items() if name not in before or before[name] != value}


def _newer(rows: Sequence[Any], since: int | None) -> Sequence[Any]:
    """Those that changed after that event; they are in the order in which they did."""
    if since is None:
        return rows
    first = len(rows)
    while first and rows[first - 1].touched > since:
        first -= 1
    return rows[first:]


def _model_text(model: Model | None) -> str:
    if model is None:
        return ""
    if isinstance(model, Code):
        return f"code, {model.num_parameters} parameters"
    sizes = model.sizes if isinstance(model, MLP) else (model.inputs, model.outputs)
    shape = "-".join(map(str, sizes))
    return f"MLP {shape} {model.hidden}" if isinstance(model, MLP) else f"linear {shape}"


def _time(at: float) -> float:
    return round(at, 3)


def _figure(value: float) -> float:
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else value  # msgspec writes the others as null


def _level(event: events.AnyEvent) -> str:
    if isinstance(event, events.RunFinished):
        return "good" if event.solved else "warn"
    if isinstance(event, events.Stalled | events.ResultRejected):
        return "bad"
    return "good" if isinstance(event, _GOOD) else "warn" if isinstance(event, _WARNINGS) else "info"


def _plain(*names: str) -> dict[str, Callable[[Any], Any]]:
    def reader(name: str) -> Callable[[Any], Any]:
        return lambda row: getattr(row, name)

    return {name: reader(name) for name in names}


def _rounded(how: Callable[[float], float], names: Iterable[str]) -> dict[str, Callable[[Any], Any]]:
    def reader(name: str) -> Callable[[Any], Any]:
        def read(row: Any) -> float | None:
            value: float | None = getattr(row, name)
            return None if value is None else how(value)

        return read

    return {name: reader(name) for name in names}


def _of_best(name: str) -> Callable[[RoundRecord], float | None]:
    return lambda row: None if row.best is None else _figure(getattr(row.best, name))


_COLUMNS: dict[str, dict[str, Callable[[Any], Any]]] = {
    "rounds": {
        **_plain("round", "why", "invited", "results", "late", "rejected", "present", "bytes_up", "bytes_down"),
        **_rounded(_time, ("published_at", "closed_at")),
        **_rounded(_figure, ("round_s",)),
        **{name: _of_best(name) for name in _BEST},
    },
    "trainers": {
        **_plain("name", "presence", "barred", "num_examples", "results", "late", "rejected", "resent"),
        **_plain("memory", "version", "labels", "fingerprint"),
        **_rounded(_time, ("joined_at", "seen_at")),
        **_rounded(_figure, ("train_s", "round_trip_s", "cpu")),
    },
    "works": {
        **_plain("round", "trainer", "staleness"),
        **_rounded(_time, ("began_at", "ended_at")),
        **_rounded(_figure, ("train_s",)),
    },
    "bests": _plain("round"),
    "feed": {
        "seq": lambda told: told.touched,
        "at": lambda told: _time(told.at),
        "kind": lambda told: type(told.event).__struct_config__.tag,
        "level": lambda told: _level(told.event),
        "round": lambda told: getattr(told.event, "round", None),
        "trainer": lambda told: getattr(told.event, "trainer", None) or None,
    },
}
