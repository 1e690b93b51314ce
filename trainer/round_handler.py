"""A trainer's answer to a round: its rows, fitted to the round's task, and the round's own random stream."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from fedmq.algorithms.base import Assignment, check_down
from fedmq.algorithms.registry import BUILTIN_LEARNERS, find_learner
from fedmq.errors import BadData
from fedmq.models.arrays import Floats
from fedmq.models.losses import ROW_SQUARED_ERROR_MAX, Scores
from fedmq.models.networks import Code
from fedmq.protocol.codec import CODE, Array, Packet
from fedmq.protocol.fixed_point import FRACTION_BITS, LOSSES, UNITS_MAX, fitting_bits, saturated
from fedmq.protocol.messages import Round
from fedmq.runtime.rng import derive_rng
from fedmq.tasks.task import Rows, Task
from fedmq.trainer.budget import cost_of, open_query
from fedmq.trainer.code_policy import NO_CODE, CodePolicy
from fedmq.trainer.sandbox import Sandbox
from fedmq.trainer.worker import Cancelled, Learn


def on_rows(rows: Rows, name: str, policy: CodePolicy = NO_CODE, *, fraction_bits: int = FRACTION_BITS) -> Learn:
    """Return the function that answers rounds from the rows of trainer `name`, for a worker.

    The same round gives the same answer, bit for bit: its draws derive from the run's seed, the round and the name.
    The rows are fitted to a task once, and again when another task arrives. Code runs only as `policy` allows.
    Losses will be sent in units of 2**-`fraction_bits`; an answer that they cannot express is refused.

    Raises (when called):
        BadData: the rows do not fit the task, or every loss saturates.
        QueryRefused: the query is of an unknown kind, or malformed.
        Rejected: the arrays of the round do not fit its query or the task, or the code failed.
        CodeRefused: code scores the task, and the policy does not allow it.
    """
    for kind in BUILTIN_LEARNERS:  # imports PyGAD now, not while the first round waits
        find_learner(kind)
    fitted: tuple[Task, Rows] | None = None
    sandbox: tuple[Task, bytes, Sandbox] | None = None  # of the newest task that code scores

    def answer(packet: Packet, cancelled: Cancelled) -> dict[str, Array]:
        nonlocal fitted, sandbox
        message = packet.message
        assert isinstance(message, Round)
        task = message.task
        query, learner, _ = open_query(message)
        arrays = {key: array for key, array in packet.arrays.items() if key != CODE or not isinstance(task.model, Code)}
        code = policy.code(packet) if isinstance(task.model, Code) else None
        check_down(query, task, arrays)
        if fitted is None or fitted[0] != task:
            fitted = (task, task.scaled(task.fit(rows)))
        own = fitted[1]
        score: Callable[[Floats], Scores] = partial(task.score, rows=own)
        if code is not None:
            if sandbox is None or sandbox[:2] != (task, code):
                if sandbox is not None:
                    sandbox[2].close()
                sandbox = (task, code, Sandbox(code, own))
            score = partial(sandbox[2].score, cancelled=cancelled)
        draws = derive_rng(message.seed, "trainer", name, message.round)
        arrays = learner.learn(query, Assignment(task, arrays, own, score, draws, cancelled))
        _check_saturated(task, arrays.get(LOSSES), own, cost_of(message, fraction_bits).fraction_bits)
        return arrays

    return answer


def _check_saturated(task: Task, losses: Array | None, rows: Rows, fraction_bits: int) -> None:
    """Check that not every loss of an answer saturates: candidates that all rank alike make a random walk.

    A part of the candidates may saturate: the others are better.

    Raises:
        BadData: every loss does; it names the scale or the fraction bits that fit.
    """
    if losses is None or not len(losses) or not saturated(losses, fraction_bits).all():
        return
    least = float(np.nanmin(losses, initial=ROW_SQUARED_ERROR_MAX * len(rows.inputs)))
    error = math.sqrt(least / len(rows.inputs))
    bits = fitting_bits(least, fraction_bits)
    if task.loss == "own":
        action = "return smaller losses from score()"
    elif np.abs(rows.targets).max() * 10.0 >= error:
        scale = task.output_scale * 10.0 ** math.floor(math.log10(error))
        action = f"set output_scale={scale:g} in the task, the unit of the values that it predicts"
    else:
        action = "scale the input columns to about 1 at every site"
    coarser = "" if bits is None else f", or start each trainer with --score-bits {bits}"
    raise BadData(
        f"expected a summed loss below {UNITS_MAX * 2.0**-fraction_bits:.3g} with {fraction_bits} fraction bits, "
        f"got at least {least:.3g} for each of {len(losses)} candidates on task {task.name} "
        f"(an error of {error:.1g} a row): {action}{coarser}"
    )
