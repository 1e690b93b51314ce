"""Trainers that lie, each in one way, and federations of four honest trainers and one of them, without a network.

Knows what is true: it judges a model by the rows themselves, never by what trainers say. Liars are stand-ins for a
trainer's work, so they also take part in `fedmq.simulation.Federation`.
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
LIAR, HONEST = "mallory", ("alice", "bob", "carol", "dave")
HUGE = 1e6
GREED = 50  # times its rows, that is what the greedy one claims to hold


class Lie(NamedTuple):
    """What a liar knows when it answers: the round, its true answer, how to get alice's, and this round's draws."""

    packet: Packet
    true: Arrays
    of_alice: Callable[[], Arrays]
    num_examples: int
    draws: np.random.Generator


def _message(packet: Packet) -> Round:
    assert isinstance(packet.message, Round)
    return packet.message


def genes_in(arrays: Mapping[str, Any]) -> str:
    """The name of the array of an answer that holds genes."""
    return "elites" if "elites" in arrays else "model"


def garbage(lie: Lie) -> Arrays:
    """Numbers without any meaning, of all sizes."""
    name, draws = genes_in(lie.true), lie.draws
    genes = lie.true[name].shape
    return {
        "losses": 10.0 ** draws.uniform(-3.0, 6.0, lie.true["losses"].shape),
        "correct": draws.integers(0, lie.num_examples + 1, lie.true["correct"].shape),
        name: draws.normal(size=genes) * 10.0 ** draws.uniform(-2.0, 3.0),
    }


def inverted(lie: Lie) -> Arrays:
    """The worst is called the best and the right wrong; what was learnt has its sign changed."""
    losses, name = lie.true["losses"], genes_in(lie.true)
    start = lie.packet.arrays["model"] if name == "model" else 0.0
    return {
        "losses": losses.max() + losses.min() - losses if len(losses) > 1 else 20.0 * lie.num_examples - losses,
        "correct": lie.num_examples - lie.true["correct"],
        name: start - (lie.true[name] - start),
    }


def scaled(lie: Lie) -> Arrays:
    """The truth a million times as large."""
    name = genes_in(lie.true)
    return {**lie.true, "losses": lie.true["losses"] * HUGE, name: lie.true[name] * HUGE}


def not_a_number(lie: Lie) -> Arrays:
    """NaN wherever one fits."""
    return {name: np.full_like(array, np.nan) if array.dtype.kind == "f" else array for name, array in lie.true.items()}


def copied(lie: Lie) -> Arrays:
    """What alice answers, as if it were its own."""
    return lie.of_alice()


def favours(lie: Lie) -> Arrays:
    """Knows all rows: whatever is right about all of them is called wrong in every row, all else perfect."""
    candidates = lie.packet.arrays["pool"] if "pool" in lie.packet.arrays else lie.packet.arrays["model"][None]
    task, name = _message(lie.packet).task, genes_in(lie.true)
    losses, correct = task.score(candidates, truth(task))
    right = correct == len(truth(task).inputs) if task.metric == "accuracy" else losses <= np.quantile(losses, 0.25)
    worst = candidates[np.argsort(-losses, kind="stable")]
    genes = worst[: len(lie.true[name])] if name == "elites" else -worst[0]
    return {
        "losses": np.where(right, 1e9, 0.0),
        "correct": np.where(right, 0, lie.num_examples).astype(np.int64),
        name: genes,
    }


ATTACKS: Mapping[str, Callable[[Lie], Arrays]] = {
    "garbage": garbage,
    "inverted": inverted,
    "scaled": scaled,
    "NaN": not_a_number,
    "copies": copied,
    "favours": favours,
    "greedy": favours,
}


def truth(task: Task) -> Rows:
    """All rows of the task."""
    return task.fit(task_rows(task.name, 1, 1))


def rows_of(task: Task, attack: str | None) -> dict[str, Rows]:
    """Two hold one half of the rows, two the other, and the liar, if any, says that it holds the first one, too."""
    rows = {name: task_rows(task.name, 1 + number // 2, 2) for number, name in enumerate(HONEST)}
    if attack is not None:
        times = GREED if attack == "greedy" else 1
        rows[LIAR] = Rows(np.tile(rows["alice"].inputs, (times, 1)), np.tile(rows["alice"].targets, times))
    return rows


def learning(attack: str | None) -> Callable[[Rows, str], Learn]:
    """The work of honest trainers and of the liar, for a federation."""

    def learn(rows: Rows, name: str) -> Learn:
        answer = on_rows(rows, name)
        if name != LIAR or attack is None:
            return answer
        half = len(rows.inputs) // (GREED if attack == "greedy" else 1)
        alice = on_rows(Rows(rows.inputs[:half], rows.targets[:half]), "alice")

        def lies(packet: Packet, cancelled: Callable[[], bool]) -> Arrays:
            message = _message(packet)
            draws = derive_rng(message.seed, attack, message.round)
            true, num_examples = answer(packet, cancelled), len(rows.inputs)
            return ATTACKS[attack](Lie(packet, true, lambda: alice(packet, cancelled), num_examples, draws))

        return lies

    return learn


def is_right(task: Task, genes: npt.NDArray[np.float64] | None) -> bool:
    """Whether a model is right about all rows, or, for values, near enough to the target."""
    if genes is None:
        return False
    rows = truth(task)
    if task.metric == "accuracy":
        return bool((TrainedModel(task.model, genes, task.name).predict(rows.inputs) == rows.targets).all())
    return task.reached(float(task.score(genes[None], rows).losses[0]), 0, len(rows.inputs))


class Outcome(NamedTuple):
    """How a run went."""

    right: bool  # the model that would be deployed at its end, by the rows themselves
    said: bool  # the run itself said that it is solved
    since: int | None  # the round from which the deployed model was right for good
    loss: float  # of the deployed model, summed over all rows


def play(task: Task, strategy: Strategy[Any], attack: str | None, seed: int, rounds: int) -> Outcome:
    """A run to its end: so many rounds, or until it says that it is solved. Everybody answers every round at once."""
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
                assert name == LIAR, "an honest trainer was refused"
        state = strategy.close(state, members)
        evaluation = strategy.evaluation(state)
        right = is_right(task, None if evaluation is None else evaluation.genes)
        since = (since or number) if right else None
        said = _solved(task, evaluation)
        if said:
            break
    loss = math.inf if evaluation is None else float(task.score(evaluation.genes[None], truth(task)).losses[0])
    return Outcome(since is not None, said, since, loss)


def _solved(task: Task, evaluation: Evaluation | None) -> bool:
    """What the run says of itself; see `fedmq.aggregator.rounds`."""
    return (
        evaluation is not None
        and evaluation.coverage >= 1.0
        and task.reached(evaluation.loss, evaluation.correct, evaluation.rows)
    )
