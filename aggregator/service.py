"""The loop of the aggregator: receive, decode, step, save, send. `rounds` decides."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from fedmq.aggregator.machine import EndRun, Input, Output, Phase
from fedmq.aggregator.roster import Roster
from fedmq.aggregator.rounds import RESENT_ROUNDS, Rounds
from fedmq.algorithms.base import Strategy
from fedmq.errors import BadConfiguration
from fedmq.observe.events import AnyEvent, RoundClosed
from fedmq.observe.run_state import RunState
from fedmq.protocol.run_config import RunConfig
from fedmq.runs.replay import replay
from fedmq.runs.store import Store
from fedmq.runtime.broker_connection import BrokerConnection
from fedmq.runtime.clock import Clock, earliest
from fedmq.security.signing import NoSigning, Signing
from fedmq.transport.address import DEFAULT_ADDRESS
from fedmq.transport.link import (
    Link,
    StopRequested,
    Tick,
)
from fedmq.transport.receive import TERM_AHEAD_S_MAX, receive

if TYPE_CHECKING:
    from fedmq.aggregator.sums import SumIdentities

log = logging.getLogger(__name__)

Watch = Callable[[float, Sequence[AnyEvent]], None]


class Aggregator:
    """One life of a run's aggregator, on a link and a store.

    `watch` gets the events of each step, with their time in seconds since 1970. With a `run_state`, which holds the
    events of earlier lives, observers get them through the broker too. `on_generation` gets the strategy's state after
    each round that closes, and returns whether the run ends. A secure run needs the `identities` of its members.
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
        run_state: RunState | None = None,
        wait_s: float | None = None,
        on_generation: Callable[[Any], bool] | None = None,
        identities: SumIdentities | None = None,
    ) -> None:
        self._on_generation = on_generation
        self._link, self._store, self._clock, self._watch = link, store, clock, watch
        self._signing: Signing = signing or NoSigning()
        self.rounds = resume(store, strategy, clock, self._signing, run_state, wait_s, identities)
        self.connection = BrokerConnection(broker, clock.now(), connect_timeout_s)

    @property
    def config(self) -> RunConfig:
        return self.rounds.config

    @property
    def done(self) -> bool:
        return self.rounds.done

    @property
    def wake_at(self) -> float | None:
        if self.rounds.phase is Phase.FINISHED:
            return self.rounds.wake_at
        return earliest(self.connection.wake_at, self.rounds.wake_at)

    @property
    def status(self) -> str:
        rounds, present = self.rounds, len(self.rounds.roster.eligible(self.rounds.round))
        needed = self.config.limits.min_trainers
        trainers = f"{present} trainers" if present >= needed else f"waiting for trainers ({present} of {needed})"
        if not self.connection.is_up:
            trainers = "no broker"
        best = "" if rounds.best is None else f", best {rounds.best.value:.4g}"
        return f"{'paused, ' if rounds.paused else ''}round {rounds.round}, {trainers}{best}"

    def stop(self) -> None:
        """See `loop.Service`: nothing is in flight between two steps, and the run can be continued."""
        self._step(StopRequested())
        self._perform(self.rounds.take_output())

    def reload(self) -> None:
        """Note that nothing is to do: members are read as they change."""
        log.warning("members are read as they change; other settings and the aggregator's own key need a restart")

    def step(self) -> None:
        received = False
        for incoming in receive(self._link, self.connection, self._signing, self._clock):
            received = True
            self._step(incoming)
        if not received:  # every input carries the time
            self._step(Tick())
        self._perform(self.rounds.take_output())
        if not self.done:
            self.connection.check(self._clock.now())

    def _step(self, incoming: Input) -> None:
        self.rounds.step(incoming, self._clock.now(), self._clock.wall())

    def _perform(self, output: Output) -> None:
        """See `Output`: save before send."""
        for record in output.records:
            self._store.save(record)
        if output.commit:
            self._store.commit()
        for frames in output.sends:
            self._link.send(frames)
        if output.events:
            self._watch(output.at, output.events)
        if self._on_generation is not None and any(isinstance(event, RoundClosed) for event in output.events):
            self._called_back(self._on_generation)

    def _called_back(self, on_generation: Callable[[Any], bool]) -> None:
        """Call the user's callback with the state of the strategy; end the run if it says so."""
        if on_generation(self.rounds.state) and self.rounds.phase is not Phase.FINISHED:
            self._step(EndRun())
            self._perform(self.rounds.take_output())


def resume(
    store: Store,
    strategy: Strategy[Any],
    clock: Clock,
    signing: Signing,
    run_state: RunState | None,
    wait_s: float | None,
    identities: SumIdentities | None = None,
) -> Rounds:
    """Return the rounds of the run in the store, in a new term, where its last life left them."""
    config, again = store.config, store.term > 0
    assert config is not None, "the store must have been begun"
    limits, now, behind_s = config.limits, clock.now(), store.term / 1000 - clock.wall()
    if behind_s > TERM_AHEAD_S_MAX:
        raise BadConfiguration(
            f"run {config.run}: expected a clock that is later than its last start, got one {behind_s / 3600:.0f} h "
            "earlier, and trainers reject that: set the clock of this machine, or start a new run"
        )
    replayed = replay(store, config.task, strategy, config.seed)
    roster = Roster(limits.forget_s, limits.rounds_late, limits.select)
    members = replayed.closes[-1].members if replayed.closes else tuple(replayed.trainers)
    for name, (num_examples, results) in sorted(replayed.trainers.items()):
        roster.restore(name, num_examples, results, now, gone=name not in members)
    term = store.next_term(clock.wall())
    return _kind(store, term, identities)(
        config,
        term,
        strategy,
        replayed.state,
        roster,
        code=store.code,
        sign=signing.sign,
        run_state=run_state,
        again=again,
        wait_s=wait_s,
        round=replayed.round,
        accepted=store.keys_since(replayed.round - RESENT_ROUNDS),
        counted=replayed.open_results,
        model_digests={close.round: close.model_digest for close in replayed.closes[-limits.rounds_late - 1 :]},
        answer_s=[close.round_s for close in replayed.closes if close.why == "complete"],
        members=len(members) if replayed.closes else 0,
        invitations=store.invitations(),
    )


def _kind(store: Store, term: int, identities: SumIdentities | None) -> Callable[..., Rounds]:
    """Return what makes the rounds of the run in the store.

    Raises:
        BadConfiguration: a secure run without keys.
    """
    config = store.config
    if config is None or not config.secure:
        return Rounds
    if identities is None:
        raise BadConfiguration(
            f"run {config.run}: expected keys (--keys), got none: secure sums need those of trainers"
        )
    from fedmq.aggregator.secure_rounds import SecureRounds  # a plain run needs no cryptography
    from fedmq.aggregator.sums import Sums

    sums = Sums(identities, config.run, term)
    return partial(SecureRounds, sums=sums, totals=store.totals(), open_sum=store.open_sum)
