"""A federation under thousands of seeds of faults, and bugs planted on purpose, which must not pass."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest
from judge import judge

import aggregator.rounds
import aggregator.service
import aggregator.strategies.averaging
import trainer.session
from fedmq.errors import FedmqError
from fedmq.messages import GradientLearner

SEEDS = 2_000
CHUNK = 50
PLANTED_SEEDS = 400  # a planted bug must show itself in one of so many

PLANTED = {
    "a result that comes again is counted again": (
        aggregator.rounds,
        "Rounds",
        [("if key in self._accepted:", "if False:")],
    ),
    "a result is acknowledged before it is on disk": (
        aggregator.service,
        "Aggregator",
        [
            ("        if effects.sends:\n            self._store.commit()\n", ""),
            ("        for event in effects", "        self._store.commit()\n        for event in effects"),
        ],
    ),
    "models are summed in the order in which they came": (
        aggregator.strategies.averaging,
        "FedAvg",
        [("for update in state.inbox.updates() if", "for update in state.inbox.waiting.values() if")],
    ),
    "a trainer forgets its result when it has sent it": (
        trainer.session,
        "Session",
        [
            ("for number, held in view.held.items():", "for number, held in list(view.held.items()):"),
            (
                "self._send_result(run, view, number, held)",
                "self._send_result(run, view, number, view.held.pop(number))",
            ),
        ],
    ),
    "the quorum is off by one": (
        aggregator.rounds,
        "Rounds",
        [("if len(self._answered) < self._quorum:", "if len(self._answered) <= self._quorum:")],
    ),
    "the deadline is ignored": (
        aggregator.rounds,
        "Rounds",
        [('return "deadline" if self._deadline is None or now >= self._deadline else None', "return None")],
    ),
}


def failures(seeds: range) -> list[str]:
    """What went wrong, by seed."""
    logging.disable(logging.CRITICAL)
    found = []
    for seed in seeds:
        try:
            judge(seed)
        except (AssertionError, FedmqError) as error:
            found.append(f"seed {seed}: {type(error).__name__}: {error}")
    return found


@pytest.mark.timeout(300)
def test_whatever_happens_no_accepted_result_is_lost_or_counted_twice_and_the_run_ends() -> None:
    chunks = [range(first, first + CHUNK) for first in range(0, SEEDS, CHUNK)]
    with ProcessPoolExecutor(max_workers=2) as pool:
        found = [line for lines in pool.map(failures, chunks) for line in lines]
    assert not found, "python tests/simulation/judge.py SEED shows what happened in it:\n" + "\n".join(found[:10])


def test_a_seed_gives_the_same_transcript_twice() -> None:
    assert [judge(seed) for seed in range(20)] == [judge(seed) for seed in range(20)]


@pytest.fixture
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def with_bug(module: ModuleType, changes: list[tuple[str, str]]) -> ModuleType:
    """A copy of `module` whose source has been changed; each change must fit in just one place."""
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    for old, new in changes:
        assert source.count(old) == 1, (
            f"{module.__name__}: the text to change is there {source.count(old)} times: {old}"
        )
        source = source.replace(old, new)
    copy = ModuleType(module.__name__)
    copy.__file__ = module.__file__
    exec(compile(source, str(module.__file__), "exec"), copy.__dict__)  # noqa: S102  our own source, changed above
    return copy


@pytest.mark.usefixtures("_quiet")
@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_does_not_pass(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, name, changes = PLANTED[bug]
    broken = getattr(with_bug(module, changes), name)
    monkeypatch.setattr(f"{module.__name__}.{name}", broken)
    for user in ("aggregator.service.Rounds", "deploy.in_process.Aggregator", "deploy.in_process.Session"):
        if user.endswith(f".{name}"):
            monkeypatch.setattr(user, broken)
    if name == "FedAvg":
        monkeypatch.setattr("judge.find_strategy", lambda _name: broken(GradientLearner(steps=1), "fedsgd"))
    for seed in range(PLANTED_SEEDS):
        if failures(range(seed, seed + 1)):
            return
    pytest.fail(f"{PLANTED_SEEDS} seeds passed although {bug}")
