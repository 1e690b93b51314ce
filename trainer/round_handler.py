"""A trainer's answer to a round: its rows, fitted to the round's task, and the round's own random stream."""

from collections.abc import Callable
from functools import partial

from fedmq.algorithms.base import Assignment, check_down
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
    fitted: tuple[Task, Rows] | None = None
    sandboxes = _Sandboxes(rows)

    def answer(packet: Packet, cancelled: Cancelled) -> dict[str, Array]:
        nonlocal fitted
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
        score = partial(task.score, rows=own) if code is None else sandboxes.scoring(code, task, cancelled)
        draws = derive_rng(message.seed, "trainer", name, message.round)
        return learner.learn(query, Assignment(task, arrays, own, score, draws, cancelled))

    return answer


class _Sandboxes:
    """The sandbox of the newest task that code scores; that of another task replaces it."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._newest: tuple[Task, bytes, Sandbox] | None = None

    def scoring(self, code: bytes, task: Task, cancelled: Cancelled) -> Callable[[Floats], Scores]:
        """Return the function that scores candidates by this code."""
        if self._newest is None or self._newest[:2] != (task, code):
            if self._newest is not None:
                self._newest[2].close()
            self._newest = (task, code, Sandbox(code, task.fit(self._rows)))
        return partial(self._newest[2].score, cancelled=cancelled)
