"""Keys and random bytes of virtual trainers, from the run's seed: the same run has the same bits, and hides nothing."""

from __future__ import annotations

from collections.abc import Iterable

from fedmq.aggregator.sums import SumIdentities
from fedmq.runtime.rng import derive_rng
from fedmq.secure_sums.ledger import Ledger
from fedmq.security.keys import Identity
from fedmq.trainer.machine import SumIdentity
from fedmq.trainer.secure_answers import SecureAnswers

FEDERATION = b"a simulation's federation"


class VirtualIdentities:
    """The keys of virtual trainers by name."""

    def __init__(self, seed: int, names: Iterable[str]) -> None:
        self._seed = seed
        self._identities = {name: self._new(name) for name in names}
        self._public = {name: one.public for name, one in self._identities.items()}
        self._lives: dict[str, int] = {}

    @property
    def of_members(self) -> SumIdentities:
        """What an aggregator knows of the trainers."""
        return SumIdentities(FEDERATION, self._public.get)

    def secure_answers(self, name: str, run: str, ledger: Ledger | None = None) -> SecureAnswers:
        """Return the part of a trainer in the sums of a run, at another start: it has other secrets each time."""
        life = self._lives[name] = self._lives.get(name, 0) + 1
        draws = derive_rng(self._seed, "simulation", "secrets", name, life)
        member = SumIdentity(FEDERATION, self._identities[name])
        return SecureAnswers(member, ledgers=[] if ledger is None else [(run, ledger)], draw=draws.bytes)

    def _new(self, name: str) -> Identity:
        draws = derive_rng(self._seed, "simulation", "identity", name)
        return Identity("trainer", name, draws.bytes(32), draws.bytes(32))
