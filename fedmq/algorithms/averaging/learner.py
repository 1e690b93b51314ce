"""The trainer's half of `averaging`: scores the model as it came, then trains it on the rows, or sums its gradient."""

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from fedmq.algorithms.averaging.query import (
    BLOCK_ROWS,
    CHANGE_BITS,
    CHANGE_REACH,
    DESCENT_LOSS_BITS,
    Descend,
    EvolutionLearner,
    GradientLearner,
    OwnCode,
    SumGradient,
    TorchLearner,
    Train,
    dtype_of,
)
from fedmq.algorithms.base import CONTROL, Assignment, Learner
from fedmq.algorithms.evaluation.exact_scores import ROW_LOSS_BITS, exact_scores
from fedmq.algorithms.evolution.local_search import evolve
from fedmq.algorithms.inbox import GENE_MAX
from fedmq.algorithms.standardization import AXES, STANDARD
from fedmq.errors import CodeRefused, WorkCancelled, WorkError
from fedmq.models.arrays import Floats, Integers
from fedmq.models.backprop import mean_gradient
from fedmq.models.exact_gradient import WEIGHT_BITS_MIN, exact_gradient, weight_bits
from fedmq.models.layers import Layered, layered
from fedmq.models.networks import MLP, Linear
from fedmq.models.standardized import Standard
from fedmq.models.torch_model import Torch
from fedmq.models.torch_modules import Descent, module_of
from fedmq.tasks.row_views import chosen
from fedmq.tasks.task import Rows, Task


def train_model(query: Train, work: Assignment) -> dict[str, npt.NDArray[Any]]:
    """Score the model, then train it."""
    model = work.arrays["model"].astype(np.float64)
    losses, correct = work.score(model[None])
    if work.fit is not None:
        trained = np.clip(work.fit(model, work.generator), -GENE_MAX, GENE_MAX)
    elif isinstance(query.learner, TorchLearner):
        trained = _train_module(query.learner, model, work)
    elif isinstance(query.learner, OwnCode):
        raise CodeRefused(
            f"task {work.task.name} is trained by code of each site, got none: "
            "start this trainer with --learner FILE.py:fit"
        )
    elif isinstance(query.learner, GradientLearner):
        trained, _ = _descend(query.learner, layered(work.task.model, "learner=gradient"), model, work)
        if not np.abs(trained).max() <= GENE_MAX:  # NaN neither; the aggregator accepts no larger weights
            raise _diverged(query.learner, work)
    else:
        trained = _evolve_model(query.learner, model, work)
    return {"model": trained.astype(dtype_of(work.task)), "losses": losses, "correct": correct}


def _train_module(learner: TorchLearner, model: Floats, work: Assignment) -> Floats:
    """Return the model after PyTorch's optimizer."""
    if not isinstance(work.task.model, Torch):
        raise WorkError(f"expected a PyTorch model for learner=torch, got {type(work.task.model).__name__}")
    module = module_of(work.task.model)
    descent = Descent(**msgspec.structs.asdict(learner))
    trained = module.train(model, work.rows.inputs, work.rows.targets, descent, work.generator, work.cancelled)
    if not np.abs(trained).max() <= GENE_MAX:  # NaN neither
        raise _diverged(learner, work)
    return trained


def send_change(query: Descend, work: Assignment) -> dict[str, npt.NDArray[Any]]:
    """Score the model, train it, and return its change, and that of the control variate of these rows.

    Karimireddy et al. (2020), "SCAFFOLD: stochastic controlled averaging for federated learning", algorithm 1, with
    option II for the control variate: its new value is the mean gradient along the way.
    """
    model, learner, rows = work.arrays["model"], query.learner, len(work.rows.inputs)
    standard = Standard.of(work.arrays[STANDARD], work.arrays.get(AXES))
    deployed = layered(work.task.model, "learner=gradient")
    network, raw = standard.network(deployed), standard.raw(deployed, model)
    losses, correct = work.score(raw[None])
    losses = np.minimum(losses * 4.0**-query.unit, rows * 2.0**DESCENT_LOSS_BITS)
    answer = {"losses": losses, "correct": correct}
    if work.fit is not None:
        if query.scaffold:
            raise WorkError("method=scaffold: expected training by gradients, got --learner: use method=fedavg")
        trained = standard.standardized(deployed, work.fit(raw, work.generator))
        return {**answer, "change": _fixed(trained - model, rows, query, work)}
    work = replace(work, rows=_standardized(standard, work.task, work.rows))
    if not query.scaffold:
        trained, _ = _descend(learner, network, model, work)
        return {**answer, "change": _fixed(trained - model, rows, query, work)}
    everywhere = work.arrays[CONTROL]
    own = np.zeros(len(model)) if work.control is None else work.control * 2.0**-CHANGE_BITS / rows
    trained, steps = _descend(learner, network, model, work, everywhere - own)
    control = (model - trained) / (steps * learner.learning_rate) - everywhere
    return {
        **answer,
        "change": _fixed(trained - model, rows, query, work),
        CONTROL: _fixed(control, rows, query, work),
    }


