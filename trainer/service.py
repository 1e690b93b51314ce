"""The trainer's loop: receive, decode, step, start the worker, send. It decides nothing; `session` does."""

from __future__ import annotations

import logging
import resource
from collections.abc import Callable

import msgspec

from fedmq.errors import BadData, CodeRefused, Rejected
from fedmq.protocol.codec import decode, encode
from fedmq.protocol.messages import Accepted, Beacon, Finished, Refused, Result, Round, Welcome
from fedmq.runtime.broker_connection import BrokerConnection
from fedmq.runtime.clock import Clock, earliest
from fedmq.runtime.rate_limit import RateLimited
from fedmq.security.signing import NoSigning, Signing
from fedmq.trainer.machine import (
    BrokerConnected,
    BrokerDisconnected,
    Effects,
    Event,
    MessageReceived,
    RunDeclined,
    StopRequested,
    Tick,
    WorkDone,
    WorkFailed,
)
from fedmq.trainer.session import RUNS_MAX, Session
from fedmq.trainer.spool import Spool
from fedmq.trainer.worker import Done, Worker
from fedmq.transport.address import DEFAULT_ADDRESS
from fedmq.transport.link import Delivered, Link, LinkEvent, LinkRefused, LinkUp

IGNORED_AGAIN_S = 3600.0  # for a run that is ignored nothing changes soon

Usage = Callable[[], tuple[float, int]]  # CPU seconds of this process in all, and the most bytes that it has held

log = logging.getLogger(__name__)


