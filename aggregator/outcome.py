"""The report of a run that is over, from its rounds."""

from collections.abc import Sequence

from fedmq.aggregator.rounds import Rounds
from fedmq.models.trained_model import TrainedModel
from fedmq.runs.records import Close
from fedmq.runs.report import Report, TrainerReport, make_report
from fedmq.runs.software import Software


def report_of(
    rounds: Rounds, closes: list[Close], software: Sequence[Software], ended: float
) -> tuple[Report, TrainedModel | None]:
    """Return the report of a run, and its model; `ended` is in seconds since 1970."""
    assert rounds.why is not None, "the run must be over"
    differences = rounds.differences
    trainers = [
        TrainerReport(
            one.name,
            one.num_examples,
            one.results,
            one.late,
            one.rejected,
            one.resent,
            rounds.roster[one.name].is_silent,
            reason="" if one.departure is None else one.departure.reason,
            detail="" if one.departure is None else one.departure.detail,
            differences=differences.get(one.name, ()),
            metrics=dict(one.metrics),
        )
        for one in rounds.roster.trainers
    ]
    return make_report(
        rounds.config,
        closes,
        rounds.evaluation,
        trainers,
        why=rounds.why,
        failure=rounds.failure,
        rejections=rounds.rejections,
        bytes_up=rounds.bytes_received,
        bytes_down=rounds.bytes_sent,
        ended=ended,
        software=software,
    )