def sum_gradient(query: SumGradient, work: Assignment) -> dict[str, npt.NDArray[Any]]:
    """Sum the gradient and the loss, block after block."""
    task, parameters, num_examples = work.task, work.arrays["model"], len(work.rows.inputs)
    standard = Standard.of(work.arrays[STANDARD], work.arrays.get(AXES))
    model = standard.network(layered(task.model, "method=fedsgd"))
    assert isinstance(model, MLP | Linear)
    if weight_bits(model, parameters) < WEIGHT_BITS_MIN:
        raise _model_diverged(work)
    totals, loss, correct = np.zeros(len(parameters), np.int64), 0, 0
    for start in range(0, num_examples, BLOCK_ROWS):
        if work.cancelled():
            raise WorkCancelled("the gradient was cancelled: a newer round makes it needless")
        rows = chosen(work.rows, slice(start, start + BLOCK_ROWS))
        found = exact_gradient(model, parameters, *_standardized(standard, task, rows)[:2])
        outputs = found.outputs * standard.unit + standard.center
        scores = exact_scores(task, outputs, rows.targets, query.fraction_bits, query.unit)
        totals, loss, correct = totals + found.sums, loss + scores.loss, correct + scores.correct
    if loss >= num_examples << (query.fraction_bits + ROW_LOSS_BITS):  # each row has the largest error that counts
        raise _model_diverged(work)
    return {"gradient": totals, "loss": np.array([loss]), "correct": np.array([correct])}


def _standardized(standard: Standard, task: Task, rows: Rows) -> Rows:
    """Return rows with standardized inputs, and standardized targets if these are values."""
    targets = rows.targets if task.loss == "cross-entropy" else standard.values(rows.targets)
    return rows._replace(inputs=standard.inputs(rows.inputs), targets=targets)


def _descend(
    learner: GradientLearner, network: Layered, model: Floats, work: Assignment, correction: Floats | None = None
) -> tuple[Floats, int]:
    """Return the model of a network after the local epochs of stochastic gradient descent, and the number of steps.

    Each of the local epochs has the rows in another order. A `correction` is added to each gradient.
    """
    inputs, targets = work.rows.inputs, work.rows.targets
    size, steps, trained = learner.batch_size or len(inputs), 0, model.copy()
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for _ in range(learner.epochs):
            order = work.generator.permutation(len(inputs)) if size < len(inputs) else None
            for start in range(0, len(inputs), size):
                if work.cancelled():
                    raise WorkCancelled("gradient descent was cancelled: a newer round makes it needless")
                batch = slice(None) if order is None else order[start : start + size]
                gradient = mean_gradient(network, trained, inputs[batch], targets[batch])
                if learner.l2:
                    gradient += learner.l2 * trained
                if correction is not None:
                    gradient += correction
                trained -= learner.learning_rate * gradient
                steps += 1
            if not np.isfinite(trained).all():
                raise _diverged(learner, work)
    return trained, steps


def _fixed(values: Floats, rows: int, query: Descend, work: Assignment) -> Integers:
    """Return rows * values, rounded once to units of 2**-CHANGE_BITS.

    Raises:
        WorkError: a value is beyond what an answer may have: training diverges.
    """
    if not np.abs(values).max() <= 2.0**CHANGE_REACH:
        raise _diverged(query.learner, work)
    return np.rint(values * (rows * 2.0**CHANGE_BITS)).astype(np.int64)


def _model_diverged(work: Assignment) -> WorkError:
    return WorkError(
        f"the model diverged after {work.round - 1} rounds: lower the learning rate, to a tenth for example "
        "(--param learning_rate=...), or set output_scale in the task"
    )


def _diverged(learner: GradientLearner | TorchLearner, work: Assignment) -> WorkError:
    rate, lower = f"{learner.learning_rate:g}", f"{learner.learning_rate / 10:g}"
    return WorkError(
        f"learning rate {rate} diverged after {work.round} rounds: try {lower} (--param learning_rate={lower})"
    )


def _evolve_model(learner: EvolutionLearner, model: Floats, work: Assignment) -> Floats:
    """Return the best candidate of a population that starts as a Gaussian cloud around the model, itself included."""
    cloud = work.generator.normal(0.0, learner.spread, (learner.population, len(model)))
    cloud[0] = 0.0
    population, fitness = evolve(
        model + cloud,
        lambda candidates: -work.score(candidates).losses,
        learner.generations,
        work.generator,
        mutation=learner.mutation,
        cancelled=work.cancelled,
    )
    best: Floats = population[np.argmax(fitness)].copy()
    return best


LEARNER = Learner(Train, train_model)
DESCENT = Learner(Descend, send_change)
GRADIENT = Learner(SumGradient, sum_gradient)
