"""The constant model: the best one that looks at no input. Its score follows from the moments alone."""

import math

import numpy as np

from fedmq.algorithms.base import Evaluation
from fedmq.algorithms.statistics.columns import ColumnMoments
from fedmq.errors import BadConfiguration
from fedmq.exact.elementary import exp, log, softmax
from fedmq.models.arrays import Floats
from fedmq.models.losses import ROW_CROSS_ENTROPY_MAX
from fedmq.models.networks import MLP, Code, LogLinear, Model
from fedmq.models.trees import Trees
from fedmq.tasks.task import Task

RARE = 0.5  # rows that a class without any row counts as: its logarithm must be finite


def constant_outputs(task: Task, moments: ColumnMoments) -> Floats:
    """Return the biases (outputs,) of the constant model: log shares of the classes, or the mean target.

    Of counts it is the logarithm of their mean.
    """
    if task.loss != "cross-entropy":
        least = RARE / max(1, moments.num_examples)
        return log(np.maximum(moments.means[-1:], least)) if is_log(task.model) else moments.means[-1:]
    return log(np.maximum(moments.classes.astype(np.float64), RARE) / max(1, moments.num_examples))


def constant_evaluation(task: Task, moments: ColumnMoments) -> Evaluation:
    """Return the evaluation of the constant model of a task's network.

    `correct` is the size of the largest class; 0 for a task of values, because no sum counts the near ones.

    Raises:
        BadConfiguration: the model is code.
    """
    model = task.model
    if isinstance(model, Code):
        raise BadConfiguration(f"expected a task with a network, got {task.name}, whose model is code")
    outputs = constant_outputs(task, moments)
    if isinstance(model, MLP) and not model.bias:
        outputs = np.zeros(model.outputs)
    parameters = np.zeros(model.num_parameters)
    if not isinstance(model, MLP) or model.bias:
        parameters[-model.outputs :] = outputs
    if task.loss == "cross-entropy":
        log_sum = softmax(outputs[:, None])[1][0]
        losses = np.minimum(log_sum - outputs, ROW_CROSS_ENTROPY_MAX)
        loss = math.fsum(float(one) * int(count) for one, count in zip(losses, moments.classes, strict=True))
        correct = int(moments.classes[np.argmax(outputs)])
    else:
        value = exp(outputs)[0] if is_log(model) else outputs[0]
        away = float(value) - float(moments.means[-1])
        loss = (float(moments.variances[-1]) + away * away) * moments.num_examples
        correct = 0
    fitness = -loss / max(1, moments.num_examples)
    return Evaluation(
        parameters=parameters,
        loss=loss,
        correct=correct,
        rows=moments.num_examples,
        coverage=moments.coverage,
        fitness_best=fitness,
        fitness_mean=fitness,
        fitness_worst=fitness,
        diversity=0.0,
    )


def is_log(model: Model) -> bool:
    """Return whether the outputs of a model are exp of a sum: means of counts."""
    return isinstance(model, LogLinear) or (isinstance(model, Trees) and model.counts)
