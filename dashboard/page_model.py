"""A run state as JSON values for the page: everything, or the changes since an event; tables as columns.

`static/page_model.js` reads these values.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from fedmq.algorithms.evaluation.figures import Measured, Metrics
from fedmq.models.networks import MLP, Code, Model
from fedmq.models.trees import Trees
from fedmq.observe import events
from fedmq.observe.event_text import event_line
from fedmq.observe.genes_text import gene_text
from fedmq.observe.run_state import WORKS_KEPT_MAX, ObservedRun, RoundRecord, RunState, drawable
from fedmq.runtime.printable import printable

DIGITS = 6  # significant digits of a figure; times are in milliseconds

Values = dict[str, Any]
_AS_IN_STATE = (
    "run",
    "term",
    "task",
    "algorithm",
    "robust",
    "privacy",
    "seed",
    "metric",
    "target",
    "rounds_max",
    "min_trainers",
)
_COUNTS = ("paused", "waiting", "results", "late", "resent", "checkpoint", "present")
_BEST = ("value", "coverage", "fitness", "fitness_mean", "fitness_worst", "diversity")
_OF_HELD_OUT = ("training", "balanced_accuracy", "auc")  # of `events.Best`, None without held-out rows
_GOOD = (events.TrainerJoined, events.TrainerReturned, events.TrainerReadmitted, events.RunResumed)
_WARNINGS = (
    events.TrainerLeft,
    events.TrainerSuspected,
    events.TrainerSilent,
    events.TrainerBarred,
    events.RunPaused,
    events.Waiting,
    events.ResultResent,
)


class Origin(NamedTuple):
    """Where a run state comes from, and whether the run's aggregator is connected."""

    connected: bool
    source: str  # "live" or "folder"
    folder: str | None
    ahead_s: float = 0.0  # the clock of its aggregator minus ours


def head_values(run_state: RunState, origin: Origin, now: float) -> Values:
    """Return the single figures of a run. `now`, here and below, is by the clock of its aggregator."""
    newest, best, end, connected = run_state.newest, run_state.best, run_state.finished, origin.connected
    run = ObservedRun(run_state, now, connected)
    return {
        **{name: getattr(run_state, name) for name in (*_AS_IN_STATE, *_COUNTS)},
        "model": _model_text(run_state.model),
        "drawable": run_state.model is not None and drawable(run_state.model),
        **{name: _time(getattr(run_state, name)) for name in ("started_at", "progress_at", "event_at")},
        "finished": end and {name: getattr(end, name) for name in ("solved", "rounds", "value", "why", "detail")},
        "connected": connected,
        "state": run.status_text,
        "condition": run.condition,
        "source": origin.source,
        "folder": origin.folder,
        "round": 0 if newest is None else newest.round,
        "open": newest is not None and newest.closed_at is None and end is None,
        "rejections": dict(run_state.rejections),
        "left_s": None if run.left_s is None else _figure(run.left_s),
        "best": best and {"value_of": best.value_of, **{name: _figure(getattr(best, name)) for name in _BEST}},
        "measured": _measured(run_state.measured),
        "classes": _classes(run_state),
        "findings": _findings(run_state),
    }


def list_row(run_state: RunState, origin: Origin, now: float) -> Values:
    """Return the row of a run in the list of runs."""
    head = head_values(run_state, origin, now)
    kept = ("run", "task", "algorithm", "state", "condition", "connected", "source", "round", "rounds_max", "metric")
    shown = {name: head[name] for name in (*kept, "started_at", "event_at")}
    folder = None if origin.folder is None else Path(origin.folder).name
    return {**shown, "value": head["best"] and head["best"]["value"], "trainers": head["present"], "folder": folder}


def table_values(run_state: RunState, since: int | None) -> dict[str, Values]:
    """Return the tables of a run as columns: all rows, or the rows changed after event number `since`.

    With `since`, unchanged tables are left out.
    """
    rows: dict[str, Sequence[Any]] = {
        "rounds": _newer(run_state.rounds, since),
        "trainers": [one for one in run_state.trainers.values() if since is None or one.touched > since],
        "works": _newer(run_state.works, since)[-WORKS_KEPT_MAX:],
        "bests": _newer(run_state.bests, since),
        "feed": _newer(run_state.feed, since),
    }
    found: dict[str, Values] = {}
    for name, changed in rows.items():
        if changed or since is None:
            columns = _COLUMNS[name]
            found[name] = {key: [column(row) for row in changed] for key, column in columns.items()}
    if "feed" in found:
        found["feed"]["text"] = [printable(event_line(item.event, run_state.metric) or "") for item in rows["feed"]]
    return found


def all_values(run_state: RunState, origin: Origin, now: float) -> Values:
    """Return all values of a run."""
    head = head_values(run_state, origin, now)
    return {"now": _time(now), "head": head, **table_values(run_state, None)}


def changed_values(before: Mapping[str, Any], after: Mapping[str, Any]) -> Values:
    """Return the items of `after` that are new or differ from `before`."""
    return {name: value for name, value in after.items() if name not in before or before[name] != value}


