"""The events of a run: their counts, the state that they fold to, and what observers get of both through the broker.

However fast the rounds are, observers get a bounded number of messages a second. The next snapshot replaces lost ones.
"""

import math
from collections.abc import Callable, Collection, Mapping

import msgspec
import numpy as np

from fedmq.aggregator.departures import Departure, causes_text
from fedmq.aggregator.outbox import Outbox
from fedmq.aggregator.roster import RosterEntry
from fedmq.algorithms.base import Evaluation
from fedmq.algorithms.differences import Difference
from fedmq.algorithms.evaluation.figures import Measured
from fedmq.algorithms.findings import Findings
from fedmq.errors import Rejected
from fedmq.observe import events
from fedmq.observe.run_state import STALLED_S, RunState, drawable
from fedmq.protocol import topics
from fedmq.protocol.codec import EVENTS, EVENTS_BYTES_MAX, VIEW, VIEW_BYTES_MAX, Payload, pack
from fedmq.protocol.messages import Events, Result, Snapshot
from fedmq.tasks.task import Task

EVENTS_EVERY_S = 0.1
SNAPSHOT_EVERY_S = 1.0
SNAPSHOT_BYTES_S = 256 << 10  # large snapshots are sent less often
FINDINGS_EVERY_S = 1.0  # a front takes longer to find than a round of small candidates
EVENT_BYTES_MAX = 1 << 13  # of one event: a rejection quotes its message, a model has its parameters
EVENTS_MAX = EVENTS_BYTES_MAX // EVENT_BYTES_MAX  # of one message
REJECTION_EVENTS_MAX = 100  # in one term; all rejections are counted
MISSING_MAX = 5  # names of missing or declined trainers in one event

_encoder = msgspec.msgpack.Encoder()


