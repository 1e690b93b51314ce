"""Sessions in secure sums, with the aggregator's machine of one sum in place of a whole aggregator."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pytest
from msgspec import structs
from secure_scene import identity, once

from fedmq.algorithms.base import encode_query
from fedmq.algorithms.evaluation.query import Evaluate
from fedmq.algorithms.evolution.query import Evolve
from fedmq.protocol.codec import MASKED, PARTS, Packet, decode, encode, model_digest_of
from fedmq.protocol.messages import Beacon, Delta, Goodbye, Hello, Refused, Result, Round, SumRequest, Welcome
from fedmq.runtime.rng import derive_rng
from fedmq.secure_sums.aggregator import Output as SumOutput
from fedmq.secure_sums.aggregator import SumAggregator, SumPhase
from fedmq.secure_sums.ledger import Ledger
from fedmq.secure_sums.masks import SumName
from fedmq.secure_sums.messages import (
    EncryptedShares,
    Keys,
    ListSignature,
    MaskedInput,
    Opening,
    QuestionSpent,
    RevealedShares,
    SharesRefused,
    SignedSurvivors,
    SumMessage,
    Survivors,
    parts_from_bytes,
    parts_to_bytes,
)
from fedmq.secure_sums.policy import SumPolicy
from fedmq.secure_sums.question import answer_of, flat, length_of, question_of
from fedmq.security.keys import PublicIdentity
from fedmq.tasks.task_file import find_task
from fedmq.trainer.machine import (
    AggregatorReplaced,
    Input,
    KeysRead,
    LedgerFailed,
    Output,
    PendingResult,
    SumIdentity,
    WorkDone,
)
from fedmq.trainer.secure_answers import DAMAGED, HAS_SUMS, LEDGERS_MAX, SUMS_KEPT, SecureAnswers
from fedmq.trainer.session import Session
from fedmq.transport.link import BrokerConnected, MessageReceived, StopRequested, Tick

FEDERATION = b"federation"
TASK, QUERY = find_task("linear"), Evaluate()
ROUND = Round(run="run", term=1, round=1, seed=0, deadline_s=10.0, task=TASK, query=encode_query(QUERY), sum=1)
BOUNDS = answer_of(QUERY, TASK, {"candidates": (2, TASK.model.num_parameters)})
Kind = TypeVar("Kind")


@pytest.fixture(autouse=True)
def verify_each_signature_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PublicIdentity, "verifies", once(PublicIdentity.verifies))


def published(message: Round, model: float) -> Packet:
    return decode(encode("round/run", message, {"candidates": np.full((2, TASK.model.num_parameters), model)}))


class Site:
    """One trainer: a session, what it has on disk, and what it has sent."""

    def __init__(
        self, index: int, policy: SumPolicy | None = None, *, keys: bool = True, required: bool = False
    ) -> None:
        self.index, self.identity, self.policy = index, identity(index), policy
        self.keys, self.required, self.name = keys, required, identity(index).name
        self.entries: dict[str, list[Any]] = {}
        self.results: dict[tuple[str, int], PendingResult] = {}
        self.started: list[int] = []
        self.sent: list[Any] = []
        self.goodbyes: list[Goodbye] = []
        self.draws = random.Random(index)
        self.start()

    def start(self) -> None:
        ledgers = [(run, Ledger(entries)) for run, entries in self.entries.items()]
        member = SumIdentity(FEDERATION, self.identity) if self.keys else None
        secure = SecureAnswers(member, self.policy, required=self.required, ledgers=ledgers, draw=self.draws.randbytes)
        jitter, pending = derive_rng(1, "jitter"), list(self.results.values())
        self.session = Session(self.name, 2, "test", jitter, pending, secure=secure)
        self.take(BrokerConnected())

    def take(self, event: Input, now: float = 0.0) -> list[Any]:
        """Return the messages of secure sums that leave, and results."""
        output = self.session.step(event, now)
        sent = self._done(output)
        while self.session.wake_at is not None and self.session.wake_at <= now:
            sent += self._done(self.session.step(Tick(), now))
        return sent

    def _done(self, output: Output) -> list[Any]:
        for result in output.keeps:
            self.results[result.run, result.round] = result
        for run, entry in output.entries:
            self.entries[run] = [] if entry is None else [*self.entries.get(run, []), entry]
        for one in output.drops:
            self.results.pop(one, None)
        if output.start is not None:
            self.started.append(output.start.message.round)  # type: ignore[union-attr]
        sent: list[Any] = []
        for outgoing in output.sends:
            message = decode(encode(outgoing.topic, outgoing.message, outgoing.arrays))
            if isinstance(message.message, Goodbye):
                self.goodbyes.append(message.message)
            if isinstance(message.message, Result):
                sent.append(message)
            if PARTS in message.arrays:
                sent += parts_from_bytes(message.arrays[PARTS].tobytes())
        self.sent += sent
        return sent

    def join(self, index: int, run: str = "run", term: int = 1) -> None:
        self.hear(Beacon(run=run, term=term, round=0, open=False))
        self.hear(Welcome(run=run, term=term, trainer=self.name, index=index))

    def hear(self, message: Any, parts: list[SumMessage] | None = None) -> list[Any]:
        arrays = None if parts is None else {PARTS: np.frombuffer(parts_to_bytes(parts), np.uint8)}  # type: ignore[arg-type]
        return self.take(MessageReceived(decode(encode("topic", message, arrays))))

    def work(self, round: int = 1, run: str = "run") -> list[Any]:
        """Do the work: the same values for the same round."""
        losses = np.array([1.5 * self.index + round, 2.0])
        return self.take(WorkDone(run, round, {"losses": losses, "correct": np.array([self.index, 1])}, 0.1, 2))

    def asked(self, round: int = 1, number: int = 1, term: int = 1, model: float | None = None) -> list[Any]:
        message = structs.replace(ROUND, round=round, sum=number, term=term, invited=b"\xff")
        return self.take(MessageReceived(published(message, float(round) if model is None else model)))

    @property
    def values(self) -> np.ndarray:
        """What the site would send plainly for round 1."""
        losses = np.array([int((1.5 * self.index + 1) * 2**16), 2 * 2**16])
        return flat(BOUNDS, {"losses": losses, "correct": np.array([self.index, 1])})


class Run:
    """An aggregator of sites, without its rounds."""

    def __init__(self, sites: list[Site]) -> None:
        self.sites = {site.name: site for site in sites}
        self.sums: dict[int, SumAggregator] = {}
        self.term = 1
        for index, site in enumerate(sites):
            site.join(index)

    def request(self, parts: list[SumMessage] | None = None, advertise: int = 0) -> SumRequest:
        return SumRequest(run="run", term=self.term, advertise=advertise)

    def prepare(self, number: int, *names: str) -> SumAggregator:
        """Ask for keys, and let all deal."""
        one = self.sums[number] = SumAggregator(SumName(FEDERATION, "run", self.term, number))
        for name in names or self.sites:
            (keys,) = self.sites[name].hear(self.request(advertise=number))
            one.join(self.sites[name].identity.public, keys)
        self.deliver(one, one.fix_cohort())
        assert one.phase is SumPhase.SHARING
        return one

    def open(self, number: int, message: Round, lost: Callable[[str, Any], bool] = lambda name, message: False) -> None:
        one = self.sums[number]
        self.deliver(one, one.open(question_of(message), length_of(BOUNDS)), lost)

    def deliver(
        self, one: SumAggregator, output: SumOutput, lost: Callable[[str, Any], bool] = lambda name, message: False
    ) -> None:
        """Deliver each message, and give its replies to the sum."""
        queue = list(output.send)
        while queue:
            name, message = queue.pop(0)
            for reply in self.sites[name].hear(self.request(), [message]):
                if not lost(name, reply):
                    queue += self.receive(one, name, reply).send

    def receive(self, one: SumAggregator, name: str, reply: Any) -> SumOutput:
        if isinstance(reply, Packet):
            assert isinstance(reply.message, Result)
            assert reply.message.v == 3
            assert reply.message.sum == one.sum_id
            return one.receive(name, MaskedInput(one.sum_id, reply.arrays[MASKED].astype("<i8").tobytes()))
        return SumOutput() if isinstance(reply, Keys) or reply.sum != one.sum_id else one.receive(name, reply)


def sites(count: int = 3, **settings: Any) -> list[Site]:
    return [Site(index, **settings) for index in range(count)]


def question(round: int = 1) -> Round:
    message = published(structs.replace(ROUND, round=round, invited=b"\xff"), float(round)).message
    assert isinstance(message, Round)
    return message


def of(kind: type[Kind], messages: list[Any]) -> list[Kind]:
    return [one for one in messages if isinstance(one, kind)]


def masked_in(messages: list[Any]) -> list[bytes]:
    return [one.arrays[MASKED].tobytes() for one in of(Packet, messages)]


def answered() -> Run:
    """Three sites that have answered round 1 in sum 1, which stands before its list of survivors."""
    run = Run(sites())
    run.prepare(1)
    for site in run.sites.values():
        site.asked()
        site.work()
    run.open(1, question(), lost=lambda name, message: True)
    return run


def test_total_is_that_of_the_plain_answers_and_keys_travel_with_them() -> None:
    run = Run(sites(4))
    one = run.prepare(1)
    for site in run.sites.values():
        assert site.asked() == [], "keys go with the answer"
        assert site.work() == [], "the sum is not open"
    run.open(1, question())
    assert one.total is not None
    total = sum((site.values for site in run.sites.values()), np.zeros(4, np.int64))
    assert one.total.values == total.astype("<i8").tobytes()
    for site in run.sites.values():
        kinds = [type(message) for message in site.sent]
        assert kinds == [Keys, EncryptedShares, Packet, Keys, ListSignature, RevealedShares]
        assert site.sent[3].sum == SumName(FEDERATION, "run", 1, 2).id
        (result,) = of(Packet, site.sent)
        assert set(result.arrays) == {MASKED, PARTS}
        assert len(site.entries["run"]) == 3
        assert site.results, "the result is pending until the total is committed"


def test_opening_may_come_before_the_round_and_before_the_work_is_done() -> None:
    for early in (True, False):
        run = Run(sites())
        run.prepare(1)
        site = run.sites["t00"]
        opening = Opening(run.sums[1].sum_id, question_of(question()), length_of(BOUNDS), b"\x07", ())
        run.open(1, question(), lost=lambda name, message: True)
        assert not of(Packet, site.sent)
        if early:
            site.asked()
            assert len(of(Packet, site.work())) == 1
            assert len(of(Packet, site.hear(run.request(), [run.sums[1]._opening(0)]))) == 1, "again, the same"
            assert len(set(masked_in(site.sent))) == 1
        else:
            site.asked()
            site.hear(run.request(), [structs.replace(opening, question=bytes(32), sum=run.sums[1].sum_id)])
            assert not of(Packet, site.work()), "it asks something else than the round"
            assert site.session.rejections == {"query": 1}


@pytest.mark.parametrize("lost", [False, True])
def test_shares_for_the_next_cohort_leave_with_those_that_the_open_sum_reveals(lost: bool) -> None:
    run = answered()
    site, one = run.sites["t00"], run.sums[1]
    after = SumAggregator(SumName(FEDERATION, "run", 1, 2))
    for other in run.sites.values():
        after.join(other.identity.public, of(Keys, other.sent)[-1])
    cohort = after.fix_cohort().send[0][1]
    request = encode(
        "topic",
        run.request(),
        {PARTS: np.frombuffer(parts_to_bytes([cohort, Survivors(one.sum_id, b"\x07")]), np.uint8)},
    )
    first = site._done(site.session.step(MessageReceived(decode(request)), 0.0))
    assert [type(message) for message in first] == [ListSignature]
    assert site.session.wake_at == 0.0
    assert site.take(Tick()) == [], "made, not sent"
    assert site.session.wake_at is None
    if lost:  # the aggregator asks again
        assert [type(message) for message in site.hear(run.request(), [cohort])] == [EncryptedShares]
    listed = Survivors(one.sum_id, b"\x07")
    others = [other.hear(run.request(), [listed])[0] for other in list(run.sites.values())[1:]]
    signed = SignedSurvivors(one.sum_id, b"\x07", b"\x07", tuple(sent.signature for sent in (*first, *others)))
    kinds = [RevealedShares] if lost else [RevealedShares, EncryptedShares]
    assert [type(message) for message in site.hear(run.request(), [signed])] == kinds
    assert [type(message) for message in site.hear(run.request(), [signed])] == [RevealedShares], "again, the same"


def test_restarted_trainer_repeats_its_bytes_and_takes_part_in_the_next_sum() -> None:
    run = answered()
    site, one = run.sites["t01"], run.sums[1]
    opening = one._opening(1)
    (sent,) = masked_in(site.sent)
    (signature,) = site.hear(run.request(), [Survivors(one.sum_id, b"\x07")])
    site.start()
    site.join(1)
    site.asked()
    again = site.hear(run.request(), [opening])
    assert masked_in(again) == [sent]
    assert site.started == [1], "its result is pending"
    assert site.hear(run.request(), [Survivors(one.sum_id, b"\x07")]) == [signature]
    assert site.hear(run.request(), [Survivors(one.sum_id, b"\x03")]) == [], "its secrets are gone"
    second = run.prepare(2)
    assert len(second._dealt) == 3


def test_same_round_in_another_sum_costs_no_work_and_has_other_masks() -> None:
    run = answered()
    site = run.sites["t00"]
    run.sums[1].abandon()
    run.prepare(2)
    site.hear(Refused(run="run", term=1, trainer="t00", round=1, reason="round", detail="late"))
    site.asked(number=2)
    assert site.started == [1]
    run.open(2, question(), lost=lambda name, message: True)
    first, second = masked_in(site.sent)
    assert first != second
    assert not site.goodbyes
    run.sums[1].phase = SumPhase.CONSISTENCY
    assert site.hear(run.request(), [Survivors(run.sums[1].sum_id, b"\x07")]) == [], "the earlier sum has ended"


def test_restarted_trainer_with_a_pending_result_asks_for_a_delta_in_full() -> None:
    run = answered()
    site = run.sites["t01"]
    run.sums[1].abandon()
    site.start()
    site.join(1)
    run.prepare(2)
    full = structs.replace(question(), sum=2, invited=b"\xff")
    delta = structs.replace(full, arrays=(), delta=Delta(bytes(32), model_digest_of(full)))
    output = site.session.step(MessageReceived(decode(encode("round/run", delta))), 1.0)
    (hello,) = (one.message for one in output.sends)
    assert isinstance(hello, Hello)
    assert hello.round == 0, "it asks for the round, which says how long the masked answer is"
    site.asked(number=2)
    run.open(2, question(), lost=lambda name, message: True)
    assert len(set(masked_in(site.sent))) == 2
    assert site.session.rejections == {}
    assert site.started == [1], "its result was pending"


def test_round_without_the_arrays_of_its_query_does_not_end_a_trainer() -> None:
    site = Run(sites()).sites["t00"]
    message = structs.replace(ROUND, invited=b"\xff")
    site.take(MessageReceived(decode(encode("round/run", message))))
    assert [one.reason for one in site.goodbyes] == ["query"]


def test_trainer_that_was_no_dealer_works_when_the_round_is_asked_in_its_sum() -> None:
    run = Run(sites())
    site = run.sites["t00"]
    message = structs.replace(ROUND, sum=1, invited=b"\x06", round=2)
    sent = site.take(MessageReceived(published(message, 1.0)))
    assert [type(one) for one in sent] == [Keys], "it advertises for the next sum at once"
    assert site.started == []
    assert of(Keys, site.asked(number=2, round=2, model=1.0)) != []
    assert site.started == [2]


def test_late_answer_of_a_round_is_dropped_with_the_next_round() -> None:
    run = answered()
    site = run.sites["t02"]
    assert site.results
    site.asked(round=2, number=2)
    assert not site.results
    assert site.started == [1, 2]


def test_question_whose_sum_was_opened_is_refused() -> None:
    run = Run(sites())
    run.prepare(1)
    for site in run.sites.values():
        site.asked()
        site.work()
    run.open(1, question())
    run.term = 2
    for index, site in enumerate(run.sites.values()):
        site.join(index, term=2)
    run.prepare(2)
    site = run.sites["t00"]
    site.asked(term=2, number=2)
    run.open(2, question(), lost=lambda name, message: True)
    assert site.sent[-2] == QuestionSpent(run.sums[2].sum_id)
    assert not site.goodbyes


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"keys": False}, "--keys"),
        ({"policy": SumPolicy(members_min=4)}, "at least 4 members, got 3"),
        ({"policy": SumPolicy(peers=frozenset({identity(1).public.fingerprint}))}, "pinned keys, got t02"),
    ],
)
def test_site_declines_a_sum_that_it_does_not_permit(settings: dict[str, Any], text: str) -> None:
    strict = Site(0, **settings)
    others = [Site(1), Site(2)]
    for index, site in enumerate((strict, *others)):
        site.join(index)
    if strict.keys:
        one = SumAggregator(SumName(FEDERATION, "run", 1, 1))
        for site in (strict, *others):
            (keys,) = of(Keys, site.hear(SumRequest(run="run", term=1, advertise=1)))
            one.join(site.identity.public, keys)
        strict.hear(SumRequest(run="run", term=1), [one.fix_cohort().send[0][1]])
    else:
        strict.asked()
    assert [one.reason for one in strict.goodbyes] == ["policy"]
    assert text in strict.goodbyes[0].detail
    assert strict.session.working is None
    assert strict.hear(SumRequest(run="run", term=1, advertise=2)) == [], "a declined run gets nothing"


@pytest.mark.parametrize(("shared", "is_answered"), [(2, True), (3, False)])
def test_noise_is_shared_by_the_honest_members_of_a_total(
    monkeypatch: pytest.MonkeyPatch, shared: int, *, is_answered: bool
) -> None:
    asked = SecureAnswers.asked
    monkeypatch.setattr(SecureAnswers, "asked", lambda *args: asked(*args)._replace(noise_shared=shared))
    run = answered()  # three members: t - f is 2
    for site in run.sites.values():
        assert bool(of(Packet, site.sent)) is is_answered
        assert [one.reason for one in site.goodbyes] == [] if is_answered else ["policy"]


def test_shares_that_do_not_decrypt_keep_a_site_out_of_their_sum_only() -> None:
    run = Run(sites())
    one, site = run.prepare(1), run.sites["t01"]
    site.asked()
    site.work()
    one.open(question_of(question()), length_of(BOUNDS))
    opening = one._opening(1)
    wrong = structs.replace(opening, shares=(opening.shares[0], bytes(len(opening.shares[1]))))
    refusal, keys = site.hear(run.request(), [wrong])
    assert refusal == SharesRefused(one.sum_id, 2)
    assert isinstance(keys, Keys), "for the next sum"
    assert not site.goodbyes
    assert len(run.prepare(2)._dealt) == 3


def test_own_key_need_not_be_pinned() -> None:
    peers = frozenset(identity(index).public.fingerprint for index in (1, 2))
    run = Run([Site(0, SumPolicy(peers=peers)), Site(1), Site(2)])
    assert len(run.prepare(1)._dealt) == 3


def test_plain_question_is_declined_where_secure_sums_are_required() -> None:
    site = Site(0, required=True)
    site.take(MessageReceived(published(structs.replace(ROUND, sum=None), 1.0)))
    assert [(one.reason, one.detail[:16]) for one in site.goodbyes] == [("policy", "--require-secure")]
    assert site.started == []


def test_question_without_sums_is_declined() -> None:
    site = Site(0)
    message = structs.replace(ROUND, query=encode_query(Evolve(elites=10)))
    site.take(MessageReceived(decode(encode("round/run", message, {"pool": np.zeros((0, 3))}))))
    assert [one.reason for one in site.goodbyes] == ["query"]


def test_plain_round_does_not_get_the_result_of_a_secure_one() -> None:
    run = answered()
    site = run.sites["t00"]
    site.take(MessageReceived(published(structs.replace(ROUND, sum=None), 1.0)))
    assert not [one for one in site.take(Tick(), 60.0) if isinstance(one, Packet) and MASKED not in one.arrays]
    assert not site.results
    site.take(MessageReceived(published(structs.replace(ROUND, round=2, sum=None), 2.0)))
    assert [(one.reason, one.detail) for one in site.goodbyes] == [("policy", HAS_SUMS)]
    assert site.started == [1], "no work on the plain question"


@pytest.mark.parametrize("damaged", [False, True])
def test_plain_round_of_a_run_with_a_ledger_is_declined_after_a_restart(damaged: bool) -> None:
    site = answered().sites["t00"]
    ledger = None if damaged else Ledger(site.entries["run"])
    secure = SecureAnswers(SumIdentity(FEDERATION, site.identity), ledgers=[("run", ledger)])
    assert secure.plain_refusal("run") == (DAMAGED if damaged else HAS_SUMS)
    assert secure.plain_refusal("other") is None


def test_plain_result_of_an_earlier_start_is_dropped_with_require_secure() -> None:
    site = Site(0)
    site.join(0)
    site.take(MessageReceived(published(structs.replace(ROUND, sum=None), 1.0)))
    assert len(of(Packet, site.work())) == 1
    assert site.results
    site.required = True
    site.start()
    site.join(0)
    assert len(of(Packet, site.take(Tick(), 60.0))) == 0
    assert len(of(Packet, site.sent)) == 1
    assert not site.results


def test_trainer_about_to_leave_finishes_its_sum_and_joins_no_other() -> None:
    run = answered()
    site, one = run.sites["t00"], run.sums[1]
    site.take(StopRequested())
    assert site.hear(run.request(advertise=2)) == []
    assert len(of(ListSignature, site.hear(run.request(), [Survivors(one.sum_id, b"\x07")]))) == 1
    after = run.sums[1]
    for name in ("t01", "t02"):
        run.receive(after, name, run.sites[name].hear(run.request(), [Survivors(one.sum_id, b"\x07")])[0])


def test_messages_that_no_aggregator_sends_are_counted_and_change_nothing() -> None:
    run = answered()
    site, one = run.sites["t00"], run.sums[1]
    garbage = {PARTS: np.frombuffer(b"\x91\xc4\x01x", np.uint8)}
    site.take(MessageReceived(decode(encode("topic", run.request(), garbage))))
    site.hear(run.request(), [of(Keys, site.sent)[0]])
    site.hear(run.request(), [Survivors(one.sum_id, b"\x01")])
    assert site.session.rejections == {"header": 2, "values": 1}
    assert not site.goodbyes
    assert site.hear(run.request(), [Survivors(bytes(32), b"\x07")]) == [], "of a sum that is not known"
    assert site.hear(run.request(), [Survivors(one.sum_id, b"\x06")]) == [], "its answer came too late"
    assert site.session.rejections == {"header": 2, "values": 1}
    assert len(of(ListSignature, site.hear(run.request(), [Survivors(one.sum_id, b"\x07")]))) == 1


def test_ledger_that_cannot_be_written_ends_the_secure_sums_of_its_run() -> None:
    run = answered()
    site = run.sites["t00"]
    site.take(LedgerFailed("run"))
    assert [(one.reason, "ledger" in one.detail) for one in site.goodbyes] == [("policy", True)]
    site.join(0, term=2)
    site.asked(term=2)
    assert len(site.goodbyes) == 2, "in the next term, too"
    assert site.hear(SumRequest(run="run", term=2, advertise=1)) == []


def test_new_keys_end_the_sums_of_the_old_ones_and_the_ledger_stays() -> None:
    run = answered()
    site, one = run.sites["t00"], run.sums[1]
    site.take(KeysRead(SumIdentity(FEDERATION, site.identity)))
    assert len(of(ListSignature, site.hear(run.request(), [Survivors(one.sum_id, b"\x07")]))) == 1, "the same keys"
    site.take(KeysRead(SumIdentity(FEDERATION, identity(7))))
    assert site.session.secure.has_dealt("run", one.sum_id), "what was sent can be sent again"
    assert site.session.secure._sums == {}
    site.take(AggregatorReplaced())
    last = site.session.secure._ledgers["run"].last  # type: ignore[union-attr]
    assert last is not None
    assert last.order == (0, 0)


def test_what_a_trainer_keeps_of_sums_is_bounded() -> None:
    secure = SecureAnswers(SumIdentity(FEDERATION, identity(0)))
    keys = [secure.keys("run", 1, number) for number in range(1, SUMS_KEPT + 3)]
    assert None not in keys
    assert secure.keys("run", 1, 1) is None, "older than those kept"
    assert secure.keys("run", 1, SUMS_KEPT + 2) == keys[-1]
    assert len(secure._sums["run"]) == SUMS_KEPT
    for number in range(LEDGERS_MAX + 1):
        secure._ledger(f"run{number}")
    assert secure.touch("run3") == ["run", "run0"], "two too many with the first run"
    secure.forget("run5")
    assert "run5" not in secure._ledgers, "a ledger without an entry has no file"


def test_losses_are_sent_in_the_units_of_the_query_and_within_its_bounds() -> None:
    run = Run(sites())
    run.prepare(1)
    site = run.sites["t00"]
    site.session.fraction_bits = 3  # --score-bits 3
    site.asked()
    site.take(WorkDone("run", 1, {"losses": np.array([1.07, 0.5]), "correct": np.array([0, 1])}, 0.1, 2))
    ((number, delivery),) = site.session.runs["run"].pending.items()
    assert (number, delivery.result.arrays["losses"].tolist()) == (1, [9, 4])
    asked = site.session.runs["run"].asked
    assert asked is not None
    seen = []
    one = site.session.secure._sums["run"][asked.sum]
    one.answer = lambda opening, values: seen.append(values)  # type: ignore[method-assign, assignment, func-returns-value]
    site.session.secure.open("run", Opening(asked.sum, asked.question, 4, b"\x07", ()))
    site.session.secure.answer("run", asked, delivery.result)
    assert seen[0].tolist() == [9 << 13, 4 << 13, 0, 1]
    huge = delivery.result._replace(arrays={"losses": np.array([2**60, 0]), "correct": np.array([0, 1])})
    delivery.result = huge
    site.hear(run.request(), [Opening(asked.sum, asked.question, 4, b"\x07", ())])
    assert seen[-1].tolist() == [int(BOUNDS["losses"].largest) * 2, 0, 0, 1], "it saturates, and is not refused"
    assert not site.goodbyes


def test_sums_of_several_runs_are_apart() -> None:
    site = Site(0)
    sent = {}
    for run in ("one", "two"):
        site.join(0, run)
        message = structs.replace(ROUND, run=run, invited=b"\x01")
        sent[run] = site.take(MessageReceived(published(message, 1.0)))
    first, second = sent["one"][0], sent["two"][0]
    assert first.sum != second.sum
    assert first.share_key != second.share_key
