"""The first plan of a run: measured before the run begins, so that what cannot be sent or answered never starts."""

from typing import Any

import msgspec

from fedmq.algorithms.base import Strategy, check_down, encode_query
from fedmq.errors import BadConfiguration, ProtocolError, Rejected
from fedmq.protocol.codec import FRAME_BYTES_MAX, encode
from fedmq.protocol.messages import Round
from fedmq.tasks.task import Task


def check_first_plan(strategy: Strategy[Any], task: Task, code: bytes | None = None) -> None:
    """Check that the first round of a run can be sent and answered.

    Raises:
        BadConfiguration: it needs more than a message holds, or more work than a trainer accepts.
    """
    plan = strategy.ask(strategy.init(task, 0))
    who = f"algorithm {strategy.name}: task {task.name} has {task.model.num_parameters} parameters"
    needed = sum(array.nbytes for array in plan.arrays.values()) + len(code or b"")
    if needed > FRAME_BYTES_MAX:
        raise BadConfiguration(
            f"{who}: expected a round of at most {FRAME_BYTES_MAX} bytes, got {needed}: "
            "lower the population, or take a smaller model"
        )
    try:
        check_down(plan.query, task, plan.arrays)
        message = Round(
            run="r" * 64,
            term=2**53,
            round=1,
            seed=2**53,
            deadline_s=1.0,
            task=msgspec.structs.replace(task, parameters={}),
            query=encode_query(plan.query),
        )
        encode("round", message, plan.arrays)
    except (ProtocolError, Rejected) as error:
        raise BadConfiguration(f"{who}: {error}") from error
