"""An algorithm of your own: OpenAI-ES (Salimans et al., 2017), which needs only the total of the trainers' losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from fedmq import Task
from fedmq.algorithms.base import Evaluation, Plan, Total
from fedmq.algorithms.evaluation.query import Evaluate
from fedmq.runtime.rng import derive_rng


class Parameters(msgspec.Struct, frozen=True):
    """The parameters, with their defaults: each can be set by `--param`."""

    pairs: int = 50  # of candidates, on opposite sides of the model
    sigma: float = 0.3  # standard deviation of a candidate's distance
    learning_rate: float = 0.5


@dataclass(frozen=True, eq=False)
class State:
    """All that changes from round to round."""

    seed: int
    step: int
    model: np.ndarray  # (parameters,)
    evaluation: Evaluation | None = None


class OpenAIES:
    """Move the model towards the candidates with the smaller losses, by rank."""

    name = "openai-es"
    Parameters = Parameters

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters

    def init(self, task: Task, seed: int) -> State:
        """Return a small random model."""
        return State(seed, 0, derive_rng(seed, self.name).normal(0.0, 0.5, task.model.num_parameters))

    def ask(self, state: State) -> Plan:
        """Publish the model and the pairs around it."""
        steps = self.steps(state)
        return Plan(Evaluate(), {"candidates": state.model + np.concatenate([0.0 * steps[:1], steps, -steps])})

    def close(self, state: State, total: Total | None, _late: Mapping[int, Total]) -> State:
        """Rate the model, and move it."""
        if total is None:  # no trainer answered
            return state
        losses, half = total.losses, self.parameters.pairs
        ranks = np.argsort(np.argsort(-losses[1:], kind="stable"), kind="stable") / (2 * half - 1)
        gradient = (ranks[:half] - ranks[half:]) @ self.steps(state) / (2 * half * self.parameters.sigma**2)
        evaluation = total.evaluation(state.model, diversity=self.parameters.sigma)
        moved = state.model + self.parameters.learning_rate * gradient
        return replace(state, step=state.step + 1, model=moved, evaluation=evaluation)

    def evaluation(self, state: State) -> Evaluation | None:
        """Return the last model that trainers rated."""
        return state.evaluation

    def steps(self, state: State) -> np.ndarray:
        """Return the distances of one side of the pairs, (pairs, parameters), the same for the same step."""
        draws = derive_rng(state.seed, self.name, state.step)
        return draws.normal(0.0, self.parameters.sigma, (self.parameters.pairs, len(state.model)))
