"""The aggregator's loop: receive, decode, step, save, send. It decides nothing; `rounds` does.

Opens a run in a store (a new one, or one to be continued under a higher term) and steps it until it is finished.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec

from fedmq.aggregator.event_publisher import Bulletin
from fedmq.aggregator.machine import (
    BrokerDown,
    BrokerUp,
    Effects,
    Event,
    Heard,
    KeepClose,
    KeepResult,
    Malformed,
    Outgoing,
    Phase,
    Tick,
)
from fedmq.aggregator.roster import Roster
from fedmq.aggregator.rounds import Rounds
from fedmq.aggregator.run_events import best_of
from fedmq.algorithms.base import Strategy
from fedmq.algorithms.checkpoint import dump
from fedmq.errors import Rejected
from fedmq.observe import events
from fedmq.observe.run_state import RunState
from fedmq.protocol.codec import decode, encode
from fedmq.protocol.messages import Beacon, Finished
from fedmq.protocol.run_config import RunConfig
from fedmq.runs.replay import Replayed, replay
from fedmq.runs.store import Close, Store, StoredResult
from fedmq.runtime.broker_connection import BrokerConnection
from fedmq.runtime.clock import Clock, earliest
from fedmq.security.signing import NoSigning, Signing
from fedmq.transport.address import DEFAULT_ADDRESS
from fedmq.transport.link import Delivered, Link, LinkEvent, LinkRefused, LinkUp

CHECKPOINT_ROUNDS = 100
FAREWELL_S = 2.0  # to tell the trainers that the run is over, when the broker is not there

Watch = Callable[[events.AnyEvent], None]


class Aggregator:
    """One life of a run's aggregator, on a link and a store; `step` takes what has come.

    `watch` is told of each event; with a `view`, of what happened in earlier lives, observers are told through the
    broker as well.
    """

    def __init__(
        self,
        link: Link,
        store: Store,
        strategy: Strategy[Any],
        *,
        clock: Clock,
        watch: Watch,
        broker: str = DEFAULT_ADDRESS,
        connect_timeout_s: float | None = None,
        signing: Signing | None = None,
        view: RunState | None = None,
    ) -> None:
        config = store.config
        assert config is not None, "the store must have been begun"
        self.config: RunConfig = config
        replayed = replay(store, config.task, strategy, config.seed)
        again = store.term > 0
        self.rounds = _rounds(store, config, strategy, replayed, clock)
        self.stopping = False
        self._keep_rounds = config.limits.keep_rounds
        self._told, self._farewell_by = False, math.inf
        self._best = replayed.closes[-1].best if replayed.closes else None
        self.bytes_up = self.bytes_down = 0
        self._bytes_told = (0, 0)
        self._bulletin = None if view is None else Bulletin(view)
        self._link, self._store, self._clock, self._watch = link, store, clock, watch
        self._signing: Signing = signing or NoSigning()
        self.connection = BrokerConnection(broker, clock.now(), connect_timeout_s)
        self._tell(events.RunStarted(config=config, term=self.rounds.term, again=again, round=self.rounds.round))

    @property
    def done(self) -> bool:
        """See `loop.Service`: the run is over, and the trainers were told so, or could not be for a while."""
        if self.rounds.phase is not Phase.FINISHED:
            return self.stopping
        return self.stopping or self._told or self._clock.now() >= self._farewell_by

    @property
    def wake_at(self) -> float | None:
        if self.rounds.phase is Phase.FINISHED:
            return self._farewell_by
        told = None if self._bulletin is None or not self.connection.is_up else self._bulletin.wake_at
        return earliest(self.connection.wake_at, self.rounds.wake_at, told)

    @property
    def status(self) -> str:
        rounds, present = self.rounds, len(self.rounds.roster.present)
        needed = self.config.limits.min_trainers
        people = f"{present} trainers" if present >= needed else f"waiting for trainers ({present} of {needed})"
        if not self.connection.is_up:
            people = "the broker is not there"
        best = "" if self._best is None else f", best {self._best.value:.4g}"
        return f"{'paused, ' if rounds.paused else ''}round {rounds.round}, {people}{best}"

    def stop(self) -> None:
        """See `loop.Service`: nothing is in flight between two steps, and the run can be continued."""
        self._store.commit()
        self.stopping = True
        self._send_bulletin()

    def step(self) -> None:
        effects = Effects()
        came = False
        for news in self._link.receive():
            came = True
            self._take(self._event(news), effects)
        if not came:  # every event tells the time as well
            self._take(Tick(), effects)
        if self.rounds.phase is Phase.FINISHED and self._farewell_by == math.inf:
            self._farewell_by = self._clock.now() + FAREWELL_S
        self._perform(effects)
        self._send_bulletin()
        if not self.done:
            self.connection.check(self._clock.now())

    def _event(self, news: LinkEvent) -> Event:
        if isinstance(news, LinkUp):
            self.connection.up()
            if self._bulletin is not None:
                self._bulletin.on_broker()
            return BrokerUp()
        if isinstance(news, LinkRefused):
            self.connection.refused()
            return BrokerDown()
        if not isinstance(news, Delivered):
            self.connection.down()
            return BrokerDown()
        self.bytes_up += sum(map(len, news.frames))
        try:
            packet = decode(news.frames)
            self._signing.check(packet, self._clock.now())
            return Heard(packet)
        except Rejected as rejected:
            return Malformed(rejected)

    def _take(self, event: Event, effects: Effects) -> None:
        more = self.rounds.step(event, self._clock.now())
        effects.saves += more.saves
        effects.sends += more.sends
        effects.events += more.events

    def _perform(self, effects: Effects) -> None:
        """Save, commit, then send: whoever is told that a result is accepted may forget it.

        What nobody is told of yet need not be on disk yet: results share the commit that comes before the next send, or
        that of their round's close.
        """
        for save in effects.saves:
            if isinstance(save, KeepResult):
                self._store.keep_result(StoredResult(*save))
                continue
            evaluation = save.evaluation
            close = Close(
                round=save.round,
                why=save.why,
                members=save.members,
                results=save.results,
                round_s=save.round_s,
                closed=self._clock.wall(),
                best=None if evaluation is None else best_of(evaluation, self.config.task),
                model_digest=save.model_digest,
            )
            self._best = close.best
            self._store.keep_close(close)
            if save.round % CHECKPOINT_ROUNDS == 0 or save.checkpoint:
                self._checkpoint(save.round + 1, save.state)
        if effects.sends or any(isinstance(save, KeepClose) for save in effects.saves):
            self._store.commit()
        for outgoing in effects.sends:
            sent = self._send(outgoing)
            self._told = self._told or (sent and isinstance(outgoing.message, Finished))
        for event in effects.events:
            self._tell(event)

    def _send(self, outgoing: Outgoing) -> bool:
        if isinstance(outgoing.message, Beacon):
            outgoing = outgoing._replace(message=msgspec.structs.replace(outgoing.message, at=self._clock.wall()))
        frames = encode(*outgoing, sign=self._signing.sign)
        self.bytes_down += sum(map(len, frames))
        return self._link.send(frames)

    def _tell(self, event: events.AnyEvent) -> None:
        """Tell all who watch, with what the rounds cannot know of it."""
        if isinstance(event, events.RoundClosed):
            up, down = self._bytes_told
            event = msgspec.structs.replace(event, bytes_up=self.bytes_up - up, bytes_down=self.bytes_down - down)
            self._bytes_told = (self.bytes_up, self.bytes_down)
        elif isinstance(event, events.TrainerJoined):
            event = msgspec.structs.replace(event, fingerprint=self._signing.fingerprint(event.trainer))
        if self._bulletin is not None:
            self._bulletin.take(self._clock.wall(), event)
        self._watch(event)

    def _send_bulletin(self) -> None:
        """To those who watch through the broker; all there is to tell, if nothing else will be."""
        if self._bulletin is not None and self.connection.is_up:
            for outgoing in self._bulletin.due(self._clock.now(), last=self.done):
                self._link.send(encode(*outgoing, sign=self._signing.sign))

    def _checkpoint(self, round: int, state: object) -> None:
        """Keep the strategy's state, so that a next life need not begin at the first round; drop what is too old."""
        self._store.keep_checkpoint(round, dump(state))
        self._tell(events.CheckpointKept(round=round - 1))
        if self._keep_rounds is not None:
            self._store.keep_last(self._keep_rounds)


def _rounds(store: Store, config: RunConfig, strategy: Strategy[Any], replayed: Replayed, clock: Clock) -> Rounds:
    limits = config.limits
    roster, now = Roster(limits.forget_s), clock.now()
    members = replayed.closes[-1].members if replayed.closes else tuple(replayed.trainers)
    for name, (num_examples, results) in sorted(replayed.trainers.items()):
        roster.restore(name, num_examples, results, now, gone=name not in members)
    return Rounds(
        config,
        store.next_term(clock.wall()),
        strategy,
        replayed.state,
        roster,
        code=store.code,
        round=replayed.round,
        accepted=store.keys_since(replayed.round - limits.staleness - 1),
        counted=replayed.open_results,
        model_digests={close.round: close.model_digest for close in replayed.closes[-limits.staleness - 1 :]},
        answer_s=[close.round_s for close in replayed.closes if close.why == "complete"],
        members=len(members) if replayed.closes else 0,
    )
