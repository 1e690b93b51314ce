"""Byzantine trainers, one attack each, in federations with four honest trainers, without a network.

Models are judged by the rows themselves, never by reported scores. An attack replaces the work of a trainer, so it
also runs in `fedmq.simulation.Federation`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fedmq.algorithms.base import Evaluation, Strategy, Update, encode_query
from fedmq.errors import Rejected
from fedmq.models.trained_model import TrainedModel
from fedmq.protocol.codec import Packet
from fedmq.protocol.messages import Round
from fedmq.runtime.rng import derive_rng
from fedmq.tasks.task import Rows, Task
from fedmq.tasks.task_file import task_rows
from fedmq.trainer.round_handler import on_rows
from fedmq.trainer.worker import Learn

Arrays = dict[str, npt.NDArray[Any]]
BYZANTINE, HONEST = "mallory", ("alice", "bob", "carol", "dave")
HUGE = 1e6
GREED = 50  # times its rows: what the greedy one claims


class Attacked(NamedTuple):
    """What a Byzantine trainer knows: the round, its true answer, that of alice, and a generator for this round."""

    packet: Packet
    true: Arrays
    of_alice: Callable[[], Arrays]
    num_examples: int
    draws: np.random.Generator


def _message(packet: Packet) -> Round:
    assert isinstance(packet.message, Round)
    return packet.message


def genes_in(arrays: Mapping[str, Any]) -> str:
    """Return the name of the array of an answer that holds parameters."""
    return "elites" if "elites" in arrays else "model"


def garbage(given: Attacked) -> Arrays:
    """Random numbers of all sizes."""
    name, draws = genes_in(given.true), given.draws
    genes = given.true[name].shape
    return {
        "losses": 10.0 ** draws.uniform(-3.0, 6.0, given.true["losses"].shape),
        "correct": draws.integers(0, given.num_examples + 1, given.true["correct"].shape),
        name: draws.normal(size=genes) * 10.0 ** draws.uniform(-2.0, 3.0),
    }


def inverted(given: Attacked) -> Arrays:
    """Report the worst as the best and right as wrong; change the sign of what was learned."""
    losses, name = given.true["losses"], genes_in(given.true)
    start = given.packet.arrays["model"] if name == "model" else 0.0
    return {
        "losses": losses.max() + losses.min() - losses if len(losses) > 1 else 20.0 * given.num_examples - losses,
        "correct": given.num_examples - given.true["correct"],
        name: start - (given.true[name] - start),
    }


def scaled(given: Attacked) -> Arrays:
    """Multiply the true answer by a million."""
    name = genes_in(given.true)
    return {**given.true, "losses": given.true["losses"] * HUGE, name: given.true[name] * HUGE}


def not_a_number(given: Attacked) -> Arrays:
    """NaN in every float."""
    return {
        name: np.full_like(array, np.nan) if array.dtype.kind == "f" else array for name, array in given.true.items()
    }


def copied(given: Attacked) -> Arrays:
    """Copy the answer of alice."""
    return given.of_alice()


def favours(given: Attacked) -> Arrays:
    """Knows all rows: report candidates that are right about all of them as all wrong, the others as perfect."""
    candidates = given.packet.arrays["pool"] if "pool" in given.packet.arrays else given.packet.arrays["model"][None]
    task, name = _message(given.packet).task, genes_in(given.true)
    losses, correct = task.score(candidates, truth(task))
    right = correct == len(truth(task).inputs) if task.metric == "accuracy" else losses <= np.quantile(losses, 0.25)
    worst = candidates[np.argsort(-losses, kind="stable")]
    genes = worst[: len(given.true[name])] if name == "elites" else -worst[0]
    return {
        "losses": np.where(right, 1e9, 0.0),
        "correct": np.where(right, 0, given.num_examples).astype(np.int64),
        name: genes,
    }


ATTACKS: Mapping[str, Callable[[Attacked], Arrays]] = {
    "garbage": garbage,
    "inverted": inverted,
    "scaled": scaled,
    "NaN": not_a_number,
    "copies": copied,
    "favours": favours,
    "greedy": favours,
}


def truth(task: Task) -> Rows:
    """Return all rows of the task."""
    return task.fit(task_rows(task.name, 1, 1))


def rows_of(task: Task, attack: str | None) -> dict[str, Rows]:
    """Two trainers hold one half of the rows, two the other; a Byzantine trainer claims the first half too."""
    rows = {name: task_rows(task.name, 1 + number // 2, 2) for number, name in enumerate(HONEST)}
    if attack is not None:
        times = GREED if attack == "greedy" else 1
        rows[BYZANTINE] = Rows(np.tile(rows["alice"].inputs, (times, 1)), np.tile(rows["alice"].targets, times))
    return rows


def learning(attack: str | None) -> Callable[[Rows, str], Learn]:
    """Return the work of honest trainers and of the Byzantine one."""

    def learn(rows: Rows, name: str) -> Learn:
        answer = on_rows(rows, name)
        if name != BYZANTINE or attack is None:
            return answer
        half = len(rows.inputs) // (GREED if attack == "greedy" else 1)
        alice = on_rows(Rows(rows.inputs[:half], rows.targets[:half]), "alice")

        def attack_round(packet: Packet, cancelled: Callable[[], bool]) -> Arrays:
            message = _message(packet)
            draws = derive_rng(message.seed, attack, message.round)
            true, num_examples = answer(packet, cancelled), len(rows.inputs)
            return ATTACKS[attack](Attacked(packet, true, lambda: alice(packet, cancelled), num_examples, draws))

        return attack_round

    return learn


def is_right(task: Task, genes: npt.NDArray[np.float64] | None) -> bool:
    """Return whether a model is right about all rows, or its loss reaches the target."""
    if genes is None:
        return False
    rows = truth(task)
    if task.metric == "accuracy":
        return bool((TrainedModel(task.model, genes, task.name).predict(rows.inputs) == rows.targets).all())
    return task.reached(float(task.score(genes[None], rows).losses[0]), 0, len(rows.inputs))


class Outcome(NamedTuple):
    """The outcome of a run."""

    right: bool  # the model that would be deployed at its end, by the rows themselves
    said: bool  # the run reported that it is solved
    since: int | None  # the round from which the deployed model was right for good
    loss: float  # of the deployed model, summed over all rows


def play(task: Task, strategy: Strategy[Any], attack: str | None, seed: int, rounds: int) -> Outcome:
    """Play a run for `rounds` rounds, or until it reports that it is solved. Every trainer answers every round."""
    trainers = {name: (learning(attack)(rows, name), rows) for name, rows in rows_of(task, attack).items()}
    state, members, since, said = strategy.init(task, seed), set[str](), None, False
    evaluation: Evaluation | None = None
    for number in range(1, rounds + 1):
        plan = strategy.ask(state)
        message = Round(
            run="run", term=1, round=number, seed=seed, deadline_s=1.0, task=task, query=encode_query(plan.query)
        )
        packet = Packet("run/run/round", message, plan.arrays, [])
        for name, (learn, rows) in trainers.items():
            update = Update(name, number, 0, len(rows.inputs), learn(packet, lambda: False))
            try:
                state = strategy.tell(state, update)
                members.add(name)
            except Rejected:
                assert name == BYZANTINE, "an honest trainer was rejected"
        state = strategy.close(state, members)
        evaluation = strategy.evaluation(state)
        right = is_right(task, None if evaluation is None else evaluation.parameters)
        since = (since or number) if right else None
        said = _solved(task, evaluation)
        if said:
            break
    loss = math.inf if evaluation is None else float(task.score(evaluation.parameters[None], truth(task)).losses[0])
    return Outcome(since is not None, said, since, loss)


def _solved(task: Task, evaluation: Evaluation | None) -> bool:
    """Return whether the run would report that it is solved; see `fedmq.aggregator.rounds`."""
    return (
        evaluation is not None
        and evaluation.coverage >= 1.0
        and task.reached(evaluation.loss, evaluation.correct, evaluation.rows)
    )
