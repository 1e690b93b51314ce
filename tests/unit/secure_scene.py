"""Secure sums in memory: a cohort of machines and a queue, and the sums that a dishonest aggregator can compute."""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Callable, Collection
from functools import cache, lru_cache
from typing import Any

import numpy as np
from secure_adversary import Secrets

from fedmq.errors import Rejected
from fedmq.secure_sums.aggregator import Output, Saved, SumAggregator, SumPhase
from fedmq.secure_sums.ledger import Entry, Ledger
from fedmq.secure_sums.masks import SumName
from fedmq.secure_sums.messages import (
    Cohort,
    EncryptedShares,
    ListSignature,
    MaskedInput,
    Opening,
    RevealedShares,
    SignedSurvivors,
    SumMessage,
    Survivors,
    from_bytes,
    to_bytes,
)
from fedmq.secure_sums.policy import SumPolicy, default_threshold
from fedmq.secure_sums.trainer import SumTrainer
from fedmq.security.keys import Identity, PublicIdentity

QUESTION, OTHER_QUESTION = b"q" * 32, b"r" * 32
STEPS = (EncryptedShares, MaskedInput, ListSignature, RevealedShares)
ANY_THRESHOLD = SumPolicy(members_min=1, colluders=-1000)


@cache
def identity(index: int) -> Identity:
    secrets = hashlib.sha512(b"%d" % index).digest()
    return Identity("trainer", f"t{index:02d}", secrets[:32], secrets[32:])


def once(verifies: Callable[[PublicIdentity, bytes, bytes], bool]) -> Callable[[PublicIdentity, bytes, bytes], bool]:
    """All trainers verify the same signatures: compute each once in a test."""
    return lru_cache(maxsize=None)(verifies)


def missing(names: list[str], step: type | None) -> Callable[[str, Any], bool]:
    """These trainers drop out at this step; with None, the first at the first step, and so on."""
    gone = {name: STEPS.index(step) if step else index % len(STEPS) for index, name in enumerate(names)}
    return lambda name, message: name in gone and STEPS.index(type(message)) >= gone[name]


