"""Ten thousand invalid signed messages of named kinds, to an aggregator and a trainer: none is used.

Real keys, a real store and real rounds in memory. A seeded generator flips, swaps, forges, replays and reorders genuine
messages. The test prints the reasons by kind; a failure names the seed.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import numpy as np
import pytest
from rounds_scene import TASK, MeanOfNumbers
from signed_scene import ANYWHERE, EPOCH, Bad, Kind, Parties, Wire, reheaded, result_of, signed_by

from fedmq.aggregator.rounds import RESENT_ROUNDS
from fedmq.aggregator.service import Aggregator
from fedmq.algorithms.averaging.query import GradientLearner, Train
from fedmq.algorithms.base import encode_query
from fedmq.errors import Rejected
from fedmq.protocol.codec import Frames, decode, encode
from fedmq.protocol.messages import (
    Accepted,
    Beacon,
    Control,
    Finished,
    Hello,
    Presence,
    Refused,
    Round,
    Welcome,
)
from fedmq.runs.store import Store
from fedmq.runtime.rng import derive_rng
from fedmq.security.keyring import Credentials
from fedmq.security.signing import AggregatorSigning, TrainerSigning
from fedmq.simulation.clock import VirtualClock
from fedmq.testing import run_config
from fedmq.trainer.service import Trainer
from fedmq.trainer.session import Session
from fedmq.transport.link import Delivered

BAD_AT_AGGREGATOR, BAD_AT_TRAINER = 7_000, 3_000
SEED = 20261122
KINDS_MIN = 40


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Parties:
    return Parties(tmp_path_factory.mktemp("keys"))


class Idle:
    """A worker that does nothing."""

    def start(self, packet: object) -> None: ...

    def cancel(self) -> None: ...

    def done(self) -> list[Any]:
        return []


# --- the aggregator's side -----------------------------------------------------------------------------------------


class Scene:
    """An aggregator with a run of two members after some rounds; round `rounds.round` is open."""

    def __init__(self, parties: Parties, rounds: int = 6) -> None:
        self.parties, self.link, self.clock = parties, Wire(), VirtualClock()
        self.store = Store(":memory:")
        limits = {"rounds_max": 10_000, "min_trainers": 2, "quorum": 1.0, "deadline_s": 1e6}
        self.store.begin(run_config("run", TASK, MeanOfNumbers.name, **limits))
        signing = AggregatorSigning(Credentials(parties.federation, parties.aggregator), parties.members)
        self.service = Aggregator(
            self.link, self.store, MeanOfNumbers(), clock=self.clock, watch=lambda _at, _events: None, signing=signing
        )
        self.genuine: dict[tuple[str, int], list[bytes]] = {}
        self.hellos = []
        for name in ("alice", "bob"):
            hello = Hello(run="run", term=EPOCH, trainer=name, num_examples=2, round=0, version="x")
            self.hellos.append(parties.signed(f"up/run/{name}", hello, name))
            self.come(self.hellos[-1], encode(f"presence/{name}", Presence(trainer=name, present=True)))
        for _ in range(rounds):
            self.play_a_round()
        self.come(self.result("alice"))  # of the open round one is stored; the attacks are about bob's

    @property
    def rounds(self) -> Any:
        return self.service.rounds

    def result(self, name: str) -> list[bytes]:
        """Return a valid result of the open round."""
        number = self.rounds.round
        model_digest = self.rounds._published.digests[number]
        far = 10.0 * number * (1 if name == "alice" else -1)  # from each other's, so that the target is never reached
        return self.genuine.setdefault(
            (name, number), result_of(self.parties, name, number, far, model_digest=model_digest)
        )

    def play_a_round(self) -> None:
        before = self.rounds.round
        self.come(self.result("alice"), self.result("bob"))
        assert self.rounds.round == before + 1

    def come(self, *messages: Frames) -> None:
        self.link.news.extend(map(Delivered, messages))
        self.service.step()

    def state(self) -> Any:
        """Return all state that an invalid message must not change."""
        return (
            repr(self.rounds._state),
            self.rounds.round,
            copy.deepcopy(self.rounds._accepted),
            self.stored(),
            self.rounds.phase,
        )

    def stored(self) -> dict[tuple[str, int], list[bytes]]:
        """Return the results in the store, without their topics."""
        found = [one for number in range(1, self.rounds.round + 1) for one in self.store.results(number)]
        stored = {(one.trainer, one.round): list(one.frames[1:]) for one in found}
        assert len(stored) == len(found)
        return stored


AT_AGGREGATOR: dict[str, Kind] = {
    **ANYWHERE,
    "signed by another member": lambda good, other, parties, draws: signed_by(good, parties, "alice"),
    "signed by the aggregator": lambda good, other, parties, draws: signed_by(good, parties, "aggregator"),
    "signed for another federation": lambda good, other, parties, draws: signed_by(good, parties, "bob", parties.other),
    "more samples": lambda good, other, parties, draws: reheaded(good, parties, num_examples=10**6),
    "another attempt": lambda good, other, parties, draws: reheaded(good, parties, attempt=2),
    "in another member's name": lambda good, other, parties, draws: reheaded(good, parties, trainer="alice"),
    "in a stranger's name": lambda good, other, parties, draws: reheaded(good, parties, "mallory", trainer="mallory"),
    "in an observer's name": lambda good, other, parties, draws: [
        b"up/run/olga",
        *reheaded(good, parties, "olga", trainer="olga")[1:],
    ],
    "over another's connection": lambda good, other, parties, draws: [b"up/run/alice", *good[1:]],
    "over a connection without a sender": lambda good, other, parties, draws: [b"up/run/", *good[1:]],
    "over the aggregator's connection": lambda good, other, parties, draws: [b"up/run/aggregator", *good[1:]],
    "signed by itself, of another run": lambda good, other, parties, draws: reheaded(good, parties, "bob", run="other"),
    "signed by itself, of a term that is not yet": lambda good, other, parties, draws: reheaded(
        good, parties, "bob", term=EPOCH + draws.randrange(1, 99)
    ),
    "signed by itself, of a round that is not yet": lambda good, other, parties, draws: reheaded(
        good, parties, "bob", round=draws.randrange(1000, 9999)
    ),
    "signed by itself, of a round too old": lambda good, other, parties, draws: reheaded(
        good, parties, "bob", round=draws.randrange(1, 4), trainer="bob"
    ),
    "a member's word to stop": lambda good, other, parties, draws: parties.signed(
        "up/run/bob", Control(run="run", term=EPOCH, action="stop"), "bob"
    ),
    "a member's presence for another": lambda good, other, parties, draws: encode(
        "up/run/bob", Presence(trainer="alice", present=False)
    ),
    "a message for trainers": lambda good, other, parties, draws: parties.signed(
        "up/run/bob", Finished(run="run", term=EPOCH, rounds=1, solved=True), "aggregator"
    ),
}


def test_aggregator_uses_no_invalid_message(parties: Parties) -> None:
    scene, draws, table = Scene(parties, rounds=RESENT_ROUNDS + 4), Random(SEED), Counter[tuple[str, str]]()
    fresh = draws_of_rounds(scene, draws)
    for number in range(BAD_AT_AGGREGATOR):
        kind = list(AT_AGGREGATOR)[number % len(AT_AGGREGATOR)]
        good, other = next(fresh)
        bad = AT_AGGREGATOR[kind](list(good), list(other), parties, draws)
        before, rejected = scene.state() if number % 50 == 0 else None, Counter(scene.rounds.rejections)
        accepted = copy.deepcopy(scene.rounds._accepted)
        scene.come(bad)
        reasons = list((Counter(scene.rounds.rejections) - rejected).elements())
        said = f"seed {SEED}, message {number}, {kind}: {reasons}"
        assert len(reasons) == 1, said
        assert scene.rounds._accepted == accepted, said
        assert before is None or before == scene.state(), said
        table[kind, reasons[0]] += 1
    assert len({kind for kind, _ in table}) >= KINDS_MIN
    show(table)
    genuine = {key: frames[1:] for key, frames in scene.genuine.items() if key != ("bob", scene.rounds.round)}
    assert scene.stored() == genuine, f"seed {SEED}"  # exactly what the members sent, and nothing else


def draws_of_rounds(scene: Scene, draws: Random) -> Iterator[tuple[Bad, Bad]]:
    """Yield a new result of bob for the open round and another valid one; close a round from time to time."""
    for number in range(1_000_000):
        if number % 500 == 499:
            scene.come(scene.result("bob"))
            scene.come(scene.result("alice"))
        yield scene.result("bob"), scene.genuine["alice", draws.randrange(1, scene.rounds.round)]


def show(table: Counter[tuple[str, str]]) -> None:
    """Print the table, which -rP shows."""
    for (kind, reason), count in sorted(table.items()):
        print(f"{kind:48} {reason:12} {count:5}")


def test_replayed_and_late_results_count_once(parties: Parties) -> None:
    scene, draws = Scene(parties, rounds=8), Random(SEED)
    before, resent = scene.state(), 0
    for _ in range(1000):
        name, number = draws.choice(list(scene.genuine))
        known = name in scene.rounds._accepted.get(number, ())
        rejected = scene.rounds.rejections.get("round", 0)
        scene.link.sent.clear()
        scene.come(scene.genuine[name, number])
        answers = [decode(frames).message for frames in scene.link.sent if frames[0] == f"to/{name}/".encode()]
        if known:
            resent += 1
            assert [type(one) for one in answers] == [Accepted]
        else:  # older than the staleness that is allowed
            assert scene.rounds.rejections["round"] == rejected + 1
            assert [type(one) for one in answers] == [Refused]
    assert scene.state() == before, f"seed {SEED}"
    assert sum(trainer.resent for trainer in scene.rounds.roster.trainers) == resent


def test_overtaken_result_counts_once_within_staleness(parties: Parties) -> None:
    late = Scene(parties, rounds=3)  # bob's result of round 4 is not there, and nothing of what he sends after it

    def bob(number: int) -> list[bytes]:
        return result_of(
            parties, "bob", number, -5.0, model_digest=late.rounds._published.digests.get(number, bytes(32))
        )

    late.come(bob(6))
    assert late.rounds.rejections == {"round": 1}  # a round that is not published yet
    late.come(bob(4), late.result("alice"))
    for number in (4, 5, 5, 4):
        late.come(bob(number))
    kept = sorted(number for name, number in late.stored() if name == "bob")
    assert kept == [1, 2, 3, 4, 5]
    late.come(late.result("alice"))
    assert late.rounds.round == 6
    late.come(late.genuine["bob", 1])
    assert late.rounds.rejections == {"round": 1}  # too old to be used, but it is stored: acknowledged again
    assert late.stored().keys() == {(name, number) for name in ("alice", "bob") for number in range(1, 6)}


# --- the trainer's side --------------------------------------------------------------------------------------------

AT_TRAINER: dict[str, Kind] = {
    **ANYWHERE,
    "signed by another trainer": lambda good, other, parties, draws: signed_by(good, parties, "bob"),
    "signed by the trainer itself": lambda good, other, parties, draws: signed_by(good, parties, "alice"),
    "signed for another federation": lambda good, other, parties, draws: signed_by(
        good, parties, "aggregator", parties.other
    ),
    "another seed": lambda good, other, parties, draws: reheaded(good, parties, seed=draws.randrange(99)),
    "all are acknowledged": lambda good, other, parties, draws: reheaded(good, parties, acknowledged=b"\xff" * 8),
    "a trainer's result": lambda good, other, parties, draws: result_of(parties, "bob", 3, 1.0),
    "the broker says that it is over": lambda good, other, parties, draws: parties.signed(
        "round/run", Finished(run="run", term=EPOCH, rounds=1, solved=True), "broker"
    ),
    "a refusal by a member": lambda good, other, parties, draws: parties.signed(
        "to/alice/", Refused(run="run", term=EPOCH, trainer="alice", round=3, reason="run", detail=""), "bob"
    ),
    "an acceptance without a signature": lambda good, other, parties, draws: encode(
        "to/alice/", Accepted(run="run", term=EPOCH, trainer="alice", round=3)
    ),
    "a beacon by a stranger": lambda good, other, parties, draws: parties.signed(
        "beacon/run", Beacon(run="run", term=9, round=9, open=True), "mallory"
    ),
    "a presence": lambda good, other, parties, draws: encode("to/alice/", Presence(trainer="alice", present=True)),
    "a message without a signature": lambda good, other, parties, draws: encode(
        "to/alice/", Welcome(run="run", term=9, trainer="alice", index=0)
    ),
}


def a_round(parties: Parties, number: int) -> list[bytes]:
    message = Round(
        run="run",
        term=EPOCH,
        round=number,
        seed=7,
        deadline_s=10.0,
        task=TASK,
        query=encode_query(Train(GradientLearner())),
    )
    return parties.signed("round/run", message, "aggregator", {"model": np.array([number / 8])})


def test_trainer_uses_no_invalid_message(parties: Parties) -> None:
    link, draws, table = Wire(), Random(SEED), Counter[tuple[str, str]]()
    session = Session("alice", 2, "x", derive_rng(0, "jitter", "alice"))
    signing = TrainerSigning(Credentials(parties.federation, parties.of["alice"]))
    trainer = Trainer(link, session, Idle(), clock=VirtualClock(), signing=signing)  # type: ignore[arg-type]
    link.news.append(Delivered(a_round(parties, 5)))
    trainer.step()
    link.sent.clear()
    rounds = [a_round(parties, number) for number in range(6, 40)]
    before = repr(session.runs), session.working
    for number in range(BAD_AT_TRAINER):
        kind = list(AT_TRAINER)[number % len(AT_TRAINER)]
        bad = AT_TRAINER[kind](list(draws.choice(rounds)), list(draws.choice(rounds[:5])), parties, draws)
        if bad in rounds:  # two draws were one
            continue
        counted = Counter(trainer.session.rejections)
        link.news.append(Delivered(bad))
        trainer.step()
        reasons = list((Counter(trainer.session.rejections) - counted).elements())
        assert len(reasons) == 1, f"seed {SEED}, message {number}, {kind}: {reasons}"
        table[kind, reasons[0]] += 1
    assert (repr(session.runs), session.working) == before, f"seed {SEED}"
    assert link.sent == []
    assert len({kind for kind, _ in table}) >= KINDS_MIN
    show(table)
    link.news.append(Delivered(rounds[0]))  # and a good one is
    trainer.step()
    assert session.working == ("run", 6)


def test_invalid_signature_is_rejected_with_its_reason(parties: Parties) -> None:
    signing = AggregatorSigning(Credentials(parties.federation, parties.aggregator), parties.members)
    good = result_of(parties, "bob", 1, 1.0)
    signing.check(decode(good), 0.0)
    with pytest.raises(Rejected, match=r"^signature: .*trainer"):
        signing.check(decode(signed_by(good, parties, "alice")), 0.0)
    with pytest.raises(Rejected, match=r"^sender: .*bob"):
        signing.check(decode([b"up/run/alice", *good[1:]]), 0.0)
    with pytest.raises(Rejected, match=r"^sender: .*olga"):
        signing.check(decode([b"up/run/olga", *reheaded(good, parties, "olga", trainer="olga")[1:]]), 0.0)
    with pytest.raises(Rejected, match=r"^sender: .*bob"):
        signing.check(decode(encode("up/run/alice", Presence(trainer="bob", present=True))), 0.0)
