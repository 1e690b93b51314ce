"""Prometheus metrics of a trainer; docs/reference/metrics.md lists them.

Of the rows they reveal only the number. They are read from another thread: one value, or a copy, at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, get_args

from fedmq import __version__
from fedmq.errors import RejectReason
from fedmq.trainer.service import Trainer
from fedmq.trainer.session import OTHER_REASON

if TYPE_CHECKING:
    from fedmq.observe.metrics import Metrics

REASONS: tuple[str, ...] = get_args(RejectReason)


def trainer_metrics(trainer: Trainer) -> Callable[[Metrics], None]:
    """Return a function that registers the trainer's metrics."""
    session = trainer.session

    def put(metrics: Metrics) -> None:
        count, gauge = metrics.counter, metrics.gauge
        metrics.info(
            "fedmq_trainer_info", "About this trainer.", lambda: {"trainer": session.name, "version": __version__}
        )
        trainer.on_trained = metrics.histogram(
            "fedmq_trainer_train_seconds",
            "Duration of the local work for a round.",
        )
        count(
            "fedmq_trainer_rejected_total",
            "Rejected messages, by reason.",
            lambda: {reason: session.rejections.get(reason, 0) for reason in REASONS},
            "reason",
        )
        count(
            "fedmq_trainer_refused_total",
            "Results that an aggregator refused, by reason.",
            lambda: {reason: session.refusals.get(reason, 0) for reason in (*REASONS, OTHER_REASON)},
            "reason",
        )
        count(
            "fedmq_trainer_broker_contacts_total",
            "Connections to the broker; one more than reconnections.",
            lambda: trainer.connection.contacts,
        )
        gauge("fedmq_trainer_broker_connected", "1 while connected to the broker.", lambda: trainer.connection.is_up)
        gauge("fedmq_trainer_working", "1 while it works on a round.", lambda: session.working is not None)
        gauge(
            "fedmq_trainer_held_results",
            "Results that are not acknowledged yet.",
            lambda: sum(len(followed.pending) for followed in list(session.runs.values())),
        )
        gauge("fedmq_trainer_runs", "Runs that it follows.", lambda: len(session.runs))
        gauge("fedmq_trainer_rows", "Rows that it trains on.", lambda: session.num_examples)

    return put