class Scene:
    """One sum with `members` trainers. `lost(sender, message)` decides which messages of trainers are lost."""

    def __init__(
        self,
        members: int,
        seed: int = 0,
        *,
        threshold: Callable[[int], int] = default_threshold,
        policy: SumPolicy | None = None,
        ledgers: dict[str, Ledger] | None = None,
        indexes: Collection[int] = (),
        length: int = 5,
    ) -> None:
        self.random = random.Random(seed)
        self.name = SumName(b"federation", "run", 1, seed)
        self.sum_id = self.name.id
        self.identities = {one.name: one for one in map(identity, indexes or range(members))}
        self.ledgers = ledgers or {name: Ledger() for name in self.identities}
        policy = policy or SumPolicy()
        self.trainers = {
            name: SumTrainer(self.name, one, policy, self.ledgers[name], self.random.randbytes)
            for name, one in self.identities.items()
        }
        self.values = {name: self._values() for name in self.identities} if length == 5 else {}
        self.length = length
        self.aggregator = SumAggregator(self.name, threshold)
        self.frames: list[tuple[str, SumMessage]] = []  # from trainers, in order
        self.log: list[tuple[str, SumMessage]] = []  # to and from trainers, in order
        self.secrets = {name: Secrets.of(one) for name, one in self.trainers.items()}
        self.saved: list[Saved] = []  # by the aggregator
        self.entries: list[tuple[str, Entry]] = []  # saved by the trainers
        self.refused: list[str] = []
        self.queue: deque[tuple[str, SumMessage]] = deque()
        self.lost: Callable[[str, Any], bool] = lambda sender, message: False
        self.events, self.restart_at, self.restarts = 0, -1, ""
        for name, trainer in self.trainers.items():
            self.aggregator.join(self.identities[name].public, trainer.advertise())

    def _values(self) -> np.ndarray:
        raw = [self.random.randrange(-(2**63), 2**63) for _ in range(3)]
        return np.array([*raw, 2**63 - 1, -(2**63)], np.int64)  # the sum wraps

    def take(self, output: Output) -> None:
        self.saved += output.save
        self.queue += output.send

    def settle(self, phase: SumPhase | None = None) -> None:
        """Deliver messages, each through its bytes, until none is left or the aggregator is in this phase."""
        while self.queue and self.aggregator.phase is not phase:
            name, message = self.queue.popleft()
            self.log.append((name, message))
            try:
                reply = self.reply(name, from_bytes(to_bytes(message)))
            except Rejected as rejected:
                self.refused.append(f"{name}: {rejected}")
            else:
                self.frames.append((name, reply))
                self.log.append((name, reply))
                if not self.lost(name, reply):
                    self.take(self.aggregator.receive(name, from_bytes(to_bytes(reply))))
            self.events += 1
            if self.events == self.restart_at:
                self.restart()

    def restart(self) -> None:
        """Kill the part `restarts`, "" for the aggregator, and start it from what it has saved."""
        if name := self.restarts:
            self.ledgers[name] = Ledger([entry for owner, entry in self.entries if owner == name])
            self.trainers[name] = SumTrainer(self.name, self.identities[name], SumPolicy(), self.ledgers[name])
        else:
            self.queue.clear()
            self.aggregator = SumAggregator.restore(self.name, self.saved)
        self.take(self.aggregator.requests())

    def reply(self, name: str, message: Any) -> SumMessage:
        trainer = self.trainers[name]
        match message:
            case Cohort():
                return trainer.deal(message)
            case Opening():
                save, send = trainer.answer(message, self.values[name])
            case Survivors():
                save, send = trainer.sign(message)
            case SignedSurvivors():
                save, send = trainer.reveal(message)
        if save is not None:
            self.entries.append((name, save))
        return send

    def until(self, phase: SumPhase, question: bytes = QUESTION) -> None:
        """Run until this phase, and as long as deadlines change something."""
        if self.aggregator.phase is SumPhase.ADVERTISING:
            self.take(self.aggregator.fix_cohort())
            self.settle()
        if self.aggregator.phase is SumPhase.SHARING:
            self.take(self.aggregator.open(question, self.length))
        for _ in range(4):
            self.settle(phase)
            if self.aggregator.phase is phase:
                return
            self.take(self.aggregator.deadline())

    def plain(self, names: Collection[str]) -> bytes:
        """The plain sum of these trainers' values, modulo 2**64."""
        total = sum((self.values[name].view(np.uint64) for name in names), np.zeros(self.length, np.uint64))
        return total.astype("<u8").tobytes()

    @property
    def cohort(self) -> Cohort:
        return next(one.record for one in self.saved if isinstance(one.record, Cohort))


def computable(
    members: int,
    threshold: int,
    dealers: Collection[int],
    lists: dict[int, frozenset[int] | None],
    spies: frozenset[int],
) -> tuple[set[frozenset[int]], set[int]]:
    """What follows for honest dealers if member i has revealed shares for the survivors `lists[i]`, or none.

    The aggregator has all masked inputs, and both shares that a spy holds. Returns the sets of honest members whose sum
    it can compute, and those with both secrets known.
    """
    honest = [one for one in dealers if one not in spies]
    revealed = [one for one in lists.values() if one is not None]
    base = len(spies)
    self_masks = {v for v in honest if base + sum(v in one for one in revealed) >= threshold}
    mask_keys = {v for v in honest if base + sum(v not in one for one in revealed) >= threshold}
    left, sums = set(honest), set()
    while left:
        part, reached = set(), [left.pop()]
        while reached:
            one = reached.pop()
            part.add(one)
            for other in list(left):
                if one not in mask_keys and other not in mask_keys:  # their pair mask is unknown
                    left.discard(other)
                    reached.append(other)
        if part <= self_masks:
            sums.add(frozenset(part))
    return sums, self_masks & mask_keys


def breaches(scene: Scene) -> list[str]:
    """What no honest trainer does, found in the messages that it sent."""
    found, inputs, signatures, threshold = [], {}, 0, scene.cohort.threshold
    lists: dict[str, set[SumMessage]] = {}
    for name, message in scene.frames:
        if isinstance(message, MaskedInput) and inputs.setdefault(name, message) != message:
            found.append(f"{name} has used its masks twice")
        if isinstance(message, ListSignature):
            signatures += 1
        if isinstance(message, RevealedShares):
            if signatures < threshold:
                found.append(f"{name} has revealed shares before {threshold} signatures")
            lists.setdefault(name, set()).add(message)
    found += [f"{name} has revealed both kinds of shares" for name, kinds in lists.items() if len(kinds) > 1]
    return found
