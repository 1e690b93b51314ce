"""OpenAI-ES as an algorithm of your own: evolution strategies with antithetic pairs and ranks.

After Salimans et al. (2017), "Evolution strategies as a scalable alternative to reinforcement learning". It needs only
the total of each candidate's losses, so it is additive: fedmq checks, adds and stores the trainers' answers.

    fedmq aggregator --algorithm examples/openai_es.py:OpenAIES --task xor --param pairs=40
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec
import numpy as np

from fedmq import Task
from fedmq.algorithms.base import Evaluation, Plan
from fedmq.algorithms.evaluation.query import Evaluate
from fedmq.runtime.rng import derive_rng


class Parameters(msgspec.Struct, frozen=True):
    pairs: int = 50
    sigma: float = 0.3  # standard deviation of the directions
    learning_rate: float = 0.5


@dataclass(frozen=True, eq=False)
class State:
    seed: int
    round: int
    model: np.ndarray  # (parameters,)
    evaluation: Evaluation | None = None


class OpenAIES:
    name = "openai-es"
    Parameters = Parameters

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters

    def init(self, task: Task, seed: int) -> State:
        return State(seed, 1, derive_rng(seed, "openai-es").normal(0.0, 0.5, task.model.num_parameters))

    def _directions(self, state: State) -> np.ndarray:
        draws = derive_rng(state.seed, "openai-es", state.round)
        return self.parameters.sigma * draws.standard_normal((self.parameters.pairs, len(state.model)))

    def ask(self, state):
        steps = self._directions(state)
        return Plan(
            Evaluate(), {"candidates": np.concatenate([[state.model], state.model + steps, state.model - steps])}
        )

    def close(self, state, total, late):
        if total is None:  # no trainer answered: publish the same again
            return state
        losses, sigma, pairs = total.losses, self.parameters.sigma, self.parameters.pairs
        ranks = np.argsort(np.argsort(-losses[1:], kind="stable"), kind="stable") / (2 * pairs - 1) - 0.5
        gradient = (ranks[:pairs] - ranks[pairs:]) @ self._directions(state) / (2 * pairs * sigma**2)
        fitness = -losses / total.num_examples
        evaluation = Evaluation(
            genes=state.model,
            loss=float(losses[0]),
            correct=int(total.arrays["correct"][0]),
            rows=total.num_examples,
            coverage=total.coverage,
            fitness_best=float(fitness.max()),
            fitness_mean=float(fitness.mean()),
            fitness_worst=float(fitness.min()),
            diversity=sigma,
        )
        model = state.model + self.parameters.learning_rate * gradient
        return replace(state, round=state.round + 1, model=model, evaluation=evaluation)

    def evaluation(self, state):
        return state.evaluation
