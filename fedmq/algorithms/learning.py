"""The local work of one round: what the aggregator asked for, done on the trainer's own rows.

Knows nothing of sockets, of time or of how rounds come and go. The rows stay here: what leaves are scores and genes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from fedmq.algorithms.evolution.local_search import evolve
from fedmq.errors import BadConfiguration, Rejected, WorkCancelled
from fedmq.models.arrays import Floats, all_finite
from fedmq.models.losses import Scores
from fedmq.models.networks import Linear
from fedmq.protocol.codec import check_arrays
from fedmq.protocol.messages import EvolutionLearner, Evolve, GradientLearner, Train, Work
from fedmq.tasks.task import CANDIDATES_MAX, Rows, Task

Arrays = dict[str, npt.NDArray[Any]]
Score = Callable[[Floats], Scores]
ELITES_SHARE = 10  # one in so many of a local population survives each generation unchanged
PARENTS_SHARE = 4  # one in so many breeds the others


def learn(
    task: Task,
    work: Work,
    arrays: Mapping[str, npt.NDArray[Any]],
    rows: Rows,
    generator: np.random.Generator,
    cancelled: Callable[[], bool],
    score: Score | None = None,
) -> Arrays:
    """The arrays that answer the round, as `fedmq.protocol.messages` describes them for this kind of work.

    `rows` are the trainer's own, ready for `task.score`; `cancelled` is asked now and then. `score` scores candidates
    on these rows; None: `task.score` does.

    Raises:
        Rejected: the arrays that came with the round do not fit the task.
        BadConfiguration: the model cannot be trained in the way that the round asks for.
        WorkCancelled: `cancelled()` became true.
    """
    score = score or partial(task.score, rows=rows)
    if isinstance(work, Evolve):
        return _evolve_pool(task, work, arrays, score, generator, cancelled)
    return _train_model(task, work, arrays, rows, score, generator, cancelled)


def _evolve_pool(
    task: Task,
    work: Evolve,
    arrays: Mapping[str, npt.NDArray[Any]],
    score: Score,
    generator: np.random.Generator,
    cancelled: Callable[[], bool],
) -> Arrays:
    """Scores the pool, then evolves offspring from it and picks the best that the pool does not hold."""
    pool = _checked_pool(task, work, arrays)
    losses, correct = score(pool)
    start = _starting_rows(work, losses)
    proposals = np.empty((0, task.model.num_parameters))
    if work.generations and work.proposals and len(start) > 1:
        population, fitness = _search(
            score, pool[start], work.generations, work.mutation, generator, cancelled, known=-losses[start]
        )
        proposals = _newcomers(population, fitness, pool[start], work.proposals)
    return {"losses": losses, "correct": correct, "elites": proposals}


def _starting_rows(work: Evolve, losses: Floats) -> npt.NDArray[np.intp]:
    """Rows of the pool from which the local search starts: half are its elites, half the trainer's own best.

    The elites are what everybody agrees on, the own best what these rows call for.
    """
    elites = np.arange(min(work.elites, work.population // 2))
    order = np.argsort(losses, kind="stable")
    own = order[order >= len(elites)][: work.population - len(elites)]
    return np.concatenate([elites, own])


def _newcomers(population: Floats, fitness: Floats, start: Floats, most: int) -> Floats:
    """The best of the population, best first, without those that it started from: `(most or fewer, genes)`."""
    known = {candidate.tobytes() for candidate in start}
    best_first = population[np.argsort(-fitness, kind="stable")]
    new = [candidate for candidate in best_first[: most + len(known)] if candidate.tobytes() not in known]
    return np.array(new[:most], dtype=np.float64).reshape(-1, population.shape[1])


def _train_model(
    task: Task,
    work: Train,
    arrays: Mapping[str, npt.NDArray[Any]],
    rows: Rows,
    score: Score,
    generator: np.random.Generator,
    cancelled: Callable[[], bool],
) -> Arrays:
    """Scores the model as it came, then trains it."""
    check_arrays(arrays, {"model": ((task.model.num_parameters,), np.float64)})
    model = arrays["model"]
    losses, correct = score(model[None])
    if isinstance(work.learner, GradientLearner):
        trained = _descend(task, work.learner, model, rows, cancelled)
    else:
        trained = _evolve_model(work.learner, model, score, generator, cancelled)
    return {"model": trained, "losses": losses, "correct": correct}


def _evolve_model(
    learner: EvolutionLearner,
    model: Floats,
    score: Score,
    generator: np.random.Generator,
    cancelled: Callable[[], bool],
) -> Floats:
    """The best candidate of a population that starts as a Gaussian cloud around the model, the model among it."""
    cloud = generator.normal(0.0, learner.spread, (learner.population, len(model)))
    cloud[0] = 0.0
    population, fitness = _search(
        score, model + cloud, learner.generations, learner.mutation, generator, cancelled, known=None
    )
    best: Floats = population[np.argmax(fitness)].copy()
    return best


def _descend(task: Task, learner: GradientLearner, model: Floats, rows: Rows, cancelled: Callable[[], bool]) -> Floats:
    """The linear model after plain gradient descent on the summed squared error over all rows.

    The loss is sum((x w + b - y)^2), its gradient 2 X' (X w + b - y), with a column of ones in X for the bias.
    """
    if not isinstance(task.model, Linear):
        raise BadConfiguration(
            f"expected a linear model for the gradient learner, got {type(task.model).__name__} of task {task.name}: "
            "use the strategy fedavg or evolution"
        )
    inputs = np.column_stack([rows.inputs, np.ones(len(rows.inputs))])
    trained = model.copy()
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(learner.steps):
            if cancelled():
                raise WorkCancelled("gradient descent was cancelled: a newer round makes it needless")
            trained -= learner.learning_rate * 2.0 * (inputs.T @ (inputs @ trained - rows.targets))
    if not all_finite(trained):
        raise BadConfiguration(
            f"expected gradient descent to converge on task {task.name}, got infinite weights: "
            f"lower the learning rate, now {learner.learning_rate:g}"
        )
    return trained


def _search(
    score: Score,
    population: Floats,
    generations: int,
    mutation: tuple[float, float],
    generator: np.random.Generator,
    cancelled: Callable[[], bool],
    known: Floats | None,
) -> tuple[Floats, Floats]:
    """A local evolution on these rows; fitness is the negative summed loss."""
    return evolve(
        population,
        lambda candidates: -score(candidates).losses,
        generations,
        generator,
        elites=max(1, len(population) // ELITES_SHARE),
        parents=max(2, len(population) // PARENTS_SHARE),
        mutation=mutation,
        cancelled=cancelled,
        known=known,
    )


def _checked_pool(task: Task, work: Evolve, arrays: Mapping[str, npt.NDArray[Any]]) -> Floats:
    size = len(arrays["pool"]) if "pool" in arrays else 0
    check_arrays(arrays, {"ids": ((size,), np.int64), "pool": ((size, task.model.num_parameters), np.float64)})
    if not max(1, work.elites) <= size <= CANDIDATES_MAX:
        raise Rejected("values", f"expected a pool of {max(1, work.elites)} to {CANDIDATES_MAX}, got {size}")
    return arrays["pool"]
