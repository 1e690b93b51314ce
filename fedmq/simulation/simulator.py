"""A run with virtual trainers, on virtual time: the aggregator's state machine, and the trainers' round handlers.

    Rounds.step_all  ->  records   saved, if the run has a folder
                     ->  a round   each trainer that is connected begins to work, for a time of its `Behavior`
                     ->  events    for the report, the page and the progress
    the next moment of an answer, a connection, or a deadline  ->  Rounds.step_all

In a run with secure sums, trainers answer what the aggregator asks for a sum at the same moment.

What differs from services is only what cannot change a model: no broker, no session, no retransmission. Rounds and
answers are encoded and decoded as on the wire.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec
import numpy as np

from fedmq.aggregator.machine import EndRun, Input, Phase
from fedmq.aggregator.service import resume
from fedmq.algorithms.base import Strategy
from fedmq.observe.events import AnyEvent, RoundClosed
from fedmq.protocol import topics
from fedmq.protocol.codec import Frames, Packet, decode, encode
from fedmq.protocol.messages import (
    PROTOCOL_VERSION,
    PROTOCOL_VERSION_MIN,
    Hello,
    Presence,
    Result,
    Round,
    SumRequest,
    has_bit,
)
from fedmq.runs.records import Close
from fedmq.runs.store import Store
from fedmq.runtime.rng import derive_rng
from fedmq.security.signing import NoSigning
from fedmq.simulation.behavior import Behavior
from fedmq.simulation.clock import VirtualClock
from fedmq.simulation.population import Population
from fedmq.trainer.publications import Publications
from fedmq.transport.link import BrokerConnected, MessageReceived, StopRequested, Tick

if TYPE_CHECKING:
    from fedmq.simulation.secure_population import SecurePopulation

BEACON_S = 1e9  # beacons repair lost messages, and none is lost
IDLE_TICKS_MAX = 1000  # without anything from a trainer, then the run cannot go on,
IDLE_LIVES_MAX = 1000  # or while all trainers come and go so often, and none answers
_PUBLISHED, _INBOX = (topics.ROUNDS.encode(), topics.SUMS.encode()), topics.INBOX.encode()

What = Literal["answer", "connect", "disconnect"]


class Workers(Protocol):
    """What does the work of rounds: see `population.LocalWorkers` for each method."""

    def begin(self, number: int, frames: Frames, train_s: Mapping[str, float]) -> None: ...

    def take(self, number: int, name: str) -> Frames: ...

    def end(self, number: int) -> None: ...

    def close(self) -> None: ...


class Simulator:
    """One run from its beginning to its end. `store` holds its configuration.

    Without `keep` nothing more is saved there, so that memory does not grow with the results, and `closes` has the
    closed rounds.

    `watch` gets the events of each moment with their time, in seconds since 1970.
    """

    def __init__(
        self,
        store: Store,
        strategy: Strategy[Any],
        population: Population,
        workers: Workers,
        behavior: Behavior | None = None,
        *,
        keep: bool = True,
        watch: Callable[[float, Sequence[AnyEvent]], None] = lambda _at, _events: None,
        on_generation: Callable[[Any], bool] | None = None,
    ) -> None:
        config = store.config
        assert config is not None, "the store must have been begun"
        self.clock = VirtualClock(config.started)
        self._secure: SecurePopulation | None = None
        of_members = None
        if config.secure:
            from fedmq.simulation.identities import VirtualIdentities  # a plain run needs no cryptography
            from fedmq.simulation.secure_population import SecurePopulation

            identities = VirtualIdentities(config.seed, population.num_examples)
            self._secure = SecurePopulation(identities, config.run, population.num_examples)
            of_members = identities.of_members
        self.rounds = resume(store, strategy, self.clock, NoSigning(), None, None, of_members)
        self._run, self._seed = config.run, config.seed
        self._store, self._keep, self._watch = store, keep, watch
        self.closes: list[Close] = []
        self._on_generation = on_generation  # as of `fedmq.aggregator.service.Aggregator`
        self._population, self._workers, self._behavior = population, workers, behavior or Behavior()
        self._names = tuple(population.num_examples)
        self._index = {name: place for place, name in enumerate(self._names)}
        self._factors = self._behavior.factors(self._seed, len(self._names))
        self._queue: list[tuple[float, int, What, str, int]] = []
        self._order = itertools.count()
        self._online: set[str] = set()
        self._working: dict[str, int] = {}  # the round that a trainer works on,
        self._waiting: dict[str, tuple[Round, Frames]] = {}  # and the newest one that it works on afterwards
        self._begun: dict[str, int] = {}  # the newest round that a trainer has begun to work on
        self._busy: dict[int, int] = {}  # answers that are awaited, by round
        self._lives: dict[str, int] = {}  # how often a trainer has connected and disconnected
        self._publications = Publications()
        self._replies: list[Input] = []  # of trainers, to what the aggregator has sent just now
        self._idle = 0  # moments since a trainer did something
        self._unanswered = 0  # connections since a trainer answered

    def run(self) -> None:
        """Run to the end."""
        try:
            self._step([BrokerConnected()])
            self._step(one for name in self._names for one in self._connect(name))
            while not self.rounds.done:
                self._next()
        finally:
            self._workers.close()

    def stop(self) -> None:
        """End before the run is over, as a real one that was interrupted."""
        self._step([StopRequested()])

    def _next(self) -> None:
        """Move to the next moment at which something happens."""
        wake_at = self.rounds.wake_at
        due = self._queue[0][0] if self._queue else None
        if due is None or (wake_at is not None and wake_at < due):
            if wake_at is None:
                self.stop()
                return
            self.clock.move_to(wake_at)
            self._step([Tick()])
            self._idle += 1
            if self._idle > IDLE_TICKS_MAX:
                self.stop()
            return
        self._idle = 0
        self.clock.move_to(due)
        self._step(self._due(due))
        if self._unanswered > IDLE_LIVES_MAX * len(self._names):
            self.stop()

    def _due(self, due: float) -> Iterator[Input]:
        """Yield what happens at this moment, one after the other: a thousand answers need the memory of one."""
        while self._queue and self._queue[0][0] <= due:
            _, _, what, name, number = heapq.heappop(self._queue)
            yield from self._happen(what, name, number)

    def _happen(self, what: What, name: str, number: int) -> list[Input]:
        match what:
            case "connect":
                return self._connect(name)
            case "disconnect":
                return self._disconnect(name)
            case "answer":
                return self._answer(name, number)

    # --- trainers -------------------------------------------------------------------------------------------------

    def _connect(self, name: str) -> list[Input]:
        self._online.add(name)
        self._unanswered += 1
        self._come_and_go(name, "disconnect")
        hello = Hello(
            run=self._run,
            term=self.rounds.term,
            trainer=name,
            num_examples=self._population.num_examples[name],
            round=0,
            version="simulated",
            versions=(PROTOCOL_VERSION_MIN, PROTOCOL_VERSION),
        )
        return [
            MessageReceived(Packet(topics.UP + self._run, hello, {}, ())),
            MessageReceived(Packet(topics.PRESENCE + name, Presence(trainer=name, present=True, inboxes=1), {}, ())),
        ]

    def _disconnect(self, name: str) -> list[Input]:
        """End a connection, and with it the work: a process that was killed."""
        self._online.discard(name)
        self._waiting.pop(name, None)
        if self._give_up(name):
            del self._begun[name]  # it gets the round again
        if self._secure is not None:
            self._secure.restart(name)
        self._come_and_go(name, "connect")
        message = Presence(trainer=name, present=False)
        return [MessageReceived(Packet(topics.PRESENCE + name, message, {}, ()))]

    def _come_and_go(self, name: str, what: What) -> None:
        behavior = self._behavior
        if behavior.online_s is None:
            return
        life = self._lives[name] = self._lives.get(name, 0) + 1
        times = behavior.offline_s if what == "connect" else behavior.online_s
        after = float(times.draw(derive_rng(self._seed, "simulation", "connection", name, life), 1)[0])
        self._at(self.clock.now() + after, what, name)

    def _begin(self, message: Round, frames: Frames, names: Sequence[str]) -> None:
        """Let trainers begin to work on a round; the work on an earlier one is cancelled."""
        number = message.round
        times = self._behavior.round(self._seed, number, len(self._names), message.deadline_s) * self._factors
        train_s = {name: float(times[self._index[name]]) for name in names}
        for name, seconds in train_s.items():
            self._give_up(name)
            self._waiting.pop(name, None)
            self._working[name] = self._begun[name] = number
            self._at(self.clock.now() + seconds, "answer", name, number)
        if train_s:
            self._busy[number] = self._busy.get(number, 0) + len(train_s)
            self._workers.begin(number, frames, train_s)

    def _answer(self, name: str, number: int) -> list[Input]:
        if self._working.get(name) != number:
            return []
        self._unanswered = 0
        packet = decode(self._workers.take(number, name))
        self._give_up(name)
        if name in self._waiting:
            message, frames = self._waiting.pop(name)
            self._begin(message, frames, [name])
        if self._secure is not None and isinstance(packet.message, Result):
            return [MessageReceived(one) for one in self._secure.done(name, packet)]
        return [MessageReceived(packet)]

    def _give_up(self, name: str) -> bool:
        """Note that a trainer does not work any more; return whether it did."""
        number = self._working.pop(name, None)
        if number is None:
            return False
        self._busy[number] -= 1
        if not self._busy[number]:
            del self._busy[number]
            self._workers.end(number)
        return True

    def _at(self, time: float, what: What, name: str, number: int = 0) -> None:
        heapq.heappush(self._queue, (time, next(self._order), what, name, number))

    # --- the aggregator -------------------------------------------------------------------------------------------

    def _step(self, inputs: Iterable[Input]) -> None:
        """Give the aggregator what has arrived at this moment, and then what trainers reply at once."""
        self._take(inputs)
        while self._replies:
            replies, self._replies = self._replies, []
            self._take(replies)

    def _take(self, inputs: Iterable[Input]) -> None:
        """Give the aggregator what has arrived, and do what it puts out: save before send."""
        self.rounds.step_all(inputs, self.clock.now(), self.clock.wall())
        output = self.rounds.take_output()
        for record in output.records:
            if self._keep:
                self._store.save(record)
            elif isinstance(record, Close):
                append_close(self.closes, record)
        if output.commit:
            self._store.commit()
        if output.events:
            self._watch(output.at, output.events)
        for frames in output.sends:
            self._deliver(frames)
        closed = self._on_generation is not None and any(isinstance(one, RoundClosed) for one in output.events)
        if closed and self._on_generation is not None and self._on_generation(self.rounds.state):
            self._step([EndRun()])

    def _deliver(self, frames: Frames) -> None:
        """Deliver a round or a request to all trainers that are connected, or to one; they need no other message."""
        topic = frames[0]
        if topic.startswith(_PUBLISHED):
            names: Sequence[str] = self._names
        elif topic.startswith(_INBOX) and (self._secure is not None or self.rounds.phase is Phase.COLLECTING):
            names = [topic.decode().split("/")[1]]
        else:
            return
        packet = decode(frames)
        if isinstance(packet.message, SumRequest):
            self._request(packet, packet.message, names)
        if isinstance(packet.message, Round):
            whole = self._publications.whole(packet)  # once for all trainers: each would compute the same
            message = whole.message
            assert isinstance(message, Round)
            if packet.message.delta is not None:
                frames = encode(topic.decode(), message, whole.arrays)
            asked = [one for one in self._invited(names, message) if one in self._online]
            busy = {one for one in asked if self._finishes_first(one, message)}
            self._waiting |= dict.fromkeys(busy, (message, frames))
            self._begin(message, frames, [one for one in asked if one not in busy])
            self._ask_in_sum(message, names)

    def _ask_in_sum(self, message: Round, names: Iterable[str]) -> None:
        """Let trainers take part in the sum of a round, if it has one."""
        if self._secure is None or message.sum is None:
            return
        roster = self.rounds.roster
        for name in names:
            if name in self._online and name in roster:
                invited = message.invited is None or has_bit(message.invited, roster[name].index)
                self._replies += map(MessageReceived, self._secure.round(name, message, invited=invited))

    def _request(self, packet: Packet, message: SumRequest, names: Iterable[str]) -> None:
        if self._secure is None:
            return
        parts = self._secure.parts_of(packet)
        for name in names:
            if name in self._online:
                self._replies += map(MessageReceived, self._secure.request(name, message, parts))

    def _invited(self, names: Sequence[str], message: Round) -> list[str]:
        """Return those that a round invites, and that have not begun to work on it yet."""
        if message.invited is not None:  # in one look: mostly these are few of many
            bits = np.unpackbits(np.frombuffer(message.invited, np.uint8), bitorder="little")
            trainers = self.rounds.roster.trainers
            asked = [trainers[index].name for index in np.flatnonzero(bits)]
            names = asked if len(names) > 1 else [one for one in names if one in asked]
        return [one for one in names if self._begun.get(one, 0) < message.round]

    def _finishes_first(self, name: str, message: Round) -> bool:
        """Return whether a trainer works on an earlier round whose result is still of use."""
        return 0 < message.round - self._working.get(name, message.round) <= message.staleness


def append_close(closes: list[Close], close: Close) -> None:
    """Append a closed round. Members that equal those before are one object with them: they may be thousands."""
    same = bool(closes) and closes[-1].members == close.members
    closes.append(msgspec.structs.replace(close, members=closes[-1].members) if same else close)
