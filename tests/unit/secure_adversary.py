"""What follows from all that an aggregator knows: the messages of secure sums, and the secrets of colluding trainers.

Each masked input is a linear equation modulo 2**64: the answer of one trainer, plus the masks that are not known. The
adversary opens every secret of which it has enough shares, removes the masks that follow, and eliminates the others.
What is left are equations in answers alone, with their values: this is a rank test, and an attempt with the real bytes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from fedmq.protocol.codec import Frames, decode
from fedmq.protocol.messages import Result, SumReply, SumRequest
from fedmq.protocol.topics import INBOX
from fedmq.secure_sums import masks, shamir
from fedmq.secure_sums.messages import (
    Cohort,
    EncryptedShares,
    MaskedInput,
    Opened,
    Opening,
    RevealedShares,
    SignedSurvivors,
    SumMessage,
    parts_from_bytes,
)
from fedmq.secure_sums.trainer import SumTrainer
from fedmq.security import ciphers
from fedmq.security.keys import transport_public

Unknown = tuple[str, bytes, str]  # "answer", question, trainer; or "mask", sum, its members
Log = list[tuple[str, SumMessage]]  # the trainer that sent or received it, "" for all
Held = dict[int, dict[int, bytes]]  # shares by dealer and holder


class Secrets(NamedTuple):
    """The secrets of one trainer in one sum. Shares that others dealt follow from the first."""

    share_secret: bytes
    mask_secret: bytes
    self_mask: bytes

    @classmethod
    def of(cls, trainer: SumTrainer) -> Secrets:
        return cls(trainer._share_secret, trainer._mask_secret, trainer._self_mask)


class Equation(NamedTuple):
    """The sum of coefficient * unknown has this value, uint64 of the answers' shape, modulo 2**64."""

    unknowns: dict[Unknown, int]
    value: np.ndarray

    def without(self, other: Equation, unknown: Unknown) -> Equation:
        """Eliminate an unknown of the other equation from this one; no division, as 2 has no inverse."""
        of_this, of_other = self.unknowns.get(unknown, 0), other.unknowns[unknown]
        if not of_this:
            return self
        unknowns = {one: factor * of_other for one, factor in self.unknowns.items()}
        for one, factor in other.unknowns.items():
            unknowns[one] = unknowns.get(one, 0) - factor * of_this
        value = self.value * np.uint64(of_other % 2**64) - other.value * np.uint64(of_this % 2**64)
        return Equation({one: factor for one, factor in unknowns.items() if factor}, value)


def eliminated(equations: Iterable[Equation], hidden: Callable[[Unknown], bool]) -> list[Equation]:
    """Return a basis of all that the equations say without hidden unknowns (Gauss)."""
    left, basis = list(equations), []
    while left:
        one = left.pop()
        if not one.unknowns:
            assert not one.value.any(), "equations that contradict each other"
            continue
        unknown = max(one.unknowns, key=hidden)
        left = [other.without(one, unknown) for other in left]
        if not hidden(unknown):
            basis.append(one)
    return basis


def log_of(frames: Iterable[Frames]) -> Log:
    """Return the messages of secure sums among the frames that an aggregator has sent and received, in order."""
    log: Log = []
    for one in frames:
        packet = decode(one)
        match packet.message:
            case SumRequest():
                trainer = packet.topic.removeprefix(INBOX).rstrip("/") if packet.topic.startswith(INBOX) else ""
            case Result() | SumReply():
                trainer = packet.message.trainer
            case _:
                continue
        if isinstance(packet.message, Result) and packet.message.sum is not None:
            masked = packet.arrays["masked"].astype("<i8", copy=False).tobytes()
            log.append((trainer, MaskedInput(packet.message.sum, masked)))
        if "parts" in packet.arrays:
            log += [(trainer, part) for part in parts_from_bytes(packet.arrays["parts"].tobytes())]
    return log


