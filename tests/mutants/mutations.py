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
BOUNDS, RULES = "aggregator/strategies/bounds.py", "aggregator/strategies/rules.py"
SEAL, SIGNED = "fedmq/seal.py", ("tests/unit/test_signed_messages.py",)
OF_ROUNDS = ("tests/unit/test_rounds.py", "tests/unit/test_rounds_end.py", "tests/unit/test_rounds_stateful.py")
POLICY, OF_PAGE = "trainer/policy.py", ("tests/unit/test_server.py",)
OF_CODE = ("tests/unit/test_code_policy.py", "tests/unit/test_unpickling.py")
OF_SESSION = ("tests/unit/test_session.py", "tests/unit/test_session_stateful.py")
OF_RUNS = ("tests/unit/test_session_runs.py", "tests/unit/test_session_stateful.py")
OF_STORE = ("tests/unit/test_store.py", "tests/unit/test_store_stateful.py", "tests/unit/test_store_damage.py")
SEEDS = "tests/simulation/test_faults.py::" + (
    "test_whatever_happens_no_accepted_result_is_lost_or_counted_twice_and_the_run_ends"
)
OF_ALL = ("tests/simulation/test_scenarios.py", SEEDS)
SENDS = (
    "        for outgoing in effects.sends:\n"
    "            sent = self._send(outgoing)\n"
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
        "who works on after a goodbye in its name counts no more",
        ROUNDS,
        "if self.roster[name].gone and",
        "if False and",
        OF_ROUNDS,
    ),
    Mutation(
        "the bitmap acknowledges everybody",
        ROUNDS,
        "lambda name: (number, name) in self._accepted",
        "lambda name: True",
        OF_ROUNDS,
    ),
    Mutation(
        "a trainer does not check the epoch",
        SESSION,
        "if epoch < known.epoch:",
        "if False:",
        OF_SESSION,
    ),
    Mutation(
        "a trainer forgets a live run, and what it holds of it, for another",
        SESSION,
        "if now - known.heard_at >= (HELD_SILENT_S if known.held else SILENT_S)",
        "if True",
        OF_RUNS,
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
        "blob, epoch = row[0], max(row[1] + 1, int(wall))",
        "blob, epoch = row[0], max(row[1], int(wall))",
        OF_STORE,
    ),
    Mutation(
        "a result is not written into the spool",
        SESSION,
        "        self._effects.keeps.append(kept)\n",
        "",
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
        "self._send_result(run, known, held)",
        "self._send_result(run, known, known.held.pop(number))",
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
        "the base of a result is not checked",
        ROUNDS,
        "if message.base != self._base(message.round):",
        "if False:",
        ("tests/unit/test_base.py",),
    ),
    Mutation(
        "evaluations are not counted",
        SESSION,
        "self._effects.spends += self.budget.spend(event.run, self._evaluations)",
        "pass",
        ("tests/unit/test_budget.py",),
    ),
    Mutation(
        "a run that was left is not told so again",
        SESSION,
        "        elif known.left:\n            self._leave",
        "        elif False:\n            self._leave",
        ("tests/unit/test_budget.py",),
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
        "kept[topic] = frames",
        "kept.setdefault(topic, frames)",
        ("tests/unit/test_routing.py",),
    ),
    Mutation(
        "the quorum is one too many",
        ROUNDS,
        "if len(self._answered) < quorum:",
        "if len(self._answered) <= quorum:",
        OF_ROUNDS,
    ),
    Mutation(
        "the quorum is one too few",
        ROUNDS,
        "if len(self._answered) < quorum:",
        "if len(self._answered) < quorum - 1:",
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
        "self.roster.begin_grace(now, self.settings.grace_s)",
        "self.roster.begin_grace(now, 0.0)",
        OF_ROUNDS,
    ),
    Mutation(
        "whom a new broker shows early is in doubt all the same",
        ROUNDS,
        "        if self._broker_up:  # else whoever",
        "        if True:  # else whoever",
        OF_ROUNDS,
    ),
    Mutation(
        "who joins late gets no round",
        ROUNDS,
        "message.round < self.round and not barred:\n            self._send_round(inbox)",
        "message.round < self.round and not barred:\n            pass",
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
        "losses are not clipped",
        BOUNDS,
        "np.minimum(losses, LOSS_PER_ROW_MAX * math.log2(task.model.outputs) * samples[:, None])",
        "losses",
        ("tests/unit/test_bounds.py", "tests/simulation/test_byzantine.py"),
    ),
    Mutation(
        "the most and the least that is said of a candidate decide",
        BOUNDS,
        "    if liars:\n",
        "    if False:\n",
        ("tests/unit/test_bounds.py", "tests/simulation/test_byzantine.py"),
    ),
    Mutation(
        "the trimmed mean trims nothing",
        RULES,
        "    liars = liars_among(len(models))\n",
        "    liars = 0\n",
        ("tests/unit/test_rules.py",),
    ),
    Mutation(
        "krum takes the farthest",
        RULES,
        "np.argmin(nearest.sum(axis=1))",
        "np.argmax(nearest.sum(axis=1))",
        ("tests/unit/test_rules.py",),
    ),
    Mutation(
        "a run is replayed without its rule against liars",
        "aggregator/upkeep.py",
        "find_strategy(description.strategy, description.robust)",
        "find_strategy(description.strategy)",
        ("tests/unit/test_rules.py",),
    ),
    Mutation(
        "code runs without a signature",
        POLICY,
        "        if signer is None:\n",
        "        if signer is None and not self.allowed:\n",
        OF_CODE,
    ),
    Mutation(
        "code runs without the flag",
        POLICY,
        "        if not self.allowed:\n",
        '        if not self.allowed and signer == "":\n',
        OF_CODE,
    ),
    Mutation(
        "code runs that is not the one that the task names",
        POLICY,
        "if sha256(code).digest() != model.sha256:",
        "if sha256(code).digest() == b'':",
        OF_CODE,
    ),
    Mutation(
        "one's own copy stands in for another task's code",
        POLICY,
        "self.own.task.name == name and",
        "bool(self.own.task.name) and",
        OF_CODE,
    ),
    Mutation(
        "who has declined a run offers itself to it again",
        SESSION,
        "        known.left = True\n",
        "        known.left = False\n",
        OF_CODE,
    ),
    Mutation(
        "code is loaded before the sandbox is closed",
        "trainer/sandboxed.py",
        "Confined(confine(int(sys.argv[1])))",
        "Confined(())",
        ("tests/integration/test_sandbox.py::test_what_code_does_while_it_is_unpickled_is_confined_already",),
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
    Mutation(
        "signatures are not checked",
        SEAL,
        "if not public.verifies(packet.frames[2], self._purpose + packet.frames[1]):",
        "if False:",
        SIGNED,
    ),
    Mutation(
        "the sender is not compared with the name",
        SEAL,
        'if packet.topic.rpartition("/")[2] != message.trainer:',
        "if False:",
        SIGNED,
    ),
    Mutation(
        "a revoked key is still let in",
        "fedmq/keyring.py",
        "if found == self._seen:",
        "if found.keys() <= self._seen.keys():",
        ("tests/unit/test_keys.py", "tests/unit/test_gate.py"),
    ),
    Mutation(
        "endless messages are not cut",
        "fedmq/sockets/watchdog.py",
        "if held.pending > MESSAGE_BYTES_MAX + DRIFT_BYTES_S * (now - held.opened)",
        "if False",
        ("tests/unit/test_watchdog.py",),
    ),
    Mutation(
        "an observer may send results",
        SEAL,
        'if member is None or member.role != "trainer":',
        "if member is None:",
        SIGNED,
    ),
    Mutation("others may read the page's token", "dashboard/cli.py", ", mode=0o600)", ")", OF_PAGE),
    Mutation(
        "a byte puts off a cut", "dashboard/connection.py", "what not in self._cut:", "not self._spare(what):", OF_PAGE
    ),
    Mutation("others may read a new key", "deploy/plan.py", "umask 077; ", "", ("tests/unit/test_plan.py",)),
    Mutation(
        "a dead unit is fine", "deploy/care.py", "failed or any(", "failed and any(", ("tests/unit/test_care.py",)
    ),
)
