from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import msgspec
import numpy as np
import pytest
import secure_scene as scene
from secure_scene import (
    ANY_THRESHOLD,
    OTHER_QUESTION,
    QUESTION,
    STEPS,
    Scene,
    breaches,
    computable,
    identity,
    missing,
)

from fedmq.errors import BadConfiguration, PolicyRefused, ProtocolError, Rejected
from fedmq.secure_sums import ledger as ledgers
from fedmq.secure_sums import masks, shamir
from fedmq.secure_sums.aggregator import SumPhase
from fedmq.secure_sums.ledger import Entry, Ledger
from fedmq.secure_sums.messages import (
    PARTS_MAX,
    Cohort,
    EncryptedShares,
    Keys,
    ListSignature,
    MaskedInput,
    Member,
    Opened,
    OpenedTotal,
    Opening,
    RevealedShares,
    SignedSurvivors,
    Survivors,
    from_bytes,
    keys_text,
    list_text,
    parts_from_bytes,
    parts_to_bytes,
    to_bytes,
)
from fedmq.secure_sums.policy import SumPolicy, colluders_max, default_threshold
from fedmq.secure_sums.trainer import SumTrainer
from fedmq.security.keys import PublicIdentity


@pytest.fixture(autouse=True)
def verify_each_signature_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PublicIdentity, "verifies", scene.once(PublicIdentity.verifies))


