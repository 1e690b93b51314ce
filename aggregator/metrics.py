"""Prometheus metrics of an aggregator, counted from its events; docs/reference/metrics.md lists them.

Values that are not in events are read from another thread: one value, or a copy, at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, get_args

from fedmq import __version__
from fedmq.errors import RejectReason
from fedmq.observe import events
from fedmq.observe.run_state import Condition, ObservedRun, TrainerPresence

if TYPE_CHECKING:
    from fedmq.aggregator.service import Aggregator
    from fedmq.observe.metrics import Metrics
    from fedmq.observe.run_state import RunState
    from fedmq.runtime.clock import Clock


class Tally:
    """Counts the events of one life of an aggregator; `round_s` and `answer_s` are called with each duration."""

    def __init__(self) -> None:
        self.counts: Counter[type[events.Event]] = Counter()
        self.closed = dict.fromkeys(get_args(events.Why), 0)
        self.late = 0
        self.best: events.Best | None = None
        self.round_s: Callable[[float], None] | None = None
        self.answer_s: Callable[[float], None] | None = None

    def held_out(self) -> Mapping[str, float]:
        """Return the figures of the best model on held-out rows; none without such rows."""
        if self.best is None or self.best.value_of != "held-out":
            return {}
        figures = {"value": self.best.value, **{name: getattr(self.best, name) for name in events.HELD_OUT_FIGURES}}
        return {name: one for name, one in figures.items() if one is not None}

    def __call__(self, event: events.AnyEvent) -> None:
        self.counts[type(event)] += 1
        if isinstance(event, events.ResultAccepted):
            self.late += event.staleness > 0
            if event.answer_s and self.answer_s is not None:
                self.answer_s(event.answer_s)
        elif isinstance(event, events.RoundClosed):
            self.closed[event.why] += 1
            self.best = event.best or self.best
            if self.round_s is not None:
                self.round_s(event.round_s)


def aggregator_metrics(service: Aggregator, view: RunState, tally: Tally, clock: Clock) -> Callable[[Metrics], None]:
    """Return a function that adds the metrics of a run; `view` is its state."""

    def put(metrics: Metrics) -> None:
        _put_counts(metrics, service, tally)
        _put_learning(metrics, tally)
        _put_evaluation(metrics, service, view, clock)

    return put


def _put_learning(metrics: Metrics, tally: Tally) -> None:
    def fitness() -> Mapping[str, float]:
        if (best := tally.best) is None:
            return {}
        return {"best": best.fitness, "mean": best.fitness_mean, "worst": best.fitness_worst}

    tally.round_s = metrics.histogram(
        "fedmq_aggregator_round_seconds", "Duration of a round, from its publication to its close."
    )
    tally.answer_s = metrics.histogram(
        "fedmq_aggregator_answer_seconds", "Time from a round's publication to the arrival of a result for it."
    )
    metrics.gauge("fedmq_aggregator_fitness", "Fitness in the pool at the last close.", fitness, "of")
    metrics.gauge(
        "fedmq_aggregator_value",
        "The task's metric (see fedmq_aggregator_info) of the best model.",
        lambda: None if tally.best is None else tally.best.value,
    )
    metrics.gauge("fedmq_aggregator_held_out", "Figures of the best model on held-out rows.", tally.held_out, "figure")


def _put_counts(metrics: Metrics, service: Aggregator, tally: Tally) -> None:
    count, counts = metrics.counter, tally.counts
    count("fedmq_aggregator_rounds_total", "Closed rounds, by reason.", lambda: tally.closed, "why")
    count("fedmq_aggregator_results_total", "Accepted results.", lambda: counts[events.ResultAccepted])
    count("fedmq_aggregator_results_late_total", "Accepted results of an earlier round.", lambda: tally.late)
    count(
        "fedmq_aggregator_results_resent_total",
        "Results that a trainer sent again; each counts once.",
        lambda: counts[events.ResultResent],
    )
    count(
        "fedmq_aggregator_rejected_total",
        "Rejected messages, by reason.",
        lambda: {reason: service.rounds.rejections.get(reason, 0) for reason in get_args(RejectReason)},
        "reason",
    )
    count("fedmq_aggregator_received_bytes_total", "Received bytes.", lambda: service.rounds.bytes_received)
    count(
        "fedmq_aggregator_sent_bytes_total",
        "Sent bytes; the broker multiplies them.",
        lambda: service.rounds.bytes_sent,
    )
    count(
        "fedmq_aggregator_stalls_total", "Stalls: times without a result for a while.", lambda: counts[events.Stalled]
    )
    count(
        "fedmq_aggregator_broker_contacts_total",
        "Connections to the broker; one more than reconnections.",
        lambda: service.connection.contacts,
    )


def _put_evaluation(metrics: Metrics, service: Aggregator, view: RunState, clock: Clock) -> None:
    def about() -> dict[str, str]:
        words = {"run": view.run, "task": view.task, "strategy": view.algorithm, "metric": view.metric}
        return {**words, "robust": view.robust, "version": __version__}

    def presence() -> Mapping[str, float]:
        here = Counter[str](trainer.presence for trainer in list(view.trainers.values()))
        return {kind: here[kind] for kind in get_args(TrainerPresence)}

    def state() -> Mapping[str, float]:
        condition = ObservedRun(view, clock.wall(), connected=True).condition
        return {name: float(name == condition) for name in get_args(Condition) if name != "interrupted"}

    def invited() -> float:
        return float(0 if view.newest is None else view.newest.invited)

    def is_open() -> float:
        newest = view.newest
        return float(newest is not None and newest.closed_at is None)

    gauge = metrics.gauge
    metrics.info("fedmq_aggregator_info", "About this run.", about)
    gauge("fedmq_aggregator_state", "1 for the current condition of the run, 0 for the others.", state, "state")
    gauge("fedmq_aggregator_trainers", "Trainers of the run, by presence.", presence, "presence")
    gauge("fedmq_aggregator_trainers_needed", "Trainers required to open a round.", lambda: view.min_trainers)
    gauge(
        "fedmq_aggregator_term",
        "Term of the aggregator: higher after each restart.",
        lambda: view.term,
    )
    gauge("fedmq_aggregator_epoch", "Deprecated: the former name of fedmq_aggregator_term.", lambda: view.term)
    gauge("fedmq_aggregator_invited", "Trainers that the newest round waits for.", invited)
    gauge("fedmq_aggregator_round", "The newest round.", lambda: service.rounds.round)
    gauge("fedmq_aggregator_rounds_max", "The maximum number of rounds.", lambda: view.rounds_max)
    gauge("fedmq_aggregator_open_rounds", "Open rounds: 0 or 1.", is_open)
    gauge(
        "fedmq_aggregator_progress_timestamp_seconds",
        "Time of the last opened or closed round, or result; seconds since 1970.",
        lambda: view.progress_at,
    )
    gauge("fedmq_aggregator_broker_connected", "1 while connected to the broker.", lambda: service.connection.is_up)