def _newer(rows: Sequence[Any], since: int | None) -> Sequence[Any]:
    """Return the rows changed after that event; rows are sorted by their last change."""
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
    if isinstance(model, Trees):
        return f"at most {model.trees} trees of depth {model.depth}"
    sizes = model.sizes if isinstance(model, MLP) else (model.inputs, model.outputs)
    shape = "-".join(map(str, sizes))
    return f"MLP {shape} {model.hidden}" if isinstance(model, MLP) else f"linear {shape}"


def _measured(measured: Measured | None) -> Values | None:
    """Return the figures on held-out rows, on those trained on, and the error or the accuracy of each trainer."""
    if measured is None or not measured.held_out.rows:
        return None
    training = None if measured.training is None else _figures(msgspec.to_builtins(measured.training))
    trainers = {name: _own(one) for name, one in measured.trainers.items()}
    held_out = _figures(msgspec.to_builtins(measured.held_out))
    return {"held_out": held_out, "training": training, "trainers": trainers}


def _findings(run_state: RunState) -> Values | None:
    """Return the genes of the best candidate by name, the front by objective, and the correlations of columns.

    Genes are texts: an integer stays one, of any size.
    """
    if (findings := run_state.findings) is None:
        return None
    named = zip(findings.gene_names, findings.genes, findings.gene_types, strict=False)
    return {
        "genes": [[printable(name), gene_text(value), printable(kind)] for name, value, kind in named],
        "genes_all": 0 if run_state.model is None else run_state.model.num_parameters,
        "objectives": [printable(name) for name in findings.objectives],
        "front": [[_figure(value) for value in one.fitness] for one in findings.front],
        "correlated": [printable(name) for name in findings.correlated],
        "correlations": [[_figure(value) for value in row] for row in findings.correlations],
    }


def _figures(values: Values) -> Values:
    return {name: _figure(one) if isinstance(one, float) else one for name, one in values.items()}


def _classes(run_state: RunState) -> tuple[str, ...]:
    """Return the labels of the classes; none if the task names none."""
    schema = None if run_state.config is None else run_state.config.task.schema
    return () if schema is None else schema.target.classes


def _own(metrics: Metrics) -> float | None:
    value = metrics.accuracy if metrics.rmse is None else metrics.rmse
    return None if value is None else _figure(value)


def _time(at: float) -> float:
    return round(at, 3)


def _figure(value: float) -> float:
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else value  # msgspec writes the others as null


def _level(event: events.AnyEvent) -> str:
    if isinstance(event, events.RunFinished):
        return {"failed": "bad", "stopped": "warn"}.get(event.why, "good")
    if isinstance(event, events.Stalled | events.ResultRejected | events.SumAbandoned):
        return "bad"
    return "good" if isinstance(event, _GOOD) else "warn" if isinstance(event, _WARNINGS) else "info"


def _plain(*names: str) -> dict[str, Callable[[Any], Any]]:
    return {name: attrgetter(name) for name in names}


def _rounded(how: Callable[[float], float], *names: str) -> dict[str, Callable[[Any], Any]]:
    def read(name: str, row: Any) -> float | None:
        value: float | None = getattr(row, name)
        return None if value is None else how(value)

    return {name: partial(read, name) for name in names}


def _of_best(name: str, row: RoundRecord) -> float | None:
    value = None if row.best is None else getattr(row.best, name)
    return None if value is None else _figure(value)


_COLUMNS: dict[str, dict[str, Callable[[Any], Any]]] = {
    "rounds": {
        **_plain("round", "why", "invited", "results", "late", "rejected", "present", "bytes_up", "bytes_down"),
        **_plain("saturated", "restarted", "secure"),
        **_rounded(_time, "published_at", "closed_at"),
        **_rounded(_figure, "round_s"),
        **{name: partial(_of_best, name) for name in (*_BEST, *_OF_HELD_OUT)},
    },
    "trainers": {
        **_plain("name", "presence", "barred", "reason", "detail"),
        **_plain("num_examples", "results", "late", "rejected", "resent"),
        **_plain("memory", "version", "labels", "fingerprint"),
        "metrics": lambda one: ", ".join(f"{name} {value:.4g}" for name, value in one.metrics.items()),
        "differs": lambda one: "; ".join(f"{each.column or 'labels'}: {each.detail}" for each in one.differences),
        **_rounded(_time, "joined_at", "seen_at"),
        **_rounded(_figure, "train_s", "round_trip_s", "cpu"),
    },
    "works": {
        **_plain("round", "trainer", "staleness"),
        **_rounded(_time, "began_at", "ended_at"),
        **_rounded(_figure, "train_s"),
    },
    "bests": _plain("round"),
    "feed": {
        "seq": lambda item: item.touched,
        "at": lambda item: _time(item.at),
        "kind": lambda item: type(item.event).__struct_config__.tag,
        "level": lambda item: _level(item.event),
        "round": lambda item: getattr(item.event, "round", None),
        "trainer": lambda item: getattr(item.event, "trainer", None) or None,
    },
}
