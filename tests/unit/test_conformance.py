"""The conformance suite: built-in algorithms pass it, and one planted fault per check fails it by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmq.algorithms.additive import Additive
from fedmq.algorithms.averaging.strategy import Averaging, AveragingParameters, AveragingState
from fedmq.algorithms.base import Evaluation, Plan, Total, Update
from fedmq.algorithms.conformance import CHECKS, check_secure
from fedmq.algorithms.es.strategy import EvolutionStrategy
from fedmq.algorithms.evaluation.query import Evaluate
from fedmq.algorithms.evolution.query import Evolve
from fedmq.algorithms.inbox import Inbox
from fedmq.algorithms.registry import find_algorithm
from fedmq.errors import BadConfiguration
from fedmq.tasks.task import Task
from fedmq.testing import NonConforming, check_algorithm

EXAMPLE = Path(__file__).parents[2] / "examples" / "openai_es.py"
RULES = ("none", "clip", "trimmed-mean", "median", "krum")
BY_EVOLUTION = AveragingParameters(learner="evolution", generations=2)


@pytest.mark.parametrize("task", ["xor", "linear"])
def test_evolution_conforms(task: str) -> None:
    check_algorithm(find_algorithm("evolution"), task)


@pytest.mark.parametrize("rule", RULES)
def test_averaging_conforms_with_each_rule(rule: str) -> None:
    check_algorithm(find_algorithm("averaging", parameters={"rule": rule}), "linear")
    check_algorithm(find_algorithm("averaging", parameters={"rule": rule, "learner": "evolution"}), "xor")


def test_example_conforms() -> None:
    check_algorithm(find_algorithm(f"{EXAMPLE}:OpenAIES"))


def test_page_shows_the_example_as_it_is() -> None:
    page = (EXAMPLE.parents[1] / "docs" / "how-to" / "your-own-algorithm.md").read_text(encoding="utf-8")
    assert f"```python\n{EXAMPLE.read_text(encoding='utf-8')}```" in page


class InboxByArrival(Inbox):
    """Answers in the order of arrival."""

    def add(self, update: Update) -> Inbox:
        return InboxByArrival({**self.waiting, (update.round, update.trainer): update}, self.answered)

    def updates(self) -> list[Update]:
        return list(self.waiting.values())


class ByArrival(Averaging):
    def tell(self, state: AveragingState, update: Update) -> AveragingState:
        told = super().tell(state, update)
        return replace(told, inbox=InboxByArrival(told.inbox.waiting, told.inbox.answered))


class Forgetful(Averaging):
    """Does not remember the answers of closed rounds."""

    def close(self, state: AveragingState, members: Collection[str]) -> AveragingState:
        return replace(super().close(state, members), inbox=Inbox())


class Boastful(Averaging):
    """Claims that every member has answered."""

    def evaluation(self, state: AveragingState) -> Evaluation | None:
        return state.evaluation and replace(state.evaluation, coverage=1.0)


class Trusting(Averaging):
    """Checks no answer."""

    def tell(self, state: AveragingState, update: Update) -> AveragingState:
        return state if state.inbox.knows(update) else replace(state, inbox=state.inbox.add(update))


class AnyLength(Averaging):
    """Checks as many numbers of an answer as it needs, and ignores the others."""

    def tell(self, state: AveragingState, update: Update) -> AveragingState:
        lengths = {"model": state.task.model.num_parameters, "losses": 1, "correct": 1}
        return super().tell(
            state, replace(update, arrays={name: array[: lengths[name]] for name, array in update.arrays.items()})
        )


@dataclass(frozen=True, eq=False)
class Notes:
    model: np.ndarray
    notes: list[str] = field(default_factory=list)
    evaluation: Evaluation | None = None


class Sums:
    """A correct additive algorithm that never moves."""

    name = "sums"

    def init(self, task: Task, _seed: int) -> Notes:
        return Notes(np.ones(task.model.num_parameters))

    def ask(self, state: Notes) -> Plan:
        return Plan(Evaluate(), {"candidates": state.model[None]})

    def close(self, state: Notes, total: Total | None, _late: Mapping[int, Total]) -> Any:
        return state if total is None else replace(state, evaluation=total.evaluation(state.model))

    def evaluation(self, state: Notes) -> Evaluation | None:
        return state.evaluation


class Writing(Sums):
    """Writes into the state that it is given."""

    def close(self, state: Notes, total: Total | None, late: Mapping[int, Total]) -> Any:
        state.notes.append("closed")
        return super().close(state, total, late)


class Unready(Sums):
    """Expects an answer in every round."""

    def close(self, state: Notes, total: Total | None, late: Mapping[int, Total]) -> Any:
        assert total is not None
        return super().close(state, total, late)


@dataclass(frozen=True, eq=False)
class Drawing:
    generator: np.random.Generator
    model: np.ndarray
    evaluation: Evaluation | None = None


class WithGenerator(Sums):
    """Has a generator in its state, which no checkpoint can hold."""

    def init(self, task: Task, seed: int) -> Any:
        return Drawing(np.random.default_rng(seed), np.ones(task.model.num_parameters))


class Unseeded(Sums):
    """Draws without the seed of the run."""

    def close(self, state: Notes, total: Total | None, late: Mapping[int, Total]) -> Any:
        return replace(super().close(state, total, late), model=np.random.default_rng().normal(size=len(state.model)))


class Remembering(Sums):
    """Keeps the first losses on the instance, where a restarted aggregator has none."""

    first: np.ndarray | None = None

    def init(self, task: Task, _seed: int) -> Notes:
        return Notes(np.linspace(-1.0, 1.0, task.model.num_parameters))

    def close(self, state: Notes, total: Total | None, late: Mapping[int, Total]) -> Any:
        if total is None:
            return state
        if self.first is None:
            self.first = total.losses
        return super().close(replace(state, model=state.model + self.first[0]), total, late)


class Misleading(EvolutionStrategy):
    """Publishes slopes that have not moved the weights."""

    def ask(self, state: Any) -> Plan:
        plan = super().ask(state)
        wrong = plan.delta and {**plan.delta, "slopes": plan.delta["slopes"] + 1}
        return replace(plan, delta=wrong)


class Nameless(Additive):
    """Takes the total of several trainers for the answer of one."""

    def tell(self, state: Any, update: Update) -> Any:
        return super().tell(state, replace(update, total_of={}))


@pytest.mark.parametrize(
    ("algorithm", "check"),
    [
        (ByArrival(BY_EVOLUTION), "order"),
        (Unseeded(), "order"),
        (Forgetful(BY_EVOLUTION), "repetition"),
        (Boastful(BY_EVOLUTION), "participation"),
        (Unready(), "participation"),
        (WithGenerator(), "checkpoint"),
        (Remembering(), "checkpoint"),
        (Trusting(BY_EVOLUTION), "bounds"),
        (AnyLength(BY_EVOLUTION), "bounds"),
        (Writing(), "purity"),
        (Misleading(), "delta"),
        (Nameless(Sums(), "nameless", None), "totals"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_planted_fault_fails_its_check(algorithm: Any, check: str) -> None:
    with pytest.raises(NonConforming) as failure:
        check_algorithm(algorithm)
    assert failure.value.check == check
    assert check in str(failure.value)
    assert algorithm.name in str(failure.value)
    assert "\n" not in str(failure.value)


def test_each_check_has_a_planted_fault() -> None:
    (mark,) = test_planted_fault_fails_its_check.pytestmark  # type: ignore[attr-defined]
    assert {check for _, check in mark.args[1]} == set(CHECKS)


def test_correct_additive_algorithm_conforms() -> None:
    check_algorithm(Sums())
    check_algorithm(Sums)


class AsksEvolve(Sums):
    def ask(self, state: Notes) -> Plan:
        return Plan(Evolve(elites=0), {"ids": np.arange(1), "pool": state.model[None]})


class Overflowing(Sums):
    def ask(self, state: Notes) -> Plan:
        return Plan(Evaluate(fraction_bits=30, rows_max=1 << 32), {"candidates": state.model[None]})


@pytest.mark.parametrize("algorithm", [AsksEvolve(), Overflowing()], ids=["query", "bits"])
def test_query_that_cannot_be_summed_is_refused(algorithm: Any) -> None:
    with pytest.raises(NonConforming):
        check_algorithm(algorithm)


@pytest.mark.parametrize(
    ("algorithm", "limits", "words"),
    [
        ("evolution", {}, "such as ridge"),
        ("ridge", {"sample": 0.5}, "sample"),
        ("ridge", {"buffer": 3}, "buffer"),
        ("ridge", {"min_trainers": 2}, "at least 3"),
    ],
)
def test_secure_run_that_cannot_be_is_refused_in_one_line(algorithm: str, limits: dict[str, float], words: str) -> None:
    check_secure(find_algorithm("ridge"), {"min_trainers": 3, "quorum": 0.7})
    with pytest.raises(BadConfiguration, match=words) as refusal:
        check_secure(find_algorithm(algorithm), limits)
    assert "\n" not in str(refusal.value)
