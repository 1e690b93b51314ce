"""The state machine of a secure run, with trainers in memory that answer from their rows."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import msgspec
import numpy as np
from secure_scene import identity

from fedmq.aggregator.machine import Input, Phase
from fedmq.aggregator.service import resume
from fedmq.aggregator.sums import SumIdentities
from fedmq.algorithms.base import Plan, Update
from fedmq.algorithms.registry import decode_query, find_algorithm
from fedmq.algorithms.staged import asking_once
from fedmq.algorithms.trial import answer
from fedmq.errors import PolicyRefused, Rejected
from fedmq.observe import events
from fedmq.protocol.codec import MASKED, PARTS, Packet, decode, encode, model_digest_of
from fedmq.protocol.messages import (
    SECURE_VERSION,
    Beacon,
    Hello,
    Message,
    Presence,
    Result,
    Round,
    SumReply,
    SumRequest,
    Welcome,
    has_bit,
)
from fedmq.runs.records import Record
from fedmq.runs.store import Store
from fedmq.secure_sums.ledger import Ledger
from fedmq.secure_sums.masks import SumName
from fedmq.secure_sums.messages import (
    Cohort,
    Keys,
    Opening,
    QuestionSpent,
    SharesRefused,
    SignedSurvivors,
    Survivors,
    parts_from_bytes,
    parts_to_bytes,
)
from fedmq.secure_sums.policy import SumPolicy
from fedmq.secure_sums.question import answer_of, flat
from fedmq.secure_sums.trainer import DealerRefused, SumTrainer
from fedmq.security.signing import NoSigning
from fedmq.tasks.row_views import RowViews
from fedmq.tasks.task import Task
from fedmq.tasks.task_file import find_task, task_rows
from fedmq.testing import run_config
from fedmq.transport.link import BrokerConnected, MessageReceived, Tick

FEDERATION = b"federation"
WALL = 1e9


class Site:
    """A trainer: its rows, its ledger, and its half of the sums of a run. `kill` loses all but the ledger."""

    def __init__(self, index: int, sites: int, task: Task, source: str) -> None:
        self.identity, self.task = identity(index), task
        self.name = self.identity.name
        self.views = RowViews(task, task_rows(source, index + 1, sites))
        self.ledger = Ledger()
        self.kill()

    def kill(self) -> None:
        self.sums: dict[bytes, SumTrainer] = {}
        self.opening: Opening | None = None
        self.packet: Packet | None = None
        self.newest: tuple[int, Any] = (0, {})  # round and its arrays, to which a delta leads on
        self.index: int | None = None
        self.acknowledged = set[int]()

    def receive(self, packet: Packet) -> list[tuple[Message, dict[str, Any]]]:
        """Return what the trainer sends in answer to a message."""
        match message := packet.message:
            case Welcome():
                self.index = message.index
            case Round():
                return self._round(packet, message)
            case SumRequest():
                return self._request(packet, message)
            case Beacon() if has_bit(message.acknowledged, self.index):
                self.acknowledged.add(message.round)
            case _:
                pass
        return []

    def _round(self, packet: Packet, message: Round) -> list[tuple[Message, dict[str, Any]]]:
        assert message.v == SECURE_VERSION
        assert message.sum is not None
        if has_bit(message.acknowledged, self.index):
            self.acknowledged.add(message.round - 1)
        self.packet = packet
        sum_id = SumName(FEDERATION, "run", message.term, message.sum).id
        if not has_bit(message.invited or b"", self.index) or sum_id not in self.sums:
            return [self._reply(message, [self._keys(message.term, message.sum + 1)])]
        return self._answer_or_refuse(message)

    def _answer_or_refuse(self, message: Round | SumRequest) -> list[tuple[Message, dict[str, Any]]]:
        try:
            return self._answer()
        except DealerRefused as refused:
            assert self.opening is not None
            number = self.packet.message.sum + 1  # type: ignore[union-attr, operator]
            keys = self._keys(message.term, number)
            return [self._reply(message, [SharesRefused(self.opening.sum, refused.dealer), keys])]
        except PolicyRefused:
            assert self.opening is not None
            return [self._reply(message, [QuestionSpent(self.opening.sum)])]

    def _request(self, packet: Packet, message: SumRequest) -> list[tuple[Message, dict[str, Any]]]:
        made, replies = [], []
        if message.advertise:
            made.append(self._keys(message.term, message.advertise))
        for part in parts_from_bytes(packet.arrays[PARTS].tobytes()) if PARTS in packet.arrays else ():
            if isinstance(part, Opening):
                self.opening = part
                replies = self._answer_or_refuse(message)
            elif part.sum not in self.sums and isinstance(part, SignedSurvivors) and self.ledger.of_sum(part.sum):
                made.append(QuestionSpent(part.sum))
            elif (one := self.sums.get(part.sum)) is not None:
                match part:
                    case Cohort():
                        made.append(one.deal(part))
                    case Survivors():
                        made.append(one.sign(part).send)
                    case SignedSurvivors():
                        made.append(one.reveal(part).send)
                    case _:
                        raise AssertionError(part)
        return [*replies, *([self._reply(message, made)] if made else [])]

    def _keys(self, term: int, number: int) -> Keys:
        name = SumName(FEDERATION, "run", term, number)
        if name.id not in self.sums:
            self.sums[name.id] = SumTrainer(name, self.identity, SumPolicy(), self.ledger)
        return self.sums[name.id].advertise()

    def _reply(self, message: Round | SumRequest, parts: Iterable[Any]) -> tuple[Message, dict[str, Any]]:
        reply = SumReply(run="run", term=message.term, trainer=self.name)
        return reply, {PARTS: np.frombuffer(parts_to_bytes(parts), np.uint8)}

    def _answer(self) -> list[tuple[Message, dict[str, Any]]]:
        opening, packet = self.opening, self.packet
        if opening is None or packet is None or opening.sum not in self.sums:
            return []
        message = packet.message
        assert isinstance(message, Round)
        assert message.sum is not None
        if opening.sum != SumName(FEDERATION, "run", message.term, message.sum).id:
            return []
        query, learner = decode_query(message.query)
        arrays = packet.arrays
        if message.delta is not None and self.newest[0] != message.round:
            assert learner.apply is not None
            delta = learner.apply(query, self.task, self.newest[1], arrays, lambda: False)
            arrays = {**self.newest[1], **delta}
        elif message.delta is not None:
            arrays = self.newest[1]
        self.newest = message.round, arrays
        update = answer(Plan(query, arrays), self.task, self.views, message.round, message.seed, self.name)
        shapes = {name: array.shape for name, array in arrays.items()}
        masked = self.sums[opening.sum].answer(opening, flat(answer_of(query, self.task, shapes), update.arrays)).send
        result = Result(
            v=SECURE_VERSION,
            run="run",
            term=message.term,
            trainer=self.name,
            round=message.round,
            num_examples=update.num_examples,
            attempt=1,
            train_s=0.1,
            model_digest=model_digest_of(message),
            fraction_bits=update.fraction_bits,
            sum=opening.sum,
        )
        keys = [self._keys(message.term, message.sum + 1)]
        values = np.frombuffer(masked.values, "<i8")  # type: ignore[union-attr]
        return [(result, {MASKED: values, PARTS: np.frombuffer(parts_to_bytes(keys), np.uint8)})]


class SceneClock:
    """A clock that the scene sets."""

    at = 0.0

    def now(self) -> float:
        return self.at

    def wall(self) -> float:
        return WALL + self.at


class Scene:
    """A secure run over a store in memory. `lost(name, message, arrays)` decides which messages are lost."""

    def __init__(
        self,
        sites: int = 3,
        algorithm: str = "es",
        task: str = "xor",
        away: Collection[str] = (),
        parameters: Mapping[str, Any] = {},
        **limits: Any,
    ) -> None:
        self.task = msgspec.structs.replace(find_task(task), parameters={algorithm: dict(parameters)})
        self.sites = {one.name: one for one in (Site(index, sites, self.task, task) for index in range(sites))}
        self.config = msgspec.structs.replace(
            run_config(
                "run", self.task, algorithm, seed=7, **{"rounds_max": 4, "min_trainers": 3, "staleness": 0} | limits
            ),
            secure=True,
        )
        self.store, self.clock = Store(":memory:"), SceneClock()
        self.store.begin(self.config)
        self.lost: Callable[[str, Any, Any], bool] = lambda name, message, arrays: False
        self.change: Callable[[str, Any, Any], Any] = lambda name, message, arrays: (message, arrays)
        self.events: list[events.AnyEvent] = []
        self.saved: list[Record] = []
        self.frames: list[Any] = []  # that the aggregator received
        self.away, self.returns = set(away), dict[str, float]()
        self.start()

    def start(self) -> None:
        """Begin a life of the aggregator, from its store."""
        self.inbox: deque[tuple[str, Message, dict[str, Any]]] = deque()
        self.identities = {one.name: one.identity.public for one in self.sites.values()}
        identities = SumIdentities(FEDERATION, self.identities.get)
        strategy = find_algorithm(self.config.algorithm, self.task)
        self.rounds = resume(self.store, strategy, self.clock, NoSigning(), None, None, identities)
        self.term = self.rounds.term
        self.connect()

    @property
    def now(self) -> float:
        return self.clock.at

    def connect(self) -> None:
        self.step(BrokerConnected())
        for name in self.sites.keys() - self.away:
            self.join(name)

    def join(self, name: str) -> None:
        self.away.discard(name)
        self.hear(Presence(trainer=name, present=True, inboxes=1))
        versions = (2, SECURE_VERSION)
        self.hear(
            Hello(run="run", term=self.term, trainer=name, num_examples=2, round=0, version="test", versions=versions)
        )

    def leave(self, name: str) -> None:
        """Kill a trainer; it is started again after a second."""
        self.inbox = deque(one for one in self.inbox if one[0] != name)
        self.away.add(name)
        self.returns[name] = self.now + 1.0
        self.sites[name].kill()
        self.hear(Presence(trainer=name, present=False))

    def hear(self, message: Message, arrays: dict[str, Any] | None = None) -> None:
        frames = encode("up/run/", message, arrays or {})
        self.frames.append(frames)
        self.step(MessageReceived(decode(frames)))

    def step(self, incoming: Input) -> None:
        self.rounds.step(incoming, self.now, self.clock.wall())

    def settle(self, until: Phase | None = None) -> None:
        """Deliver messages until none is left, or the run is in this phase."""
        while True:
            output = self.rounds.take_output()
            for record in output.records:
                self.store.save(record)
            self.store.commit()
            self.saved += output.records
            self.events += output.events
            for frames in output.sends:
                packet = decode(frames)
                for name, site in sorted(self.sites.items()):
                    if name in self.away or (packet.topic.startswith("to/") and packet.topic != f"to/{name}/"):
                        continue
                    try:
                        replies = site.receive(packet)
                    except Rejected as rejected:
                        self.events.append(events.ResultRejected(trainer=name, reason="site", detail=str(rejected)))
                        continue
                    self.inbox += [(name, *reply) for reply in replies if not self.lost(name, *reply)]
            if self.rounds.phase is until or not (self.inbox or output.sends):
                return
            if self.inbox:
                name, message, arrays = self.inbox.popleft()
                self.hear(*self.change(name, message, arrays))

    def wait(self, seconds: float, until: Phase | None = None) -> None:
        """Let time pass, with a tick for each beacon."""
        end = self.now + seconds
        while self.now < end and self.rounds.phase is not Phase.FINISHED and self.rounds.phase is not until:
            self.clock.at += 0.25
            for name in [name for name, at in self.returns.items() if at <= self.now]:
                del self.returns[name]
                self.join(name)
            self.step(Tick())
            self.settle(until)

    def run(self) -> None:
        self.settle()
        self.wait(600.0)
        assert self.rounds.phase is Phase.FINISHED

    def closed(self) -> list[events.RoundClosed]:
        return [one for one in self.events if isinstance(one, events.RoundClosed)]


def plain_state(scene: Scene, rows_of: Callable[[int], list[str]]) -> Any:
    """Return the state after plain answers of the trainers `rows_of(round)`, one by one."""
    strategy = asking_once(find_algorithm(scene.config.algorithm, scene.task))
    state = strategy.init(scene.task, scene.config.seed)
    for close in scene.store.closes():
        plan = strategy.ask(state)
        for name in rows_of(close.round):
            site = scene.sites[name]
            update: Update = answer(plan, scene.task, site.views, close.round, scene.config.seed, name)
            state = strategy.tell(state, update)
        state = strategy.close(state, close.members)
    return state
