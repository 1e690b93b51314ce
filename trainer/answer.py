"""What a trainer answers to a round: its rows, made ready for the round's task, and the round's own random stream.

Knows nothing of sockets, threads or sessions.
"""

from __future__ import annotations

from fedmq.messages import Round
from fedmq.streams import stream
from fedmq.tasks import Rows, Task
from fedmq.wire import Array, Packet
from trainer.learning import learn
from trainer.worker import Cancelled, Learn


def on_rows(rows: Rows, name: str) -> Learn:
    """The work of trainer `name` on its rows, for a worker.

    The same round gives the same answer, bit for bit: its draws come from the run's seed, the round and the name.
    The rows are fitted to a task once, and again when another task comes.

    Raises (when called):
        BadData: the rows do not fit the task.
        Rejected: what came with the round does not fit it.
    """
    fitted: tuple[Task, Rows] | None = None

    def answer(packet: Packet, cancelled: Cancelled) -> dict[str, Array]:
        nonlocal fitted
        message = packet.message
        assert isinstance(message, Round)
        if fitted is None or fitted[0] != message.task:
            fitted = (message.task, message.task.fit(rows))
        draws = stream(message.seed, "trainer", name, message.round)
        return learn(message.task, message.work, packet.arrays, fitted[1], draws, cancelled)

    return answer