def usage_of_process() -> tuple[float, int]:
    """What this process has used; see `Usage`."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, used.ru_maxrss * 1024  # Linux counts kibibytes


class Trainer:
    """A trainer on a link, with a worker; `step` takes what has come. Without a spool, results live in memory only.

    `rejections` counts, by reason, the frames that could not be used, `refusals` the results that were refused;
    `trained` is told how long each piece of work took.
    """

    def __init__(
        self,
        link: Link,
        session: Session,
        worker: Worker,
        *,
        clock: Clock,
        broker: str = DEFAULT_ADDRESS,
        connect_timeout_s: float | None = None,
        spool: Spool | None = None,
        signing: Signing | None = None,
        usage: Usage = lambda: (0.0, 0),
    ) -> None:
        self.session = session
        self.rejections: dict[str, int] = {}
        self.refusals: dict[str, int] = {}
        self.trained: Callable[[float], None] | None = None
        self._link, self._worker, self._clock = link, worker, clock
        self.connection = BrokerConnection(broker, clock.now(), connect_timeout_s)
        self._spool = spool
        self._signing: Signing = signing or NoSigning()
        self._failure: Exception | None = None
        self._fits: set[str] = set()  # runs whose task our rows fit,
        self._unfit: dict[str, BadData] = {}  # and those whose they do not, of which nobody knows whether they go on
        self._usage = usage
        self._limited, self._of_ignored = RateLimited(log, clock), RateLimited(log, clock, IGNORED_AGAIN_S)

    @property
    def done(self) -> bool:
        """See `loop.Service`."""
        return self.session.done

    @property
    def wake_at(self) -> float | None:
        """See `loop.Service`."""
        return earliest(self.connection.wake_at, self.session.wake_at)

    @property
    def status(self) -> str:
        """See `loop.Service`."""
        working, runs = self.session.working, self.session.runs
        if not self.connection.is_up:
            return "the broker is not there"
        if working is not None:
            return f"round {working[1]} of run {working[0]}, working"
        if not runs:
            return "no run is published"
        run, known = next(reversed(runs.items()))
        if not known.round:
            return f"run {run}, waiting for a round"
        return f"round {known.round} of run {run}, {'its result is under way' if known.held else 'done'}"

    def stop(self) -> None:
        """See `loop.Service`: finish or give up the work within seconds, say goodbye."""
        self._take(StopRequested())

    def step(self) -> None:
        """See `loop.Service`.

        Raises:
            Unreachable: the broker did not answer in the time allowed.
            BadData: the rows do not fit the task of a run that goes on, nor have they fitted another's; the trainer has
                said goodbye.
        """
        came = False
        for news in self._link.receive():
            if (event := self._event(news)) is not None:
                came = True
                self._take(event)
        for done in self._worker.done():
            came = True
            self._finished(done)
        if not came:  # every event tells the time as well
            self._take(Tick())
        for run, failure in self._unfit.items():
            if not self._fits and self._failure is None and self.session.is_live(run):
                self._fail(failure)
        if self._failure is not None:
            raise self._failure
        self.connection.check(self._clock.now())

    def _event(self, news: LinkEvent) -> Event | None:
        if isinstance(news, LinkUp):
            self.connection.up()
            return BrokerConnected()
        if isinstance(news, LinkRefused):
            self.connection.refused()
            return BrokerDisconnected()
        if not isinstance(news, Delivered):
            self.connection.down()
            return BrokerDisconnected()
        try:
            packet = decode(news.frames)
            self._signing.check(packet, self._clock.now())
        except Rejected as rejected:
            self._reject(rejected)
            return None
        message = packet.message
        if isinstance(message, Welcome):
            log.info("takes part in run %s", message.run, extra=self._about(message.run))
        elif isinstance(message, Finished):
            about = self._about(message.run, message.rounds)
            log.info("run %s is finished after %s rounds", message.run, message.rounds, extra=about)
        elif isinstance(message, Refused):
            self.refusals[message.reason] = self.refusals.get(message.reason, 0) + 1
            text, about = "the result of round %s was refused: %s: %s", self._about(message.run, message.round)
            details = message.round, message.reason, message.detail
            self._limited.warning(f"refused {message.reason}", text, *details, extra=about)
        return MessageReceived(packet)

    def _finished(self, done: Done) -> None:
        if not isinstance(done.outcome, Exception):
            about = self._about(done.run, done.round)
            log.info("round %s of run %s took %.3f s", done.round, done.run, done.train_s, extra=about)
            if self.trained is not None:
                self.trained(done.train_s)
            self._fits.add(done.run)
            self._take(WorkDone(done.run, done.round, done.outcome, done.train_s))
            return
        self._take(WorkFailed(done.run, done.round))
        if isinstance(done.outcome, CodeRefused):
            self._take(RunDeclined(done.run))
        if isinstance(done.outcome, Rejected):
            self._reject(done.outcome)
        elif isinstance(done.outcome, BadData) and self._fits - {done.run}:
            self._take(RunDeclined(done.run))
            self._limited.warning(str(done.outcome), "takes no part: %s", done.outcome, extra=self._about(done.run))
        elif isinstance(done.outcome, BadData) and not self.session.is_live(done.run):
            self._unfit[done.run] = done.outcome
        else:
            self._fail(done.outcome)

    def _fail(self, failure: Exception) -> None:
        self._failure = failure
        self.stop()
        self.stop()  # a second one does not wait

    def _reject(self, rejected: Rejected) -> None:
        self.rejections[rejected.reason] = self.rejections.get(rejected.reason, 0) + 1
        about = {"trainer": self.session.name}
        if isinstance(rejected, CodeRefused):
            self._limited.warning(str(rejected), "takes no part: %s", rejected, extra=about)
        else:
            self._limited.warning(rejected.reason, "what came cannot be used: %s", rejected, extra=about)

    def _take(self, event: Event) -> None:
        effects: Effects = self.session.step(event, self._clock.now())
        message = event.packet.message if isinstance(event, MessageReceived) else None
        if isinstance(message, Round | Beacon | Accepted):
            for run, number in effects.drops:
                if run == message.run:  # that of another has made room for this one
                    about = self._about(run, number)
                    log.info("the result of round %s of run %s is accepted", number, run, extra=about)
        self._save(effects)
        if effects.cancel:
            self._worker.cancel()
        if effects.start is not None:
            self._worker.start(effects.start)
        for topic, outgoing, arrays in effects.sends:
            if isinstance(outgoing, Result):
                cpu_s, memory = self._usage()
                outgoing = msgspec.structs.replace(outgoing, cpu_s=cpu_s, memory=memory)
            self._link.send(encode(topic, outgoing, arrays, sign=self._signing.sign))

    def _save(self, effects: Effects) -> None:
        for run in effects.leaves:
            log.warning(
                "run %s: another round would go beyond --max-evaluations %s: takes no further part in it",
                run,
                self.session.budget.cap,
                extra=self._about(run),
            )
        for run in effects.ignores:
            text = "run %s is ignored: %s runs are followed, the most; it waits until one of them ends or falls silent"
            self._of_ignored.warning(run, text, run, RUNS_MAX, extra=self._about(run))
        if self._spool is None:
            return
        for mark in effects.marks:
            self._spool.mark(mark)
        for spent in effects.spends:
            self._spool.spend(spent)
        for kept in effects.keeps:
            self._spool.keep(kept, self.session.name, self.session.num_examples)
        for run, number in effects.drops:
            self._spool.drop(run, number)

    def _about(self, run: str, number: int | None = None) -> dict[str, object]:
        """The fields of a log line about a run, or about one of its rounds."""
        return {"run": run, "trainer": self.session.name, **({} if number is None else {"round": number})}
