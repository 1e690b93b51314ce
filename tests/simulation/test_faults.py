"""A federation under thousands of seeds of faults, and bugs planted on purpose, which must not pass."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from judge import failure, judge, judge_range

import aggregator.rounds
import aggregator.service
import aggregator.strategies.averaging
import trainer.session
from fedmq.messages import GradientLearner

SEEDS = 2_000
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
            ("            self._store.commit()\n        for outgoing", "            pass\n        for outgoing"),
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
            (
                "self._send_result(run, view, number, held)",
                "self._send_result(run, view, number, view.held.pop(number))",
            ),
        ],
    ),
    "the deadline is ignored": (
        aggregator.rounds,
        "Rounds",
        [('return "deadline" if self._deadline is None or now >= self._deadline else None', "return None")],
    ),
}


@pytest.mark.timeout(300)
def test_whatever_happens_no_accepted_result_is_lost_or_counted_twice_and_the_run_ends() -> None:
    found = judge_range(0, SEEDS)
    assert not found, "\n".join(found[:10])


def test_a_seed_gives_the_same_transcript_twice() -> None:
    assert [judge(seed) for seed in range(200)] == [judge(seed) for seed in range(200)]


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
        if failure(seed) is not None:
            return
    pytest.fail(f"{PLANTED_SEEDS} seeds passed although {bug}")
