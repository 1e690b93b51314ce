"""Secure sums in simulated runs: the same model as without, for every algorithm whose answers add up."""

from __future__ import annotations

from typing import Any

import pytest
from judge import SECURE_FROM, judge_range
from secure_sums import ADDITIVE, STEPS, check_drop_outs, verifies_once

import fedmq
from fedmq.errors import BadConfiguration
from fedmq.security.keys import PublicIdentity

FEDAVG = {"method": "fedavg", "learner": "gradient"}


@pytest.fixture(autouse=True)
def verify_each_signature_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PublicIdentity, "verifies", verifies_once)


def test_first_secure_seeds_hold() -> None:
    found = judge_range(SECURE_FROM, SECURE_FROM + 12, 6).violations
    assert not found, "\n".join(found)


def simulated(algorithm: str, **others: Any) -> Any:
    settings = {"task": "iris", "trainers": 4, "rounds": 8, "seed": 5, "progress": False} | others
    return fedmq.simulate(algorithm=algorithm, **settings)


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        ("statistics", {}),
        ("ridge", {}),
        ("newton", {"holdout": 0.2}),
        ("boosting", {"rounds": 12}),
        ("es", {}),
        ("evolution", {"parameters": {"additive": True, "population": 20}}),
        ("averaging", {"parameters": {"method": "fedsgd"}}),
        ("averaging", {"parameters": {"method": "scaffold"}}),
    ],
)
def test_secure_run_has_the_model_of_the_plain_one(algorithm: str, settings: dict[str, Any]) -> None:
    plain, secure = (simulated(algorithm, secure=one, **settings) for one in (False, True))
    assert secure.model_sha256 == plain.model_sha256 is not None
    assert len(secure.closes) == len(plain.closes)
    assert {close.results for close in secure.closes if close.why != "spent"} == {4}, "a question is asked once"
    assert secure.report.bytes_up > plain.report.bytes_up > 0


def test_secure_run_goes_on_while_trainers_come_and_go() -> None:
    run = simulated(
        "es", trainers=6, rounds=12, secure=True, dropout=0.1, online_s="uniform:20:60", offline_s=3, deadline_s=5.0
    )
    assert run.report.rounds == 12
    assert run.value is not None


def test_secure_run_needs_three_trainers_and_sums() -> None:
    for algorithm, settings in (("es", {"trainers": 2}), ("evolution", {}), ("es", {"sample": 0.5})):
        with pytest.raises(BadConfiguration):
            simulated(algorithm, secure=True, **settings)


SPREAD = list(zip(ADDITIVE, (3, 4, 5, 4, 3, 4, 4), strict=True))


@pytest.mark.parametrize(("place", "algorithm", "count"), [(place, *one) for place, one in enumerate(SPREAD)])
def test_totals_are_exact_when_a_trainer_is_missing_from_a_step_on(place: int, algorithm: str, count: int) -> None:
    check_drop_outs(algorithm, count, 1, STEPS[place % len(STEPS)])


@pytest.mark.parametrize("step", STEPS)
def test_totals_are_exact_when_a_third_is_missing_from_a_step_on(step: type) -> None:
    check_drop_outs("ridge", 7, 2, step)