class EventPublisher:
    """Reports the events of one run, in one term.

    `rejections` counts unusable messages by reason. With a `run_state`, events are applied to it and published to
    observers; without one they are only reported.
    """

    def __init__(self, outbox: Outbox, task: Task, run_state: RunState | None) -> None:
        self.rejections: dict[str, int] = {}
        self.best: events.Best | None = None
        self._outbox, self._task, self._run_state = outbox, task, run_state
        self.report = outbox.report  # an event that needs no figures from here
        self._late = self._rejected = self._saturated = 0  # since the close before
        self._bytes_received = self._bytes_sent = 0  # at the close before
        self._metrics: dict[str, tuple[float, int]] = {}  # of own code in this round: sum over rows, and the rows
        self._stalls_at: float | None = None  # when the open round counts as stalled; None: no round, or reported
        self._best_parameters = b""
        self._measured: Measured | None = None  # as reported last
        self._findings: Findings | None = None  # as reported last
        self._findings_at = -math.inf  # not before
        self._differences: Mapping[str, tuple[Difference, ...]] = {}  # as reported last, by trainer
        self._waiting: tuple[int, int, tuple[str, ...]] | None = None
        self._unsent: list[tuple[float, events.AnyEvent]] = []
        self._events_at = self._snapshot_at = -math.inf  # not before
        self._snapshot_seq = -1  # events in the last snapshot that was sent

    # --- events ---------------------------------------------------------------------------------------------------

    def joined(self, trainer: RosterEntry) -> None:
        """Report that a trainer is present, or has introduced itself."""
        about = trainer.introduction._asdict()
        self.report(events.TrainerJoined(trainer=trainer.name, num_examples=trainer.num_examples, **about))

    def left(self, name: str, departure: Departure | None = None) -> None:
        """Report that a trainer has disconnected, or has said goodbye for a reason."""
        about = {} if departure is None else departure._asdict()
        self.report(events.TrainerLeft(trainer=name, goodbye=departure is not None, **about))

    def waiting(self, present: int, needed: int, declined: Mapping[str, Departure]) -> None:
        """Report that too few trainers are present, and which have declined the run, once for each such state."""
        names = tuple(sorted(declined))
        if self._waiting != (present, needed, names):
            self._waiting = (present, needed, names)
            why = causes_text([declined[name] for name in names])
            self.report(events.Waiting(present=present, needed=needed, declined=names[:MISSING_MAX], why=why))

    def opened(self, number: int, invited: int, now: float) -> None:
        self._waiting, self._stalls_at = None, now + STALLED_S
        self.report(events.RoundPublished(round=number, invited=invited))

    def progressed(self, now: float) -> None:
        """Note that a result of the open round has arrived: the round is not stalled."""
        if self._stalls_at is not None:
            self._stalls_at = now + STALLED_S

    def accepted(self, result: Result, staleness: int, answer_s: float, now: float, *, saturated: int = 0) -> None:
        """Report an accepted result; `answer_s` is 0 if it answers no open round. So many of its losses saturate."""
        self._late += staleness > 0
        self._saturated += saturated
        self.progressed(now)
        self.report(
            events.ResultAccepted(
                round=result.round,
                trainer=result.trainer,
                staleness=staleness,
                train_s=result.train_s,
                answer_s=answer_s,
                cpu_s=result.cpu_s,
                memory=result.memory,
                metrics=result.metrics,
            )
        )
        for name, value in (result.metrics or {}).items() if not staleness else ():
            total, rows = self._metrics.get(name, (0.0, 0))
            self._metrics[name] = total + value * result.num_examples, rows + result.num_examples

    def rejected(self, trainer: str, rejected: Rejected) -> None:
        """Count and report an unusable message; `trainer` is "" if its sender is unknown."""
        self.rejections[rejected.reason] = self.rejections.get(rejected.reason, 0) + 1
        self._rejected += 1
        if sum(self.rejections.values()) <= REJECTION_EVENTS_MAX:
            self.report(events.ResultRejected(trainer=trainer, reason=rejected.reason, detail=rejected.detail))

    def check_stalled(self, number: int, missing: Collection[str], now: float) -> None:
        """Report once that the open round has had no result for STALLED_S."""
        if self._stalls_at is not None and now >= self._stalls_at:
            self._stalls_at = None
            names = tuple(sorted(missing)[:MISSING_MAX])
            self.report(events.Stalled(round=number, seconds=STALLED_S, missing=names))

    def closed(
        self,
        number: int,
        why: events.Why,
        *,
        results: int,
        round_s: float,
        present: int,
        invited: int,
        suspects: Collection[str],
        evaluation: Evaluation | None,
        bytes_received: int,
        differences: Mapping[str, tuple[Difference, ...]],
        secure: bool,
        find: Callable[[], Findings | None],
        now: float,
    ) -> None:
        """Report a closed round. The `suspects` are present and have not answered; bytes are totals of this term."""
        for name in sorted(suspects):
            self.report(events.TrainerSuspected(trainer=name))
        bytes_sent = self._outbox.bytes_sent
        self.best = self.best_of(evaluation)
        self.report(
            events.RoundClosed(
                round=number,
                why=why,
                results=results,
                round_s=round_s,
                present=present,
                invited=invited,
                best=self.best,
                late=self._late,
                rejected=self._rejected,
                bytes_up=bytes_received - self._bytes_received,
                bytes_down=bytes_sent - self._bytes_sent,
                saturated=self._saturated,
                metrics={name: total / rows for name, (total, rows) in sorted(self._metrics.items())} or msgspec.UNSET,
                secure=secure,
                restarted=evaluation is not None and evaluation.restarted,
            )
        )
        self._saturated, self._late, self._rejected, self._stalls_at, self._metrics = 0, 0, 0, None, {}
        self._bytes_received, self._bytes_sent = bytes_received, bytes_sent
        measured = None if evaluation is None else evaluation.measured
        if measured is not None and measured != self._measured:
            self._measured = measured
            self.report(events.ModelMeasured(round=number, measured=measured.for_observers()))
        if now >= self._findings_at:
            found = find()
            self._report_findings(number, found)
            of_columns = found is not None and self._findings is None  # they cost time, and observers get none
            self._findings_at = math.inf if of_columns else now + FINDINGS_EVERY_S
        for name in sorted({*differences, *self._differences}):
            if differences.get(name, ()) != self._differences.get(name, ()):
                self.report(events.SiteDiffers(round=number, trainer=name, differences=differences.get(name, ())))
        self._differences = dict(differences)
        if evaluation is not None and drawable(self._task.model):
            parameters = np.ascontiguousarray(evaluation.parameters, "<f8").tobytes()
            if parameters != self._best_parameters:
                self._best_parameters = parameters
                self.report(events.BestChanged(round=number, parameters=parameters))

    def finished(
        self, evaluation: Evaluation | None, findings: Findings | None, rounds: int, why: events.End, detail: str
    ) -> None:
        self._report_findings(rounds, findings)
        best = self.best_of(evaluation)
        value = None if best is None else best.value
        self.report(events.RunFinished(solved=why == "solved", rounds=rounds, value=value, why=why, detail=detail))

    def _report_findings(self, number: int, findings: Findings | None) -> None:
        shown = None if findings is None else findings.for_observers()
        if shown is not None and shown != self._findings:
            self._findings = shown
            self.report(events.FindingsChanged(round=number, findings=shown))

    def best_of(self, evaluation: Evaluation | None) -> events.Best | None:
        """Return the figures of an evaluation that observers show."""
        if evaluation is None:
            return None
        score = evaluation.score
        held_out = evaluation.measured.held_out if evaluation.measured and score.of == "held-out" else None
        of_held_out = {} if held_out is None else {name: getattr(held_out, name) for name in events.HELD_OUT_FIGURES}
        fitted = evaluation.loss, evaluation.correct, evaluation.rows
        # A private run measures its model once: with held-out rows, on those alone.
        apart = held_out is not None and fitted != (score.loss, score.correct, score.rows)
        return events.Best(
            value=self._task.value(score.loss, score.correct, score.rows),
            coverage=evaluation.coverage,
            fitness=evaluation.fitness_best,
            fitness_mean=evaluation.fitness_mean,
            fitness_worst=evaluation.fitness_worst,
            diversity=evaluation.diversity,
            value_of=score.of,
            training=self._task.value(*fitted) if apart else None,
            **of_held_out,
        )

    # --- observers ------------------------------------------------------------------------------------------------

    @property
    def wake_at(self) -> float | None:
        """When `publish` has something to send, on the clock's `now`; None: not before the next event."""
        if self._run_state is None:
            return None
        if self._unsent:
            return self._events_at
        return None if self._snapshot_seq == self._run_state.seq else self._snapshot_at

    def on_broker(self) -> None:
        """Send a snapshot soon: a new broker has kept none."""
        self._snapshot_at = -math.inf
        self._snapshot_seq = -1

    def apply(self, at: float) -> None:
        """Apply the events in the outbox, which happened `at` seconds since 1970, to the state of the run."""
        if self._run_state is not None:
            for event in self._outbox.events:
                self._run_state.apply(at, event)
                self._unsent.append((at, event))

    def publish(self, now: float, *, last: bool) -> None:
        """Send observers what is due now, or everything if it is the `last` time."""
        if (state := self._run_state) is None:
            return
        if self._unsent and (last or now >= self._events_at):
            self._events_at = now + EVENTS_EVERY_S
            first = state.seq - len(self._unsent)
            for start in range(0, len(self._unsent), EVENTS_MAX):
                part = self._unsent[start : start + EVENTS_MAX]
                message = Events(run=state.run, term=state.term, first=first + start, count=len(part))
                self._outbox.send_observers(topics.EVENTS + state.run, message, _bytes(EVENTS, _encoder.encode(part)))
            self._unsent = []
        if self._snapshot_seq != state.seq and (last or now >= self._snapshot_at):
            self._snapshot_seq = state.seq
            content = _encoder.encode(state)
            self._snapshot_at = now + max(SNAPSHOT_EVERY_S, len(content) / SNAPSHOT_BYTES_S)
            if len(content) <= VIEW_BYTES_MAX:
                snapshot = Snapshot(run=state.run, term=state.term, seq=state.seq)
                self._outbox.send_observers(topics.SNAPSHOTS + state.run, snapshot, _bytes(VIEW, content))


def _bytes(name: str, content: bytes) -> Payload:
    return pack({name: np.frombuffer(content, np.uint8)})
