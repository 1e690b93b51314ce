"""The settings of a private run, from what its operator asks: how much noise, and who adds it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedmq.errors import BadConfiguration
from fedmq.protocol.run_config import SECURE_TRAINERS_MIN, Limits, Privacy
from fedmq.secure_sums.policy import colluders_max, default_threshold

if TYPE_CHECKING:
    from fedmq.tasks.task import Task

DELTA = 1e-5
FIXED_IN_PRIVATE = ("rounds_max", "staleness", "sample", "buffer")  # limits of a private run, whatever its life


def privacy_of(
    epsilon: float | None,
    delta: float | None,
    task: Task,
    algorithm: str,
    parameters: Mapping[str, Any],
    limits: Limits,
    *,
    secure: bool = False,
) -> Privacy | None:
    """Return the settings of a private run; None without `epsilon`.

    The noise of a total is shared by the trainers that a round needs to close: of a secure run, by those of them that
    are not in league with the aggregator.

    Raises:
        BadConfiguration: the task, the algorithm or other options do not fit private runs.
    """
    from fedmq.algorithms.registry import private_algorithm

    if epsilon is None:
        if delta is not None:
            raise BadConfiguration("--delta: expected it with --epsilon, got it alone: add --epsilon, or leave it out")
        return None
    if limits.rounds_max < 2:
        raise BadConfiguration(
            f"--rounds: expected 2 or more in a private run, the last one for the figures, got {limits.rounds_max}"
        )
    for name in ("sample", "buffer"):
        if getattr(limits, name) is not None:
            raise BadConfiguration(
                f"--{name}: expected a private run without it, whose noise all trainers share: leave it out"
            )
    private, _ = private_algorithm(algorithm, task, parameters)
    trainers = max(1, math.ceil(limits.quorum * limits.min_trainers))
    if secure:
        members = max(limits.min_trainers, SECURE_TRAINERS_MIN)
        threshold = default_threshold(members)
        trainers = threshold - colluders_max(members, threshold)
    return Privacy.of(
        epsilon, DELTA if delta is None else delta, private.questions(task, limits.rounds_max - 1), trainers
    )


def usual_of_private(epsilon: float | None, *, secure: bool) -> dict[str, float]:
    """Return the limits of a private run that are others than usual, if its operator gives none.

    A plain one waits for all trainers: so all of them share the noise. The share in a secure run depends on no quorum.
    """
    return {} if epsilon is None or secure else {"quorum": 1.0}


def limits_of_private(limits: Limits, privacy: Privacy | None) -> Limits:
    """Return the limits of a run: a private one has a round for each question, and no late answers."""
    import msgspec

    return limits if privacy is None else msgspec.structs.replace(limits, rounds_max=privacy.rounds, staleness=0)
