"""The aggregator's half of one secure sum, without I/O: Bonawitz et al. (2017), figure 4, the server's side.

    ADVERTISING   Keys of trainers                        fix_cohort: U1
    SHARING       EncryptedShares of the cohort           open: U2, the question
    COLLECTING    MaskedInput of the dealers              all, or the deadline: U3
    CONSISTENCY   ListSignature of the survivors          all, or the deadline: U4
    UNMASKING     RevealedShares of the signers           all, or the deadline: the total
    CLOSED        the total is known
    ABANDONED     fewer than t were left, or the shares fit no secret, also without any one of their holders

The state is what its records say: `restore` replays them after a restart, and `requests` sends again what is open.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from enum import Enum
from typing import NamedTuple

import msgspec
import numpy as np

from fedmq.errors import BadConfiguration, Rejected
from fedmq.secure_sums import masks, shamir
from fedmq.secure_sums.masks import SumName
from fedmq.secure_sums.messages import (
    Abandoned,
    Cohort,
    EncryptedShares,
    FromAggregator,
    FromTrainer,
    Keys,
    ListSignature,
    MaskedInput,
    Member,
    Opened,
    OpenedTotal,
    Opening,
    QuestionSpent,
    Record,
    RevealedShares,
    SharesRefused,
    SignedSurvivors,
    Survivors,
    keys_are_shared,
    keys_text,
    list_text,
)
from fedmq.secure_sums.policy import default_threshold
from fedmq.security import ciphers
from fedmq.security.keys import PublicIdentity, transport_public


class SumPhase(Enum):
    """The progress of a sum, in order."""

    ADVERTISING = "advertising"
    SHARING = "sharing"
    COLLECTING = "collecting"
    CONSISTENCY = "consistency"
    UNMASKING = "unmasking"
    CLOSED = "closed"
    ABANDONED = "abandoned"


class Saved(NamedTuple):
    """A record with the trainer that sent it; "" if the aggregator made it."""

    sender: str
    record: Record


class Output(NamedTuple):
    """Save the records in one commit, then send each message to the trainer of that name."""

    save: tuple[Saved, ...] = ()
    send: tuple[tuple[str, FromAggregator], ...] = ()


_saved_encoder = msgspec.msgpack.Encoder()
_saved_decoder = msgspec.msgpack.Decoder(Record)


def saved_to_bytes(saved: Iterable[Saved]) -> tuple[tuple[str, bytes], ...]:
    """Return what a store keeps of these records."""
    return tuple((one.sender, _saved_encoder.encode(one.record)) for one in saved)


def saved_from_bytes(stored: Iterable[tuple[str, bytes]]) -> tuple[Saved, ...]:
    """Return the records of a store."""
    return tuple(Saved(sender, _saved_decoder.decode(record)) for sender, record in stored)


class SumAggregator:
    """The aggregator of one sum. `threshold` returns t from the number of members."""

    def __init__(self, name: SumName, threshold: Callable[[int], int] = default_threshold) -> None:
        self.sum_id, self._threshold = name.id, threshold
        self.phase = SumPhase.ADVERTISING
        self.total: OpenedTotal | None = None
        self.why = ""  # of an abandoned sum
        self._present: dict[str, Member] = {}
        self._cohort = Cohort(self.sum_id, 1, ())
        self._places: dict[str, int] = {}  # index in the cohort, by name
        self._dealt: dict[int, EncryptedShares] = {}
        self._opened = Opened(self.sum_id, bytes(32), 0, b"")
        self._dealers: tuple[int, ...] = ()
        self._refused: set[int] = set()  # members that have sent QuestionSpent
        self._complaints: dict[int, int] = {}  # by member: the dealer whose shares it cannot decrypt
        self._inputs: dict[int, MaskedInput] = {}
        self._survivors = b""
        self._signatures: dict[int, ListSignature] = {}
        self._signed = SignedSurvivors(self.sum_id, b"", b"", ())
        self._signers: tuple[int, ...] = ()
        self._revealed: dict[int, RevealedShares] = {}

    @classmethod
    def restore(cls, name: SumName, saved: Iterable[Saved]) -> SumAggregator:
        """Return the aggregator that has saved these records, in their order."""
        aggregator = cls(name)
        for one in saved:
            aggregator._apply(one)
        return aggregator

    def join(self, identity: PublicIdentity, keys: Keys) -> None:
        """Add a member that has advertised keys; a later message of the same name replaces it.

        Raises:
            Rejected: the keys are not signed for this sum, or all trainers would refuse a cohort with them.
        """
        if keys.sum != self.sum_id:
            raise Rejected("round", "expected keys for this sum, got those of another")
        if not identity.verifies(keys.signature, keys_text(self.sum_id, keys.share_key, keys.mask_key)):
            raise Rejected("signature", f"expected keys that {identity.name} has signed for this sum")
        member = Member(identity, keys.share_key, keys.mask_key, keys.signature)
        others = [one for name, one in self._present.items() if name != identity.name]
        if keys_are_shared([member, *others]):
            of = next((one for one in others if keys_are_shared([member, one])), member)
            text = f"expected keys that only {identity.name} has, and once, got one of {of.identity.name}"
            raise Rejected("duplicate", text)
        if not (ciphers.is_sound(keys.share_key) and ciphers.is_sound(keys.mask_key)):
            raise Rejected("values", f"expected X25519 keys, got one of low order of {identity.name}")
        self._present[identity.name] = member

    @property
    def advertised(self) -> frozenset[str]:
        """The trainers that have sent keys."""
        return frozenset(self._present)

    @property
    def members(self) -> frozenset[str]:
        """The cohort; empty before it is fixed."""
        return frozenset(self._places)

    @property
    def threshold(self) -> int:
        """How many members must survive."""
        return self._cohort.threshold

    @property
    def dealers(self) -> frozenset[str]:
        """The members that have dealt shares; while the question is open, those that are asked."""
        return frozenset(map(self._name, self._dealers or self._dealt))

    @property
    def answered(self) -> frozenset[str]:
        """The dealers whose masked inputs have arrived; from the list of survivors on, these."""
        return frozenset(map(self._name, self._inputs))

    @property
    def is_spent(self) -> bool:
        """Whether too few are left of the dealers that answer the question, or of the signers that have shares."""
        return len(set(self._asked) - self._refused) < self.threshold

    @property
    def _asked(self) -> tuple[int, ...]:
        """The members that are asked for answers, or for shares."""
        return self._signers if self.phase is SumPhase.UNMASKING else self._dealers

    @property
    def bad_dealers(self) -> frozenset[str]:
        """The dealers whose shares more members cannot decrypt than may lie."""
        lying_max = len(self._cohort.members) - self._cohort.threshold
        return frozenset(
            self._name(dealer) for dealer, count in Counter(self._complaints.values()).items() if count > lying_max
        )

    @property
    def signed(self) -> frozenset[str]:
        """The survivors that have signed the list of survivors."""
        return frozenset(map(self._name, self._signatures))

    @property
    def signers(self) -> frozenset[str]:
        """The survivors that are asked for shares."""
        return frozenset(map(self._name, self._signers))

    @property
    def revealed(self) -> frozenset[str]:
        """The signers that have revealed shares."""
        return frozenset(map(self._name, self._revealed))

    @property
    def question(self) -> bytes:
        """The question that is open, 32 bytes."""
        return self._opened.question

    def fix_cohort(self, names: Collection[str] | None = None) -> Output:
        """Close the phase ADVERTISING: of the trainers that have joined, those in `names`, or all, are the cohort."""
        self._check_phase(SumPhase.ADVERTISING)
        chosen = self._present if names is None else self._present.keys() & set(names)
        members = tuple(self._present[name] for name in sorted(chosen))
        return self._proceed((Saved("", Cohort(self.sum_id, self._threshold(len(members)), members)),))

    def open(self, question: bytes, length: int) -> Output:
        """Close the phase SHARING: ask the dealers a question, 32 bytes, whose answer has `length` numbers."""
        self._check_phase(SumPhase.SHARING)
        if len(self._dealt) < self._cohort.threshold:
            return self._abandon(f"{len(self._dealt)} dealers")
        opened = Opened(self.sum_id, question, length, self._bitmap(self._dealt))
        return self._proceed((*self._from_trainers(self._dealt), Saved("", opened)))

    def receive(self, sender: str, message: FromTrainer) -> Output:
        """Take a message of a member. Messages of other phases, and repeated ones, change nothing.

        Raises:
            Rejected: the sender is no member, or the message does not fit the sum.
        """
        if message.sum != self.sum_id or isinstance(message, Keys):
            raise Rejected("round", "expected a message of this sum after its keys")
        place = self._places.get(sender)
        if place is None:
            raise Rejected("uninvited", f"expected a message of a member of the cohort, got one of {sender}")
        match message:
            case EncryptedShares() if self.phase is SumPhase.SHARING:
                self._check_count(message.shares, len(self._cohort.members) - 1)
                self._dealt.setdefault(place, message)
            case QuestionSpent() | SharesRefused():
                self._take_refusal(place, message)
            case MaskedInput() if self.phase is SumPhase.COLLECTING and place in self._dealers:
                if len(message.values) != 8 * self._opened.length:
                    raise Rejected("shape", f"expected {self._opened.length} numbers, got {len(message.values)} bytes")
                self._inputs.setdefault(place, message)
                return self._close_if(len(self._inputs) == len(self._dealers))
            case ListSignature() if self.phase is SumPhase.CONSISTENCY and place in self._inputs:
                text = list_text(self._cohort, self._opened, self._survivors)
                if not self._cohort.members[place].identity.verifies(message.signature, text):
                    raise Rejected("signature", f"expected the list of survivors signed by {sender}")
                self._signatures.setdefault(place, message)
                return self._close_if(len(self._signatures) == len(self._inputs))
            case RevealedShares() if self.phase is SumPhase.UNMASKING and place in self._signers:
                self._check_count(message.shares, len(self._dealers))
                self._revealed.setdefault(place, message)
                return self._close_if(len(self._revealed) == len(self._signers))
            case _:
                pass  # late, repeated, or of a member that does not survive
        return Output()

    def _take_refusal(self, place: int, message: QuestionSpent | SharesRefused) -> None:
        if isinstance(message, QuestionSpent):
            if place in self._asked:
                self._refused.add(place)
        elif self.phase is SumPhase.COLLECTING and {place, message.dealer} <= set(self._dealers):
            self._complaints.setdefault(place, message.dealer)

    def deadline(self) -> Output:
        """Go on without the missing members, or abandon the sum. While unmasking, ask again: trainers repeat shares."""
        threshold = self._cohort.threshold
        match self.phase:
            case SumPhase.COLLECTING:
                if len(self._inputs) < threshold:
                    return self._abandon(f"{len(self._inputs)} masked inputs")
                survivors = Survivors(self.sum_id, self._bitmap(self._inputs))
                return self._proceed((*self._from_trainers(self._inputs), Saved("", survivors)))
            case SumPhase.CONSISTENCY:
                if len(self._signatures) < threshold:
                    return self._abandon(f"{len(self._signatures)} signatures of the survivors")
                signatures = tuple(self._signatures[place].signature for place in sorted(self._signatures))
                signers = self._bitmap(self._signatures)
                return self._proceed((Saved("", SignedSurvivors(self.sum_id, self._survivors, signers, signatures)),))
            case SumPhase.UNMASKING:
                return self.requests() if len(self._revealed) < threshold else self._unmask()
            case _:
                return Output()

    def abandon(self) -> Output:
        """End the sum without a total; a question that trainers have helped to open is spent."""
        return self._abandon("no answer")

    def requests(self) -> Output:
        """Return the messages of this phase for the members that have not answered them."""
        send: list[tuple[str, FromAggregator]] = []
        match self.phase:
            case SumPhase.SHARING:
                send = [(self._name(one), self._cohort) for one in self._places.values() if one not in self._dealt]
            case SumPhase.COLLECTING:
                send = [(self._name(one), self._opening(one)) for one in self._dealers if one not in self._inputs]
            case SumPhase.CONSISTENCY:
                request = Survivors(self.sum_id, self._survivors)
                send = [(self._name(one), request) for one in sorted(self._inputs) if one not in self._signatures]
            case SumPhase.UNMASKING:
                send = [(self._name(one), self._signed) for one in self._signers if one not in self._revealed]
            case _:
                pass
        return Output((), tuple(send))

    def _check_phase(self, phase: SumPhase) -> None:
        if self.phase is not phase:
            raise BadConfiguration(f"secure sum: expected phase {phase.value}, got {self.phase.value}")

    def _check_count(self, shares: tuple[bytes, ...], count: int) -> None:
        if len(shares) != count:
            raise Rejected("values", f"expected {count} shares, got {len(shares)}")

    def _close_if(self, complete: bool) -> Output:
        return self.deadline() if complete else Output()

    def _proceed(self, saved: tuple[Saved, ...]) -> Output:
        """Apply the records; return them with the requests of the phase that they begin."""
        for one in saved:
            self._apply(one)
        return Output(saved, self.requests().send)

    def _apply(self, saved: Saved) -> None:
        record = saved.record
        match record:
            case Cohort():
                self.phase, self._cohort = SumPhase.SHARING, record
                self._places = {one.identity.name: index for index, one in enumerate(record.members)}
            case EncryptedShares():
                self._dealt[self._places[saved.sender]] = record
            case Opened():
                self.phase, self._opened = SumPhase.COLLECTING, record
                self._dealers = self._indexes(record.dealers)
            case MaskedInput():
                self._inputs[self._places[saved.sender]] = record
            case Survivors():
                self.phase, self._survivors = SumPhase.CONSISTENCY, record.survivors
            case SignedSurvivors():
                self.phase, self._signed = SumPhase.UNMASKING, record
                self._signers = self._indexes(record.signers)
            case OpenedTotal():
                self.phase, self.total = SumPhase.CLOSED, record
            case Abandoned():
                self.phase, self.why = SumPhase.ABANDONED, record.why

    def _abandon(self, got: str) -> Output:
        why = f"expected at least {self._cohort.threshold} of {len(self._cohort.members)} members, got {got}"
        for name in sorted(self.bad_dealers):
            why += f"; the others cannot decrypt the shares of {name}, so the next sums are without it: ban {name}"
        return self._proceed((Saved("", Abandoned(self.sum_id, why)),))

    def _unmask(self) -> Output:
        """Return the total, or abandon the sum if the shares of a dealer fit no secret.

        One holder may lie: it is found as the one without whose shares all others fit, if they are more than t still.
        """
        holders, survivors = frozenset(self._revealed), sorted(self._inputs)
        secrets = self._secrets(holders)
        if isinstance(secrets, str) and len(holders) > self._cohort.threshold + 1:
            others = (self._secrets(holders - {one}) for one in sorted(holders))
            secrets = next((found for found in others if not isinstance(found, str)), secrets)
        if isinstance(secrets, str):
            why = f"the shares of {secrets} fit no secret: it has dealt wrong ones, or a member that holds them lies"
            return self._proceed((Saved("", Abandoned(self.sum_id, why)),))
        values = np.zeros(self._opened.length, np.uint64)
        for dealer, secret in secrets.items():
            if dealer in self._inputs:
                values += np.frombuffer(self._inputs[dealer].values, "<u8")
                values -= masks.mask(secret, len(values))
                continue
            mask_secret = ciphers.secret_key(secret)
            for survivor in survivors:
                agreed = ciphers.agree(mask_secret, self._cohort.members[survivor].mask_key)
                masks.remove_pair(values, masks.pair_seed(agreed, self.sum_id, survivor, dealer), survivor, dealer)
        names = tuple(self._name(one) for one in survivors)
        total = OpenedTotal(self.sum_id, self._opened.question, names, values.astype("<u8", copy=False).tobytes())
        return self._proceed((Saved("", total),))

    def _secrets(self, holders: frozenset[int]) -> dict[int, bytes] | str:
        """Return the secret of each dealer from the shares of these members, or a dealer whose shares fit none."""
        secrets = {}
        for position, dealer in enumerate(self._dealers):
            shares = {holder: self._revealed[holder].shares[position] for holder in holders}
            secret = shamir.open_secret(shares, self._cohort.threshold)
            key = self._cohort.members[dealer].mask_key
            if secret is None or (dealer not in self._inputs and transport_public(secret) != key):
                return self._name(dealer)
            secrets[dealer] = secret
        return secrets

    def _opening(self, place: int) -> Opening:
        """Return the question for one member, with the shares that the other dealers made for it."""
        shares = tuple(self._dealt[one].shares[place - (place > one)] for one in self._dealers if one != place)
        return Opening(self.sum_id, self._opened.question, self._opened.length, self._opened.dealers, shares)

    def _from_trainers(self, messages: dict[int, EncryptedShares] | dict[int, MaskedInput]) -> Iterable[Saved]:
        return [Saved(self._name(place), messages[place]) for place in sorted(messages)]

    def _name(self, place: int) -> str:
        return self._cohort.members[place].identity.name

    def _bitmap(self, places: Iterable[int]) -> bytes:
        return masks.to_bitmap(tuple(places), len(self._cohort.members))

    def _indexes(self, bitmap: bytes) -> tuple[int, ...]:
        return masks.from_bitmap(bitmap, len(self._cohort.members)) or ()