class Adversary:
    """An aggregator with the log of its messages in order, to and from it; and the secrets of colluding trainers.

    `learned` are all independent sums of answers of the other trainers that follow.
    """

    def __init__(self, log: Iterable[tuple[str, SumMessage]], colluders: Iterable[Secrets] = ()) -> None:
        self._colluders = {transport_public(one.mask_secret): one for one in colluders}
        by_sum: dict[bytes, Log] = defaultdict(list)
        for trainer, message in log:
            by_sum[message.sum].append((trainer, message))
        equations = [one for seen in by_sum.values() for one in self._equations(seen)]
        self.learned = eliminated(equations, lambda unknown: unknown[0] != "answer")

    def singles(self) -> dict[str, Equation]:
        """Return what follows about the answers of one trainer alone, by its name."""
        names = {name for one in self.learned for _, _, name in one.unknowns}
        found = {name: eliminated(self.learned, lambda unknown, name=name: unknown[2] != name) for name in names}
        return {name: equations[0] for name, equations in found.items() if equations}

    def _equations(self, seen: Log) -> list[Equation]:
        cohort = next((message for _, message in seen if isinstance(message, Cohort)), None)
        question = next((message for _, message in seen if isinstance(message, Opening | Opened)), None)
        if cohort is None or question is None:
            return []
        names = [one.identity.name for one in cohort.members]
        dealers = masks.from_bitmap(question.dealers, len(names)) or ()
        mask_secrets, self_masks = self._opened(cohort, dealers, seen)
        found, sent = [], defaultdict(list)
        for trainer, message in seen:
            if not isinstance(message, MaskedInput) or message in sent[trainer]:
                continue
            sent[trainer].append(message)
            place = names.index(trainer)
            if cohort.members[place].mask_key in self._colluders:
                continue
            value = np.frombuffer(message.values, "<u8").astype(np.uint64)
            number = len(sent[trainer])  # above 1: the masks are used again
            unknowns: dict[Unknown, int] = {("answer", question.question + b"%d" % number, trainer): 1}
            if place in self_masks:
                value -= masks.mask(self_masks[place], len(value))
            else:
                unknowns["mask", cohort.sum, f"{place}"] = 1
            for other in dealers:
                if other == place:
                    continue
                known, public = (place, other) if place in mask_secrets else (other, place)
                if known in mask_secrets:
                    agreed = ciphers.agree(ciphers.secret_key(mask_secrets[known]), cohort.members[public].mask_key)
                    masks.remove_pair(value, masks.pair_seed(agreed, cohort.sum, place, other), place, other)
                else:
                    pair = f"{min(place, other)} {max(place, other)}"
                    unknowns["mask", cohort.sum, pair] = 1 if other < place else -1
            found.append(Equation(unknowns, value))
        return found

    def _opened(self, cohort: Cohort, dealers: tuple[int, ...], seen: Log) -> tuple[dict[int, bytes], dict[int, bytes]]:
        """Return the mask secrets and the self-masks that are known, by member."""
        of_mask, of_self = self._shares(cohort, dealers, seen)
        mask_secrets, self_masks = opened(of_mask, cohort.threshold), opened(of_self, cohort.threshold)
        for place, member in enumerate(cohort.members):
            if (own := self._colluders.get(member.mask_key)) is not None:
                mask_secrets[place], self_masks[place] = own.mask_secret, own.self_mask
            if place in mask_secrets:
                assert transport_public(mask_secrets[place]) == member.mask_key
        return mask_secrets, self_masks

    def _shares(
        self, cohort: Cohort, dealers: tuple[int, ...], seen: list[tuple[str, SumMessage]]
    ) -> tuple[Held, Held]:
        """Return the shares of mask secrets and of self-masks that are known: revealed, or dealt to colluders."""
        names = [one.identity.name for one in cohort.members]
        of_mask: Held = defaultdict(dict)
        of_self: Held = defaultdict(dict)
        lists: dict[str, bytes] = {}
        for trainer, message in seen:
            match message:
                case SignedSurvivors():
                    lists |= dict.fromkeys([trainer] if trainer else names, message.survivors)
                case RevealedShares():
                    survivors = masks.from_bitmap(lists[trainer], len(names)) or ()
                    for dealer, share in zip(dealers, message.shares, strict=True):
                        (of_self if dealer in survivors else of_mask)[dealer][names.index(trainer)] = share
                case EncryptedShares():
                    dealer = names.index(trainer)
                    for holder, pair in self._decrypted(cohort, dealer, message):
                        of_mask[dealer][holder] = pair[: shamir.SHARE_BYTES]
                        of_self[dealer][holder] = pair[shamir.SHARE_BYTES :]
        return of_mask, of_self

    def _decrypted(self, cohort: Cohort, dealer: int, dealt: EncryptedShares) -> Iterator[tuple[int, bytes]]:
        """Yield each colluder with the pair of shares that it was dealt."""
        for holder, member in enumerate(cohort.members):
            secrets = self._colluders.get(member.mask_key)
            if secrets is not None and holder != dealer:
                agreed = ciphers.agree(ciphers.secret_key(secrets.share_secret), cohort.members[dealer].share_key)
                key = masks.share_key(agreed, cohort.sum, dealer, holder)
                pair = ciphers.decrypt(key, dealt.shares[holder - (holder > dealer)], cohort.digest)
                assert pair is not None
                yield holder, pair


def opened(held: Held, threshold: int) -> dict[int, bytes]:
    """Return the secrets of which there are enough shares, by dealer."""
    found = {
        dealer: shamir.open_secret(shares, threshold) for dealer, shares in held.items() if len(shares) >= threshold
    }
    assert None not in found.values()
    return {dealer: secret for dealer, secret in found.items() if secret is not None}
