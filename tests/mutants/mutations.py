"""Bugs that somebody could make: each a change of a few words, and the tests of which one must fail then.

Knows nothing of how they are applied.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutation(NamedTuple):
    """`old` stands in `file` exactly once; with `new` in its place one of `tests` fails."""

    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


ROUNDS, SESSION, STORE = "aggregator/rounds.py", "trainer/session.py", "aggregator/store.py"
SERVICE, AVERAGING = "aggregator/service.py", "aggregator/strategies/averaging.py"
OF_ROUNDS = ("tests/unit/test_rounds.py", "tests/unit/test_rounds_end.py", "tests/unit/test_rounds_stateful.py")
OF_SESSION = ("tests/unit/test_session.py", "tests/unit/test_session_stateful.py")
OF_STORE = ("tests/unit/test_store.py", "tests/unit/test_store_stateful.py", "tests/unit/test_store_damage.py")
SEEDS = "tests/simulation/test_faults.py::" + (
    "test_whatever_happens_no_accepted_result_is_lost_or_counted_twice_and_the_run_ends"
)
OF_ALL = ("tests/simulation/test_scenarios.py", SEEDS)
SENDS = (
    "        for outgoing in effects.sends:\n"
    "            frames = encode(*outgoing, sign=self._seal.sign)\n"
    "            self.bytes_down += sum(map(len, frames))\n"
    "            sent = self._link.send(frames)\n"
    "            self._told = self._told or (sent and isinstance(outgoing.message, Finished))\n"
)

MUTATIONS = (
    Mutation(
        "a result that comes again is counted again",
        ROUNDS,
        "if key in self._accepted:",
        "if False:",
        (*OF_ROUNDS, SEEDS),
    ),
    Mutation(
        "a result is acknowledged before it is on disk",
        SERVICE,
        "            self._store.commit()\n" + SENDS,
        "            pass\n" + SENDS + "        self._store.commit()\n",
        OF_ALL,
    ),
    Mutation(
        "the bitmap acknowledges everybody",
        ROUNDS,
        "if (number, trainer.name) in self._accepted:",
        "if True:",
        OF_ROUNDS,
    ),
    Mutation(
        "a trainer does not check the epoch",
        SESSION,
        "if epoch < view.epoch:",
        "if False:",
        OF_SESSION,
    ),
    Mutation(
        "an aggregator does not check the epoch",
        ROUNDS,
        "if message.epoch > self.settings.epoch:",
        "if False:",
        OF_ROUNDS,
    ),
    Mutation(
        "a new life has the epoch of the last one",
        STORE,
        "blob, epoch = row[0], row[1] + 1",
        "blob, epoch = row[0], max(1, row[1])",
        OF_STORE,
    ),
    Mutation(
        "a result is not written into the spool",
        SESSION,
        "        self._effects.keeps.append(Kept(event.run, ",
        "        (Kept(event.run, ",
        OF_SESSION,
    ),
    Mutation(
        "the spool is never written to",
        "trainer/service.py",
        "self._spool.keep(kept, self.session.name, self.session.samples)",
        "pass",
        ("tests/unit/test_spool.py",),
    ),
    Mutation(
        "what is acknowledged stays in the spool",
        SESSION,
        "            self._effects.drops.append((run, number))",
        "            pass",
        OF_SESSION,
    ),
    Mutation(
        "a held result is dropped when it is sent",
        SESSION,
        "self._send_result(run, view, number, held)",
        "self._send_result(run, view, number, view.held.pop(number))",
        (*OF_SESSION, SEEDS),
    ),
    Mutation(
        "the back-off grows without end",
        SESSION,
        "held.backoff_s = min(2 * held.backoff_s, RESEND_MAX_S)",
        "held.backoff_s = 2 * held.backoff_s",
        OF_SESSION,
    ),
    Mutation(
        "models are summed in the order in which they came",
        AVERAGING,
        "for update in state.inbox.updates() if",
        "for update in state.inbox.waiting.values() if",
        ("tests/unit/test_strategies.py", "tests/unit/test_learning_strategies.py", *OF_ALL),
    ),
    Mutation(
        "the broker keeps the first round of a run instead of the newest",
        "broker/routing.py",
        "self.newest[topic] = frames",
        "self.newest.setdefault(topic, frames)",
        ("tests/unit/test_routing.py",),
    ),
    Mutation(
        "the quorum is one too many",
        ROUNDS,
        "if len(self._answered) < self._quorum:",
        "if len(self._answered) <= self._quorum:",
        OF_ROUNDS,
    ),
    Mutation(
        "the quorum is one too few",
        ROUNDS,
        "if len(self._answered) < self._quorum:",
        "if len(self._answered) < self._quorum - 1:",
        OF_ROUNDS,
    ),
    Mutation(
        "the deadline is ignored",
        ROUNDS,
        'return "deadline" if self._deadline is None or now >= self._deadline else None',
        "return None",
        (*OF_ROUNDS, SEEDS),
    ),
    Mutation(
        "the staleness bound is ignored",
        ROUNDS,
        "not 0 <= staleness <= self.settings.staleness or",
        "not 0 <= staleness or",
        OF_ROUNDS,
    ),
    Mutation(
        "there is no grace after the broker's restart",
        ROUNDS,
        "self.roster.doubt(now, self.settings.grace_s)",
        "self.roster.doubt(now, 0.0)",
        OF_ROUNDS,
    ),
    Mutation(
        "who joins late gets no round",
        ROUNDS,
        "if self.phase is Phase.COLLECTING and message.round < self.round:\n            self._send_round(inbox)",
        "pass",
        OF_ROUNDS,
    ),
    Mutation(
        "the chain of the closes is not checked",
        STORE,
        'self._check(right and digest == self._chain(before, number, blob), f"round {number}")',
        "pass",
        OF_STORE,
    ),
    Mutation(
        "the digest of a result is not checked",
        STORE,
        "self._check(digest == _digest(number, trainer, counted, blob), what)",
        "pass",
        OF_STORE,
    ),
    Mutation(
        "the lock is not taken",
        STORE,
        'if self._lock is None and self.path != ":memory:":',
        "if False:",
        OF_STORE,
    ),
    Mutation(
        "the witness of the last commit is not asked",
        STORE,
        "self._check(said is None or self._reached().covers(said), ",
        "self._check(True, ",
        OF_STORE,
    ),
    Mutation(
        "a blob is not hashed when it is read",
        "aggregator/blobs.py",
        "return blob if sha256(blob).digest() == name else None",
        "return blob",
        ("tests/unit/test_blobs.py", "tests/unit/test_store_damage.py"),
    ),
    Mutation(
        "a replay does not know who the members were",
        "aggregator/replay.py",
        "strategy.close(replayed.state, close.members)",
        "strategy.close(replayed.state, ())",
        ("tests/unit/test_replay.py", *OF_ALL),
    ),
    Mutation(
        "an array is not hashed when it is decoded",
        "fedmq/wire.py",
        "if hashlib.sha256(blob).digest() != info.sha256:",
        "if False:",
        ("tests/unit/test_wire.py",),
    ),
    Mutation(
        "a used token lets a second one in",
        "broker/enrolment.py",
        "if ticket.used_by is None:",
        "if ticket.used_by != request.public.fingerprint:",
        ("tests/unit/test_enrolment_rules.py",),
    ),
    Mutation(
        "a request to be let in is not signed",
        "broker/enrolment.py",
        'self._check(request.is_signed_by(request.public, 0), "signed by its own key")',
        "pass",
        ("tests/unit/test_enrolment_rules.py",),
    ),
    Mutation(
        "a key is replaced without the word of the old one",
        "broker/enrolment.py",
        'self._check(request.is_signed_by(member, 1), "signed by the key that it is to replace")',
        "pass",
        ("tests/unit/test_enrolment_rules.py",),
    ),
    Mutation(
        "an expired token is let in",
        "broker/gate.py",
        "if expires is None or expires <= self._clock.wall()",
        "if expires is None",
        ("tests/unit/test_enrolment_rules.py",),
    ),
)
