"""The trainer's loop: receive, decode, step, save, start the worker, send. `Session` decides."""

import logging
import resource
from collections.abc import Callable
from typing import NamedTuple

from fedmq.errors import BadConfiguration
from fedmq.protocol.codec import encode
from fedmq.runtime.broker_connection import BrokerConnection
from fedmq.runtime.clock import Clock, earliest
from fedmq.runtime.rate_limit import RateLimited
from fedmq.security.signing import NoSigning, Signing
from fedmq.trainer.machine import (
    AggregatorReplaced,
    Input,
    KeysRead,
    LedgerFailed,
    Notice,
    Output,
    RowsRead,
    SumIdentity,
    WorkDone,
    WorkerBlocked,
    WorkerUnblocked,
    WorkFailed,
)
from fedmq.trainer.session import IGNORED_AGAIN_S, NOTICE_AGAIN_S, Session
from fedmq.trainer.spool import MemorySpool, Spool
from fedmq.trainer.worker import Answer, Blocked, Outcome, Refreshed, Unblocked, Worker
from fedmq.transport.address import DEFAULT_ADDRESS
from fedmq.transport.link import (
    Link,
    StopRequested,
    Tick,
)
from fedmq.transport.receive import receive

Usage = Callable[[], tuple[float, int]]  # CPU seconds of this process so far, and its peak resident bytes

log = logging.getLogger(__name__)


def usage_of_process() -> tuple[float, int]:
    """Return what this process has used; see `Usage`."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, used.ru_maxrss * 1024  # Linux counts kibibytes


class NewKeys(NamedTuple):
    """Facts from keys that were read again.

    They are the broker's address, the fingerprint of the aggregator's key, and this trainer's keys.
    """

    broker: str
    aggregator: str
    member: SumIdentity


class Trainer:
    """A trainer on a link, with a worker. Without a spool, pending results are in memory only.

    `on_trained`, if set, is called with the duration of each piece of work in seconds. `rows_of` returns the number of
    rows of a run, where runs may have different ones. `read_keys` reads the keys again.
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
        rows_of: Callable[[str], int] | None = None,
        read_keys: Callable[[], NewKeys] | None = None,
    ) -> None:
        self.session = session
        self.on_trained: Callable[[float], None] | None = None
        self.connection = BrokerConnection(broker, clock.now(), connect_timeout_s)
        self._link, self._worker, self._clock, self._usage = link, worker, clock, usage
        self._spool: Spool = spool or MemorySpool()
        self._signing: Signing = signing or NoSigning()
        self._rows_of, self._read_keys = rows_of or (lambda _run: session.num_examples), read_keys
        self._limiters = {again_s: RateLimited(log, clock, again_s) for again_s in (NOTICE_AGAIN_S, IGNORED_AGAIN_S)}

    @property
    def done(self) -> bool:
        return self.session.done

    @property
    def wake_at(self) -> float | None:
        return earliest(self.connection.wake_at, self.session.wake_at)

    @property
    def status(self) -> str:
        return self.session.status if self.connection.is_up else "the broker is not connected"

    def stop(self) -> None:
        """See `loop.Service`: finish or cancel the work within seconds, send Goodbye."""
        self._take(StopRequested())

    def reload(self) -> None:
        """Read the keys again now, and the rows after the current work; what cannot be used stays as it is."""
        if self._read_keys is not None:
            try:
                new = self._read_keys()
            except BadConfiguration as error:
                log.warning("the keys are not read again: %s", error)
            else:
                log.warning("the keys are read again")
                self.connection.address = new.broker
                if new.aggregator != self._spool.key:
                    self._spool.key = new.aggregator
                    self._take(AggregatorReplaced())
                self._take(KeysRead(new.member))
        self._worker.refresh()

    def step(self) -> None:
        """See `loop.Service`.

        Raises:
            Unreachable: the broker did not answer within the connect timeout.
        """
        idle = True
        for received in receive(self._link, self.connection, self._signing, self._clock):
            idle = False
            self._take(received)
        for done in self._worker.done():
            idle = False
            self._take(self._on_worker(done))
        if idle:
            self._take(Tick())
        self.connection.check(self._clock.now())

    def _on_worker(self, done: Outcome) -> Input:
        if isinstance(done, Refreshed):
            return RowsRead(done.outcome)
        if isinstance(done, Blocked):
            return WorkerBlocked(done.run, done.round)
        if isinstance(done, Unblocked):
            return WorkerUnblocked()
        if isinstance(done.outcome, BaseException):
            return WorkFailed(done.run, done.round, done.outcome)
        if self.on_trained is not None:
            self.on_trained(done.train_s)
        cpu_s, memory = self._usage()
        held = self._rows_of(done.run)
        answer = done.outcome if isinstance(done.outcome, Answer) else Answer(done.outcome, held)
        used, metrics = answer.num_examples, answer.metrics
        return WorkDone(done.run, done.round, done.outcome, done.train_s, used, cpu_s, memory, metrics, held)

    def _take(self, event: Input) -> None:
        output = self.session.step(event, self._clock.now())
        for notice in output.notices:
            self._log(notice)
        failed = self._store(output)
        if output.cancel:
            self._worker.cancel()
        if output.start is not None:
            self._worker.start(output.start)
        for topic, message, arrays in output.sends:
            if message.run not in failed:
                self._link.send(encode(topic, message, arrays, sign=self._signing.sign))
        for run in failed:
            self._take(LedgerFailed(run))

    def _store(self, output: Output) -> set[str]:
        """Bring to disk what must be there before anything is sent; return the runs whose ledgers cannot be written."""
        for mark in output.marks:
            self._spool.mark(mark)
        for spent in output.spends:
            self._spool.spend(spent)
        if output.answered is not None:
            self._spool.answer(output.answered)
        for result in output.keeps:
            self._spool.keep(result, self.session.name)
        failed = {run for run, entry in output.entries if not self._spool.record(run, entry)}
        for control in output.controls:
            self._spool.carry(control)
        for run, number in output.drops:
            self._spool.drop(run, number)
        return failed

    def _log(self, notice: Notice) -> None:
        level = logging.WARNING if notice.warning else logging.INFO
        if not log.isEnabledFor(level):  # two lines a round are not written by default
            return
        about = {"trainer": self.session.name, "run": notice.run, "round": notice.round}
        extra = {name: value for name, value in about.items() if value is not None}
        if notice.again_s:
            self._limiters[notice.again_s].warning(notice.kind, "%s", notice.text, extra=extra)
        else:
            log.log(level, "%s", notice.text, extra=extra)
