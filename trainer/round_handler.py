"""What a trainer answers to a round: its rows, made ready for the round's task, and the round's own random stream.

Knows nothing of sockets, threads or sessions.
"""

from __future__ import annotations

from functools import partial

from fedmq.algorithms.learning import Score, learn
from fedmq.models.code import Code
from fedmq.protocol.codec import CODE, Array, Packet
from fedmq.protocol.messages import Round
from fedmq.runtime.rng import derive_rng
from fedmq.tasks.task import Rows, Task
from fedmq.trainer.code_policy import NO_CODE, CodePolicy
from fedmq.trainer.sandbox import Sandbox
from fedmq.trainer.worker import Cancelled, Learn


def on_rows(rows: Rows, name: str, policy: CodePolicy = NO_CODE) -> Learn:
    """The work of trainer `name` on its rows, for a worker.

    The same round gives the same answer, bit for bit: its draws come from the run's seed, the round and the name.
    The rows are fitted to a task once, and again when another task comes. Code runs only as `policy` lets it.

    Raises (when called):
        BadData: the rows do not fit the task.
        Rejected: what came with the round does not fit it, or the code failed.
        CodeRefused: the task is scored by code that the policy does not let run.
    """
    fitted: tuple[Task, Rows] | None = None
    sandboxes = _Sandboxes(rows)

    def answer(packet: Packet, cancelled: Cancelled) -> dict[str, Array]:
        nonlocal fitted
        message = packet.message
        assert isinstance(message, Round)
        arrays, score = packet.arrays, None
        if isinstance(message.task.model, Code):
            code = policy.code(packet)
            arrays = {key: array for key, array in arrays.items() if key != CODE}
            score = sandboxes.scoring(code, message.task, cancelled)
        if fitted is None or fitted[0] != message.task:
            fitted = (message.task, message.task.fit(rows))
        draws = derive_rng(message.seed, "trainer", name, message.round)
        return learn(message.task, message.work, arrays, fitted[1], draws, cancelled, score)

    return answer


class _Sandboxes:
    """The sandbox of the newest task that is scored by code; another one's takes its place."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._newest: tuple[Task, bytes, Sandbox] | None = None

    def scoring(self, code: bytes, task: Task, cancelled: Cancelled) -> Score:
        """How to score candidates by this code."""
        if self._newest is None or self._newest[:2] != (task, code):
            if self._newest is not None:
                self._newest[2].close()
            self._newest = (task, code, Sandbox(code, task.fit(self._rows)))
        return partial(self._newest[2].score, cancelled=cancelled)
