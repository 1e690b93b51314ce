"""A trainer's half of one secure sum, without I/O: Bonawitz et al. (2017), figure 4, the user's side.

    advertise   -> Keys             two key pairs, signed
    deal        -> EncryptedShares  of the mask secret and the self-mask, to each member of the cohort
    answer      -> MaskedInput      saved first
    sign        -> ListSignature    saved first; of one list only
    reveal      -> RevealedShares   saved first; after t signatures of that list; then every secret is dropped

An answer in a later sum of the run ends all earlier ones.

The same request again gets the same message, without a save. Any other repetition is refused.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from fedmq.errors import PolicyRefused, ProtocolError, Rejected
from fedmq.secure_sums import masks, shamir
from fedmq.secure_sums.ledger import Entry, Ledger
from fedmq.secure_sums.masks import SumName
from fedmq.secure_sums.messages import (
    Cohort,
    EncryptedShares,
    FromTrainer,
    Keys,
    ListSignature,
    MaskedInput,
    Member,
    Opening,
    RevealedShares,
    SignedSurvivors,
    Survivors,
    keys_are_shared,
    keys_text,
    list_text,
)
from fedmq.secure_sums.policy import SumPolicy
from fedmq.secure_sums.shamir import SHARE_BYTES
from fedmq.security import ciphers
from fedmq.security.keys import Identity


class Output(NamedTuple):
    """Save the entry, if any, to disk; then send the message."""

    save: Entry | None
    send: FromTrainer


class DealerRefused(PolicyRefused):
    """The shares of a dealer are not encrypted for this trainer: it cannot take part in their sum."""

    def __init__(self, dealer: int, name: str) -> None:
        super().__init__(
            f"secure sum: expected shares that {name} has encrypted for this trainer and cohort, got others: "
            f"if it repeats, ban {name}"
        )
        self.dealer = dealer


class SumTrainer:
    """One trainer in one sum. Its secrets are made here and live as long as it does.

    Every method raises Rejected for a request that no honest aggregator makes, and PolicyRefused for one that the
    site does not permit, or with shares that their dealer has made wrongly; then nothing has changed. `draw` returns
    random bytes: only tests replace it.
    """

    def __init__(
        self, name: SumName, identity: Identity, policy: SumPolicy, ledger: Ledger, draw: shamir.Draw = os.urandom
    ) -> None:
        self.sum_id, self.order = name.id, name.order
        self._identity, self._policy, self._ledger, self._draw = identity, policy, ledger, draw
        self._share_secret, self._mask_secret, self._self_mask = (draw(ciphers.KEY_BYTES) for _ in range(3))
        self._secret_keys = [ciphers.secret_key(one) for one in (self._share_secret, self._mask_secret)]
        self._keys = self._advertised()
        self._cohort: Cohort | None = None
        self._place = 0
        self._agreed: dict[int, bytes] = {}  # with the share key of each other member
        self._seeds: dict[int, bytes] = {}  # of the mask with each other member
        self._dealt: EncryptedShares | None = None
        self._opening: Opening | None = None
        self._shares: dict[int, bytes] = {}  # of the mask secret and the self-mask of each dealer

    @property
    def has_dealt(self) -> bool:
        """Whether its cohort is known: it may be asked."""
        return self._dealt is not None

    @property
    def honest_min(self) -> int:
        """How many honest members its total has at least; 0 before the cohort is known."""
        return 0 if self._cohort is None else self._policy.honest_min(self._cohort)

    def advertise(self) -> Keys:
        """Return this trainer's public keys for the sum."""
        return self._keys

    def deal(self, cohort: Cohort) -> EncryptedShares:
        """Return the encrypted shares for each other member of the cohort, in order."""
        self._check_sum(cohort.sum)
        if self._dealt is not None:
            if cohort != self._cohort:
                raise Rejected("duplicate", "expected one cohort for a sum, got another")
            return self._dealt
        place = self._place_in(cohort)
        self._policy.check(cohort)
        self._check_members(cohort, place)
        agreed, seeds = self._agree(cohort, place)
        size = len(cohort.members)
        of_mask = shamir.deal(self._mask_secret, cohort.threshold, size, self._draw)
        of_self = shamir.deal(self._self_mask, cohort.threshold, size, self._draw)
        pairs = [one + other for one, other in zip(of_mask, of_self, strict=True)]
        self._cohort, self._place, self._agreed, self._seeds = cohort, place, agreed, seeds
        self._shares[place] = pairs[place]
        encrypted = tuple(
            ciphers.encrypt(masks.share_key(key, self.sum_id, place, index), pairs[index], cohort.digest)
            for index, key in agreed.items()
        )
        self._dealt = EncryptedShares(self.sum_id, encrypted)
        return self._dealt

    def answer(self, opening: Opening, values: npt.NDArray[np.int64]) -> Output:
        """Return the values, int64 of shape (opening.length,), under this trainer's masks."""
        self._check_sum(opening.sum)
        if (sent := self._ledger.reply(opening)) is not None:
            return Output(None, sent)
        cohort = self._cohort
        if cohort is None or self._opening is not None:
            raise Rejected("duplicate", "expected one question after one cohort in a sum, got another order")
        dealers = self._members(opening.dealers)
        if len(opening.shares) != len(dealers) - 1:
            raise Rejected("values", f"expected shares of {len(dealers) - 1} dealers, got {len(opening.shares)}")
        self._ledger.check(opening.question, self.order)
        if values.dtype != np.int64 or values.shape != (opening.length,):
            raise ProtocolError(f"expected {opening.length} values of int64, got {values.dtype} of {values.shape}")
        others = [index for index in dealers if index != self._place]
        shares = {index: self._decrypt(index, one) for index, one in zip(others, opening.shares, strict=True)}
        masked = values.view(np.uint64) + masks.mask(self._self_mask, opening.length)
        for other in others:
            masks.add_pair(masked, self._seeds[other], self._place, other)
        self._opening = opening
        self._shares |= shares
        answer = MaskedInput(self.sum_id, masked.astype("<u8", copy=False).tobytes())
        return Output(self._ledger.record(Entry(opening.question, self.sum_id, self.order, answer)), answer)

    def sign(self, request: Survivors) -> Output:
        """Return the signature of the list of survivors."""
        self._check_sum(request.sum)
        if (sent := self._ledger.reply(request)) is not None:
            return Output(None, sent)
        cohort, opening, entry = self._answered()
        if entry.signature is not None:
            raise Rejected("duplicate", "expected one list of survivors for a sum, got another")
        survivors = self._members(request.survivors)
        if not set(survivors) <= set(self._members(opening.dealers)):
            raise Rejected("values", "expected survivors that have dealt shares, got others")
        signature = ListSignature(self.sum_id, self._identity.sign(list_text(cohort, opening, request.survivors)))
        entry = msgspec.structs.replace(entry, survivors=request.survivors, signature=signature)
        return Output(self._ledger.record(entry), signature)

    def reveal(self, request: SignedSurvivors) -> Output:
        """Return one share for each dealer, and drop every secret of the sum."""
        self._check_sum(request.sum)
        if (sent := self._ledger.reply(request)) is not None:
            return Output(None, sent)
        cohort, opening, entry = self._answered()
        if entry.signature is None or entry.survivors != request.survivors:
            raise Rejected("signature", "expected the list of survivors that this trainer has signed, got another")
        survivors = self._members(request.survivors)
        self._check_signatures(cohort, opening, request, survivors)
        shares = RevealedShares(
            self.sum_id,
            tuple(
                self._shares[dealer][SHARE_BYTES:] if dealer in survivors else self._shares[dealer][:SHARE_BYTES]
                for dealer in self._members(opening.dealers)
            ),
        )
        for secrets in (self._shares, self._agreed, self._seeds):
            secrets.clear()
        self._share_secret = self._mask_secret = self._self_mask = b""
        self._secret_keys.clear()
        return Output(self._ledger.record(msgspec.structs.replace(entry, shares=shares)), shares)

    def _advertised(self) -> Keys:
        share_key, mask_key = (one.public_key().public_bytes_raw() for one in self._secret_keys)
        signature = self._identity.sign(keys_text(self.sum_id, share_key, mask_key))
        return Keys(self.sum_id, share_key, mask_key, signature)

    def _agree(self, cohort: Cohort, place: int) -> tuple[dict[int, bytes], dict[int, bytes]]:
        """Return what this trainer has in common with each other member: the agreement, and the seed of the mask."""
        agreed, seeds = {}, {}
        share_secret, mask_secret = self._secret_keys
        for index, member in enumerate(cohort.members):
            if index == place:
                continue
            try:
                agreed[index] = ciphers.agree(share_secret, member.share_key)
                common = ciphers.agree(mask_secret, member.mask_key)
            except ValueError:
                raise Rejected(
                    "values", f"expected X25519 keys, got one of low order of {member.identity.name}"
                ) from None
            seeds[index] = masks.pair_seed(common, self.sum_id, place, index)
        return agreed, seeds

    def _check_sum(self, sum_id: bytes) -> None:
        if sum_id != self.sum_id:
            raise Rejected("round", "expected a message of this sum, got one of another")

    def _place_in(self, cohort: Cohort) -> int:
        own = Member(self._identity.public, self._keys.share_key, self._keys.mask_key, self._keys.signature)
        if own not in cohort.members:
            raise Rejected("uninvited", "expected a cohort with this trainer's keys of this sum, got one without")
        return cohort.members.index(own)

    def _check_members(self, cohort: Cohort, place: int) -> None:
        """Check names, keys and signatures; this trainer's own is that which it made."""
        members = cohort.members
        if keys_are_shared(members) or len({one.identity.name for one in members}) < len(members):
            raise Rejected("duplicate", "expected members with names and keys of their own, got one twice")
        for one in (*members[:place], *members[place + 1 :]):
            if not one.identity.verifies(one.signature, keys_text(self.sum_id, one.share_key, one.mask_key)):
                raise Rejected("signature", f"expected keys that {one.identity.name} has signed for this sum")

    def _members(self, bitmap: bytes) -> tuple[int, ...]:
        """Return the members of a list that has at least `threshold`, this trainer among them."""
        assert self._cohort is not None
        indexes = masks.from_bitmap(bitmap, len(self._cohort.members))
        if indexes is None or len(indexes) < self._cohort.threshold:
            got = "no bitmap of the cohort" if indexes is None else len(indexes)
            raise Rejected("values", f"expected at least {self._cohort.threshold} members, got {got}")
        if self._place not in indexes:
            raise Rejected("uninvited", "expected a list with this trainer, got one without")
        return indexes

    def _answered(self) -> tuple[Cohort, Opening, Entry]:
        entry = self._ledger.of_sum(self.sum_id)
        if self._cohort is None or self._opening is None or entry is None:
            raise Rejected("round", "expected a sum whose question this trainer has answered here, and in no later sum")
        return self._cohort, self._opening, entry

    def _check_signatures(
        self, cohort: Cohort, opening: Opening, request: SignedSurvivors, survivors: tuple[int, ...]
    ) -> None:
        """Check that at least t survivors have signed the list, and the signatures of t, its own among them."""
        signers = masks.from_bitmap(request.signers, len(cohort.members))
        if signers is None or not set(signers) <= set(survivors) or len(signers) != len(request.signatures):
            raise Rejected("signature", "expected a signature of each signer, all of them survivors")
        if len(signers) < cohort.threshold:
            raise Rejected("signature", f"expected at least {cohort.threshold} signatures, got {len(signers)}")
        text = list_text(cohort, opening, request.survivors)
        others = [one for one in zip(signers, request.signatures, strict=True) if one[0] != self._place]
        for signer, signature in others[: cohort.threshold - (self._place in signers)]:
            identity = cohort.members[signer].identity
            if not identity.verifies(signature, text):
                raise Rejected("signature", f"expected the list of survivors signed by {identity.name}")

    def _decrypt(self, dealer: int, encrypted: bytes) -> bytes:
        assert self._cohort is not None
        key = masks.share_key(self._agreed[dealer], self.sum_id, dealer, self._place)
        pair = ciphers.decrypt(key, encrypted, self._cohort.digest)
        if pair is None:
            raise DealerRefused(dealer, self._cohort.members[dealer].identity.name)
        return pair