def cases() -> Iterator[tuple[int, int, type | None]]:
    for members in (3, 4, 5, 10):
        for count in sorted({0, 1, members // 3}):
            yield from ((members, count, step) for step in (STEPS if count else STEPS[:1]))
    yield from ((10, 3, None), (30, 0, None), (30, 10, None))


@pytest.mark.parametrize(("members", "count", "step"), list(cases()))
def test_total_has_the_bits_of_the_plain_sum(members: int, count: int, step: type | None) -> None:
    one = Scene(members, seed=members)
    gone = list(one.trainers)[:count]
    one.lost = missing(gone, step)
    one.until(SumPhase.CLOSED)
    total = one.aggregator.total
    assert total is not None
    assert total.values == one.plain(total.survivors)
    early = [name for name in gone if one.lost(name, MaskedInput(bytes(32), b""))]
    assert set(total.survivors) == set(one.trainers) - set(early)
    assert breaches(one) == one.refused == []


@pytest.mark.parametrize("step", STEPS)
def test_nothing_is_opened_below_the_threshold(step: type) -> None:
    one = Scene(4)
    one.lost = missing(list(one.trainers)[:2], step)
    one.until(SumPhase.ABANDONED if step is not RevealedShares else SumPhase.CLOSED)
    assert one.aggregator.total is None
    shares = [message for _, message in one.frames if isinstance(message, RevealedShares)]
    if step is RevealedShares:  # the aggregator asks again, and the trainers send the same shares
        assert one.aggregator.phase is SumPhase.UNMASKING
        one.lost = lambda name, message: False
        one.until(SumPhase.CLOSED)
        assert one.aggregator.total is not None
        assert breaches(one) == []
    else:
        assert one.aggregator.why
        assert shares == []


def test_aggregator_restarts_at_each_message() -> None:
    for restart_at in range(1, 22):
        for drops in ((), ("t00",)):
            one = Scene(4, seed=restart_at)
            one.restart_at = restart_at
            one.lost = missing(list(drops), MaskedInput)
            one.until(SumPhase.CLOSED)
            assert one.aggregator.total is not None, restart_at
            assert one.aggregator.total.values == one.plain(one.aggregator.total.survivors)
            assert breaches(one) == []
            # a total is never counted twice
            again = type(one.aggregator).restore(one.name, one.saved)
            assert (again.phase, again.total, again.requests().send) == (SumPhase.CLOSED, one.aggregator.total, ())


def test_trainer_restarts_at_each_message() -> None:
    for restart_at in range(1, 18):
        one = Scene(4, seed=restart_at)
        one.restart_at, one.restarts = restart_at, "t01"
        one.until(SumPhase.CLOSED)
        assert one.aggregator.total is not None, one.refused
        assert one.aggregator.total.values == one.plain(one.aggregator.total.survivors)
        assert breaches(one) == []
        after = Scene(4, seed=100 + restart_at, ledgers=one.ledgers)
        after.until(SumPhase.CLOSED, OTHER_QUESTION)
        assert after.aggregator.total is not None
        assert len(after.aggregator.total.survivors) == 4


def test_restarted_trainer_repeats_its_bytes_and_answers_nothing_else() -> None:
    one = Scene(4)
    one.until(SumPhase.CLOSED)
    aggregator, name = one.aggregator, "t01"
    journal = [msgspec.msgpack.encode(entry) for owner, entry in one.entries if owner == name]
    assert len(journal) == 3
    ledger = Ledger(msgspec.msgpack.decode(entry, type=Entry) for entry in journal)
    sent = {type(message): message for sender, message in one.frames if sender == name}
    restarted = SumTrainer(one.name, identity(1), SumPolicy(), ledger)
    survivors = next(saved.record for saved in one.saved if isinstance(saved.record, Survivors))
    signed = next(saved.record for saved in one.saved if isinstance(saved.record, SignedSurvivors))
    opening = aggregator._opening(1)
    other_rows = np.zeros(5, np.int64)
    assert restarted.answer(opening, other_rows) == (None, sent[MaskedInput])
    assert restarted.sign(survivors) == (None, sent[ListSignature])
    assert restarted.reveal(signed) == (None, sent[RevealedShares])
    with pytest.raises(Rejected, match="order"):
        restarted.answer(msgspec.structs.replace(opening, question=OTHER_QUESTION), other_rows)
    with pytest.raises(Rejected, match="answered here"):
        restarted.sign(Survivors(one.sum_id, b"\x07"))
    with pytest.raises(Rejected, match="keys of this sum"):
        restarted.deal(one.cohort)


# Refusals of a trainer


def dealt(members: int = 4, **settings: Any) -> Scene:
    one = Scene(members, **settings)
    one.take(one.aggregator.fix_cohort())
    one.settle()
    return one


def collected(members: int = 4) -> tuple[Scene, SumTrainer, Opening]:
    """All have answered; the list of survivors is not signed yet."""
    one = Scene(members)
    one.until(SumPhase.CONSISTENCY)
    one.queue.clear()
    return one, one.trainers["t00"], one.aggregator._opening(0)


def fresh_cohort(change: Callable[[Cohort], Cohort], policy: SumPolicy | None = None) -> None:
    """Deal for a changed cohort of ten."""
    one = Scene(10, policy=policy)
    one.aggregator.fix_cohort()
    one.trainers["t03"].deal(change(one.aggregator._cohort))


def replaced(cohort: Cohort, place: int, **fields: Any) -> Cohort:
    members = list(cohort.members)
    members[place] = msgspec.structs.replace(members[place], **fields)
    return msgspec.structs.replace(cohort, members=tuple(members))


def signed_again(cohort: Cohort, place: int, **fields: bytes) -> Cohort:
    """A Byzantine member signs other keys."""
    one = msgspec.structs.replace(cohort.members[place], **fields)
    signature = identity(place).sign(keys_text(cohort.sum, one.share_key, one.mask_key))
    return replaced(cohort, place, **fields, signature=signature)


PEERS = frozenset(identity(index).public.fingerprint for index in range(10))
LOW_ORDER = bytes(32)
COHORTS: dict[str, tuple[Callable[[Cohort], Cohort], SumPolicy | None, type[Exception], str]] = {
    "too-small": (lambda c: c, SumPolicy(members_min=11), PolicyRefused, "at least 11 members"),
    "alone": (
        lambda c: msgspec.structs.replace(c, members=c.members[3:4], threshold=1),
        SumPolicy(members_min=1),
        PolicyRefused,
        "withstands 0 colluders of 1",
    ),
    "threshold": (lambda c: msgspec.structs.replace(c, threshold=6), None, PolicyRefused, "withstands 3 colluders"),
    "above-all": (lambda c: msgspec.structs.replace(c, threshold=11), None, PolicyRefused, "threshold"),
    "colluders": (lambda c: c, SumPolicy(colluders=4), PolicyRefused, "withstands 4 colluders"),
    "pinned": (lambda c: c, SumPolicy(peers=PEERS - {identity(5).public.fingerprint}), PolicyRefused, "t05"),
    "twice": (lambda c: replaced(c, 1, identity=c.members[2].identity), None, Rejected, "twice"),
    "one-key-twice": (lambda c: signed_again(c, 1, mask_key=c.members[2].mask_key), None, Rejected, "twice"),
    "unsigned": (lambda c: replaced(c, 1, mask_key=b"m" * 32), None, Rejected, "t01 has signed"),
    "low-order-share": (lambda c: signed_again(c, 1, share_key=LOW_ORDER), None, Rejected, "low order of t01"),
    "low-order-mask": (lambda c: signed_again(c, 1, mask_key=LOW_ORDER), None, Rejected, "low order of t01"),
    "without-itself": (
        lambda c: msgspec.structs.replace(c, members=c.members[4:], threshold=4),
        None,
        Rejected,
        "got one without",
    ),
    "old-keys": (lambda c: signed_again(c, 3, mask_key=b"m" * 32), None, Rejected, "keys of this sum"),
    "other-sum": (lambda c: msgspec.structs.replace(c, sum=bytes(32)), None, Rejected, "another"),
}


@pytest.mark.parametrize("case", COHORTS)
def test_trainer_refuses_the_cohort(case: str) -> None:
    change, policy, error, text = COHORTS[case]
    with pytest.raises(error, match=text):
        fresh_cohort(change, policy)


def test_trainer_deals_for_one_cohort_only() -> None:
    fresh_cohort(lambda c: c, SumPolicy(peers=PEERS, colluders=3))
    one = dealt()
    trainer = one.trainers["t00"]
    assert trainer.deal(one.cohort) == trainer.deal(one.cohort)
    with pytest.raises(Rejected, match="one cohort"):
        trainer.deal(msgspec.structs.replace(one.cohort, threshold=4))


def test_trainer_answers_one_question_in_a_sum() -> None:
    one, trainer, opening = collected()
    assert trainer.answer(opening, one.values["t00"]).save is None
    with pytest.raises(Rejected, match="one question"):
        trainer.answer(msgspec.structs.replace(opening, question=OTHER_QUESTION), one.values["t00"])


def test_trainer_refuses_shares_and_dealers_that_do_not_fit() -> None:
    one = dealt()
    one.aggregator.open(QUESTION, 5)
    trainer, opening = one.trainers["t00"], one.aggregator._opening(0)
    values = one.values["t00"]
    changes: list[tuple[dict[str, Any], str]] = [
        ({"shares": opening.shares[:2]}, "shares of 3 dealers"),
        ({"shares": (opening.shares[1], opening.shares[0], opening.shares[2])}, "t01 has encrypted"),
        ({"dealers": b"\x03", "shares": opening.shares[:1]}, "at least 3 members, got 2"),
        ({"dealers": b"\x0e"}, "without"),
        ({"dealers": b"\x1f"}, "no bitmap"),
        ({"sum": bytes(32)}, "another"),
    ]
    for fields, text in changes:
        with pytest.raises((Rejected, PolicyRefused), match=text):
            trainer.answer(msgspec.structs.replace(opening, **fields), values)
    for wrong in (values[:4], values.astype(np.float64)):
        with pytest.raises(ProtocolError, match="5 values of int64"):
            trainer.answer(opening, wrong)
    assert trainer.answer(opening, values).save is not None


def test_trainer_signs_one_list_only_of_survivors_that_dealt() -> None:
    one, trainer, _ = collected()
    for wrong, text in ((b"\x03", "got 2"), (b"\x0e", "without"), (b"\x1f", "no bitmap")):
        with pytest.raises(Rejected, match=text):
            trainer.sign(Survivors(one.sum_id, wrong))
    assert trainer.sign(Survivors(one.sum_id, b"\x07")).save is not None
    assert trainer.sign(Survivors(one.sum_id, b"\x07")).save is None
    with pytest.raises(Rejected, match="one list"):
        trainer.sign(Survivors(one.sum_id, b"\x0f"))
    absent = Scene(4)
    absent.lost = missing(["t03"], EncryptedShares)
    absent.until(SumPhase.CONSISTENCY)
    with pytest.raises(Rejected, match="have dealt"):
        absent.trainers["t00"].sign(Survivors(absent.sum_id, b"\x0f"))


def signed_list(one: Scene, opening: Opening, survivors: int, signers: int) -> SignedSurvivors:
    text = list_text(one.cohort, opening, bytes([survivors]))
    signatures = tuple(identity(index).sign(text) for index in range(4) if signers >> index & 1)
    return SignedSurvivors(one.sum_id, bytes([survivors]), bytes([signers]), signatures)


def test_trainer_reveals_shares_only_for_the_list_it_signed_with_enough_signatures() -> None:
    one, trainer, opening = collected()
    full = signed_list(one, opening, 0b0111, 0b0111)
    with pytest.raises(Rejected, match="has signed"):
        trainer.reveal(full)
    trainer.sign(Survivors(one.sum_id, b"\x07"))
    wrong = [
        (signed_list(one, opening, 0b0111, 0b0011), "at least 3 signatures"),
        (signed_list(one, opening, 0b0111, 0b1011), "all of them survivors"),
        (signed_list(one, opening, 0b1111, 0b1111), "this trainer has signed"),
        (msgspec.structs.replace(full, signatures=full.signatures[::-1]), "signed by t0"),
        (msgspec.structs.replace(full, signatures=full.signatures[:2]), "of each signer"),
        (signed_list(one, msgspec.structs.replace(opening, question=OTHER_QUESTION), 0b0111, 0b0111), "signed by t0"),
        (signed_list(one, msgspec.structs.replace(opening, dealers=b"\x07"), 0b0111, 0b0111), "signed by t0"),
    ]
    for request, text in wrong:
        with pytest.raises(Rejected, match=text):
            trainer.reveal(request)
    save, shares = trainer.reveal(full)
    assert save is not None
    assert isinstance(shares, RevealedShares)
    assert save.shares == shares
    assert trainer.reveal(full) == (None, shares)
    with pytest.raises(Rejected, match="has signed"):  # never both kinds for one trainer
        trainer.reveal(signed_list(one, opening, 0b1111, 0b1111))
    secrets = [
        value for key, value in vars(trainer).items() if key.endswith(("_secret", "_self_mask")) or key == "_shares"
    ]
    assert not any(secrets)


def test_trainer_verifies_no_more_signatures_of_a_list_than_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    one, trainer, opening = collected()
    trainer.sign(Survivors(one.sum_id, b"\x0f"))
    verified: list[str] = []

    def verifies(identity: PublicIdentity, signature: bytes, signed: bytes) -> bool:
        verified.append(identity.name)
        return True

    monkeypatch.setattr(PublicIdentity, "verifies", verifies)
    trainer.reveal(signed_list(one, opening, 0b1111, 0b1111))
    assert verified == ["t01", "t02"], "with its own there are three, the threshold"


def test_spent_question_is_refused_in_every_other_sum() -> None:
    first = Scene(4, seed=1)
    first.until(SumPhase.CLOSED)
    for members in ([0, 1, 2, 3], [0, 1, 2]):  # the same cohort, and one whose total differs by one answer
        ledgers = {identity(index).name: first.ledgers[identity(index).name] for index in members}
        second = dealt(seed=2, indexes=members, ledgers=ledgers)
        second.aggregator.open(QUESTION, 5)
        with pytest.raises(PolicyRefused, match="new question"):
            second.trainers["t00"].answer(second.aggregator._opening(0), second.values["t00"])
    third = Scene(4, seed=3, ledgers=first.ledgers)
    third.until(SumPhase.CLOSED, OTHER_QUESTION)
    assert third.aggregator.total is not None


def test_answer_in_a_later_sum_ends_the_earlier_one() -> None:
    first, trainer, _ = collected()
    trainer.sign(Survivors(first.sum_id, b"\x0f"))
    second = Scene(4, seed=2, ledgers=first.ledgers)
    second.until(SumPhase.CLOSED)
    assert second.aggregator.total is not None
    opening = first.aggregator._opening(0)
    for request in (
        lambda: trainer.sign(Survivors(first.sum_id, b"\x0f")),
        lambda: trainer.reveal(signed_list(first, opening, 0b1111, 0b1111)),
        lambda: trainer.answer(opening, first.values["t00"]),
    ):
        with pytest.raises(Rejected, match=r"later sum|one question"):
            request()


def test_sums_of_one_question_go_forward_only() -> None:
    """Otherwise a trainer that opens one sum may have answered the other, and their totals differ by fewer members."""
    later = Scene(4, seed=2)
    later.until(SumPhase.CONSISTENCY)
    earlier = dealt(seed=1, ledgers=later.ledgers)
    earlier.aggregator.open(QUESTION, 5)
    with pytest.raises(PolicyRefused, match="earlier one"):
        earlier.trainers["t00"].answer(earlier.aggregator._opening(0), earlier.values["t00"])


def test_ledger_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers, "QUESTIONS_MAX", 1)
    one = Scene(4, seed=1)
    one.until(SumPhase.CLOSED)
    two = dealt(seed=2, ledgers=one.ledgers)
    two.aggregator.open(OTHER_QUESTION, 5)
    with pytest.raises(PolicyRefused, match="at most 1 questions"):
        two.trainers["t00"].answer(two.aggregator._opening(0), two.values["t00"])


# The aggregator


def test_aggregator_rejects_messages_that_do_not_fit() -> None:
    one = Scene(4)
    keys = one.trainers["t00"].advertise()
    aggregator = one.aggregator
    with pytest.raises(Rejected, match="t01 has signed"):
        aggregator.join(identity(1).public, keys)
    with pytest.raises(Rejected, match="another"):
        aggregator.join(identity(0).public, msgspec.structs.replace(keys, sum=bytes(32)))
    copied = msgspec.structs.replace(keys, signature=identity(1).sign(keys_text(*msgspec.structs.astuple(keys)[:3])))
    with pytest.raises(Rejected, match="only t01 has, and once, got one of t00"):
        aggregator.join(identity(1).public, copied)
    with pytest.raises(BadConfiguration, match="phase sharing"):
        aggregator.open(QUESTION, 5)
    one.until(SumPhase.CONSISTENCY)
    bad_signature = ListSignature(one.sum_id, bytes(64))
    for sender, message, text in (
        ("t09", bad_signature, "a member of the cohort"),
        ("t00", bad_signature, "signed by t00"),
        ("t00", keys, "after its keys"),
        ("t00", msgspec.structs.replace(bad_signature, sum=bytes(32)), "of this sum"),
    ):
        with pytest.raises(Rejected, match=text):
            aggregator.receive(sender, message)
    late = MaskedInput(one.sum_id, bytes(40))
    assert aggregator.receive("t00", late) == ((), ())
    one.until(SumPhase.CLOSED)
    assert aggregator.total is not None
    assert aggregator.total.values == one.plain(one.trainers)


def test_aggregator_checks_sizes() -> None:
    one = dealt()
    early = Scene(4)
    early.aggregator.fix_cohort()
    with pytest.raises(Rejected, match="3 shares"):
        early.aggregator.receive("t00", EncryptedShares(early.sum_id, ()))
    one.aggregator.open(QUESTION, 5)
    with pytest.raises(Rejected, match="5 numbers"):
        one.aggregator.receive("t00", MaskedInput(one.sum_id, bytes(48)))


@pytest.mark.parametrize(("members", "absent"), [(4, []), (4, ["t01"]), (6, []), (9, ["t01"])])
def test_wrong_share_gives_no_total_or_its_holder_is_found(members: int, absent: list[str]) -> None:
    """Of a self-mask: noticed with more than t shares. Of a mask secret: always. The holder: with more than t + 1."""
    one = Scene(members)
    one.lost = missing(absent, MaskedInput)
    one.until(SumPhase.UNMASKING)
    while one.queue:
        name, message = one.queue.popleft()
        reply: Any = one.reply(name, message)
        if name == "t00":
            share = reply.shares[1]
            wrong = share[:16] + bytes([share[16] ^ 1]) + share[17:]
            reply = msgspec.structs.replace(reply, shares=(reply.shares[0], wrong, *reply.shares[2:]))
        one.take(one.aggregator.receive(name, reply))
    if members > 4:
        assert one.aggregator.total is not None
        assert one.aggregator.total.values == one.plain([name for name in one.trainers if name not in absent])
        return
    assert (one.aggregator.phase, one.aggregator.total) == (SumPhase.ABANDONED, None)
    assert "t01" in one.aggregator.why
    assert "lies" in one.aggregator.why


def test_every_message_decodes_to_itself_and_damaged_bytes_are_rejected() -> None:
    one = Scene(4)
    one.until(SumPhase.CLOSED)
    assert {type(message) for _, message in one.frames} == set(STEPS)  # the scene decodes each
    *_, opened, total = [saved.record for saved in one.saved if isinstance(saved.record, Opened | OpenedTotal)]
    data = to_bytes(one.trainers["t00"]._keys)
    assert isinstance(from_bytes(data), Keys)
    for damaged in (to_bytes(opened), to_bytes(total), b"", data[:-1], b"\xc1", data + b"\0", b"\x93" * 5000):
        with pytest.raises(Rejected, match="secure sum"):
            from_bytes(damaged)


def test_parts_of_a_message_are_a_bounded_list_in_order() -> None:
    one = Scene(4)
    one.until(SumPhase.CLOSED)
    messages = [message for _, message in one.frames]
    for start in range(len(messages)):
        parts = messages[start : start + PARTS_MAX]
        assert parts_from_bytes(parts_to_bytes(parts)) == parts
    assert parts_from_bytes(parts_to_bytes([])) == []
    data = parts_to_bytes(messages[:2])
    longer = parts_to_bytes(messages[:1] * (PARTS_MAX + 1))
    for bad in (b"", data[:-1], data + b"\0", longer, to_bytes(messages[0]), b"\x91\xc4\x01\xc1", b"\x92" * 5000):
        with pytest.raises(Rejected, match="secure sum"):
            parts_from_bytes(bad)


# Survivor sets: an active aggregator may show another list to each trainer


def views(members: int, threshold: int, place: int) -> list[frozenset[int] | None]:
    """The lists that a trainer may be shown, or none."""
    sizes = range(threshold, members + 1)
    lists = [frozenset(one) for size in sizes for one in itertools.combinations(range(members), size) if place in one]
    return [None, *lists]


def open_sums(members: int, threshold: int, spies: int) -> Iterator[tuple[set[frozenset[int]], set[int]]]:
    """For each assignment of lists to honest trainers: the sums that open, and the members with both secrets known.

    The machines decide which trainers reveal shares; the last `spies` members sign every list.
    """
    one = Scene(members, threshold=lambda _: threshold, policy=ANY_THRESHOLD)
    one.until(SumPhase.CONSISTENCY)
    openings = [one.aggregator._opening(place) for place in range(members)]
    bad = frozenset(range(members - spies, members))
    honest = [place for place in range(members) if place not in bad]

    @cache
    def signature(place: int, survivors: frozenset[int]) -> bytes:
        return identity(place).sign(list_text(one.cohort, openings[place], masks.to_bitmap(survivors, members)))

    @cache
    def reveals(place: int, survivors: frozenset[int], signers: frozenset[int]) -> bool:
        original = one.trainers[identity(place).name]
        keys = original._secret_keys  # older versions of cryptography cannot copy them
        trainer = copy.deepcopy(original, {id(key): key for key in keys})
        bitmap = masks.to_bitmap(survivors, members)
        trainer.sign(Survivors(one.sum_id, bitmap))
        signatures = tuple(signature(signer, survivors) for signer in sorted(signers))
        request = SignedSurvivors(one.sum_id, bitmap, masks.to_bitmap(signers, members), signatures)
        try:
            shares = trainer.reveal(request).send
        except Rejected:
            return False
        assert isinstance(shares, RevealedShares)
        pairs = one.trainers[identity(place).name]._shares
        for dealer, share in enumerate(shares.shares):  # one kind, and the right one
            half = slice(shamir.SHARE_BYTES, None) if dealer in survivors else slice(shamir.SHARE_BYTES)
            assert share == pairs[dealer][half]
        return True

    for chosen in itertools.product(*(views(members, threshold, place) for place in honest)):
        lists: dict[int, frozenset[int] | None] = {}
        for place, survivors in zip(honest, chosen, strict=True):
            lists[place] = None
            if survivors is not None:
                signers = [other for other, same in zip(honest, chosen, strict=True) if same == survivors]
                if reveals(place, survivors, frozenset(signers) | (survivors & bad)):
                    lists[place] = survivors
        yield computable(members, threshold, range(members), lists, bad)


@pytest.mark.parametrize(
    ("members", "threshold", "spies"),
    [(3, 2, 0), (3, 3, 1), (4, 3, 0), (4, 3, 1), (4, 4, 2), (5, 4, 0), (5, 4, 1), (5, 4, 2), (5, 5, 3)],
)
def test_no_lists_open_more_than_one_sum_of_two_honest_members(members: int, threshold: int, spies: int) -> None:
    assert spies <= colluders_max(members, threshold)
    opened = 0
    for sums, both in open_sums(members, threshold, spies):
        assert not both
        assert len(sums) <= 1
        assert all(len(one) >= max(2, threshold - spies) for one in sums)
        opened += len(sums)
    assert opened


@pytest.mark.parametrize(("members", "threshold", "spies"), [(4, 2, 0), (3, 2, 1), (5, 3, 1), (4, 3, 2)])
def test_lower_thresholds_open_more_so_the_search_sees_breaches(members: int, threshold: int, spies: int) -> None:
    assert spies > colluders_max(members, threshold)
    assert any(
        both or len(sums) > 1 or any(len(one) < 2 for one in sums)
        for sums, both in open_sums(members, threshold, spies)
    )


def test_default_threshold_is_accepted_by_its_own_policy() -> None:
    rows = [(n, default_threshold(n), colluders_max(n, default_threshold(n))) for n in (3, 4, 10, 30, 100, 200)]
    assert rows == [(3, 2, 0), (4, 3, 1), (10, 7, 3), (30, 20, 9), (100, 67, 33), (200, 134, 67)]


# The judge of the messages sees what a planted bug does


def test_judge_sees_planted_bugs(monkeypatch: pytest.MonkeyPatch) -> None:
    one, trainer, opening = collected()
    trainer._opening, one.ledgers["t00"] = None, Ledger()
    trainer._ledger = Ledger()  # the ledger is forgotten, and the rows have changed
    one.frames.append(("t00", trainer.answer(opening, np.zeros(5, np.int64)).send))
    assert breaches(one) == ["t00 has used its masks twice"]

    one, trainer, opening = collected()
    monkeypatch.setattr(SumTrainer, "_check_signatures", lambda *_: None)
    pairs = dict(trainer._shares)
    for survivors in (0b0111, 0b1111):  # both kinds, neither list signed by t members
        trainer._ledger = Ledger([msgspec.structs.replace(dict(one.entries)["t00"], signature=None, survivors=b"")])
        trainer._shares = dict(pairs)
        trainer._ledger.record(
            msgspec.structs.replace(
                dict(one.entries)["t00"], survivors=bytes([survivors]), signature=ListSignature(one.sum_id, bytes(64))
            )
        )
        one.frames.append(("t00", trainer.reveal(signed_list(one, opening, survivors, survivors)).send))
    found = breaches(one)
    assert "t00 has revealed both kinds of shares" in found
    assert "t00 has revealed shares before 3 signatures" in found


def test_members_are_in_order_of_name() -> None:
    cohort = dealt().cohort
    assert [one.identity.name for one in cohort.members] == ["t00", "t01", "t02", "t03"]
    assert all(isinstance(one, Member) for one in cohort.members)
