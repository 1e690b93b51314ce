"""A trainer's answer to a round: its rows, fitted to the round's task, and the round's own random stream."""

from collections.abc import Callable
from functools import partial

from fedmq.algorithms.base import Assignment, check_down
from fedmq.algorithms.registry import BUILTIN_LEARNERS, find_learner
from fedmq.models.arrays import Floats
from fedmq.models.losses import Scores
from fedmq.models.networks import Code
from fedmq.protocol.codec import CODE, Array, Packet
from fedmq.protocol.messages import Round
from fedmq.runtime.rng import derive_rng
from fedmq.tasks.task import Rows, Task
from fedmq.trainer.budget import open_query
from fedmq.trainer.code_policy import NO_CODE, CodePolicy
from fedmq.trainer.sandbox import Sandbox
from fedmq.trainer.worker import Cancelled, Learn


def on_rows(rows: Rows, name: str, policy: CodePolicy = NO_CODE) -> Learn:
    """Return the function that answers rounds from the rows of trainer `name`, for a worker.

    The same round gives the same answer, bit for bit: its draws derive from the run's seed, the round and the name.
    The rows are fitted to a task once, and again when another task arrives. Code runs only as `policy` allows.

    Raises (when called):
        BadData: the rows do not fit the task.
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
            fitted = (task, task.fit(rows))
        own = fitted[1]
        score: Callable[[Floats], Scores] = partial(task.score, rows=own)
        if code is not None:
            if sandbox is None or sandbox[:2] != (task, code):
                if sandbox is not None:
                    sandbox[2].close()
                sandbox = (task, code, Sandbox(code, own))
            score = partial(sandbox[2].score, cancelled=cancelled)
        draws = derive_rng(message.seed, "trainer", name, message.round)
        return learner.learn(query, Assignment(task, arrays, own, score, draws, cancelled))

    return answer
