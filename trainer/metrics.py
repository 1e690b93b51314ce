"""What a trainer tells of itself to Prometheus; docs/reference/metrics.md lists it.

Knows nothing of how it is asked, and tells nothing of the rows but how many they are. All of it is read from another
thread: one value, or a copy, at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, get_args

from fedmq import __version__
from fedmq.errors import RejectReason
from fedmq.trainer.service import Trainer

if TYPE_CHECKING:
    from fedmq.observe.metrics import Metrics

REASONS: tuple[str, ...] = get_args(RejectReason)


def measure(trainer: Trainer) -> Callable[[Metrics], None]:
    """What puts the trainer's metrics where they are asked for."""
    session = trainer.session

    def put(metrics: Metrics) -> None:
        count, gauge = metrics.counter, metrics.gauge
        metrics.info(
            "fedmq_trainer_info", "About this trainer.", lambda: {"trainer": session.name, "version": __version__}
        )
        trainer.trained = metrics.histogram(
            "fedmq_trainer_train_seconds", "How long the local work for a round took; its count is the rounds worked."
        )
        count(
            "fedmq_trainer_rejected_total",
            "Messages that cannot be used, by reason.",
            lambda: {reason: trainer.rejections.get(reason, 0) for reason in REASONS},
            "reason",
        )
        count(
            "fedmq_trainer_refused_total",
            "Results that an aggregator refused, by reason.",
            lambda: {reason: trainer.refusals.get(reason, 0) for reason in REASONS},
            "reason",
        )
        count(
            "fedmq_trainer_broker_contacts_total",
            "Times that the broker was reached; one more than reconnections.",
            lambda: trainer.connection.contacts,
        )
        gauge("fedmq_trainer_broker_connected", "Whether the broker is there.", lambda: trainer.connection.is_up)
        gauge("fedmq_trainer_working", "Whether it works on a round.", lambda: session.working is not None)
        gauge(
            "fedmq_trainer_held_results",
            "Results that nobody has acknowledged yet.",
            lambda: sum(len(known.held) for known in list(session.runs.values())),
        )
        gauge("fedmq_trainer_runs", "Runs that it has heard of.", lambda: len(session.runs))
        gauge("fedmq_trainer_rows", "Rows that it trains on.", lambda: session.num_examples)

    return put
