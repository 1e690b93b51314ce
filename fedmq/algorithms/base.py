"""Strategies: how the results of one round become the work of the next, as pure functions over explicit state.

Knows nothing of sockets, time, disks or who is present; the state machine of the rounds tells it what it needs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from fedmq.errors import BadConfiguration
from fedmq.protocol.messages import Work
from fedmq.tasks.task import Task

Arrays = Mapping[str, npt.NDArray[Any]]
STRATEGY_NAMES = ("evolution", "fedavg", "fedsgd")


@dataclass(frozen=True, eq=False)
class Plan:
    """What a round publishes: the work and the arrays that go with it, as `fedmq.protocol.messages` describes them."""

    work: Work
    arrays: Arrays


@dataclass(frozen=True, eq=False)
class Update:
    """One trainer's result of one round, with the arrays that `fedmq.protocol.messages` describes for its work."""

    trainer: str
    round: int  # the round that it answers
    staleness: int  # rounds that were closed since that one; 0: it is in time
    num_examples: int  # rows that the trainer holds
    arrays: Arrays


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The candidate that would be deployed now, and how well it and the others do.

    `loss` and `correct` are sums over the `rows` on which the candidate has been scored, and only of trainers that
    count. They speak for the whole federation when `coverage` is 1; before that some member's verdict is missing.
    Fitness is the negative loss per row.
    """

    genes: npt.NDArray[np.float64]  # (genes,)
    loss: float
    correct: int
    rows: int
    coverage: float  # the share of the members' rows on which the candidate has been scored
    fitness_best: float
    fitness_mean: float
    fitness_worst: float
    diversity: float  # the mean standard deviation of a gene over the candidates


State = TypeVar("State")


class Strategy(Protocol[State]):
    """How a federation learns: `ask` for a round's work, `tell` what came back, `close` the round.

    A strategy is a value without memory: all that changes is in the state, which is never changed in place. The same
    calls give the same bits, on whatever order of arrival; so a run that is replayed from disk continues as if it had
    never stopped. `init` opens round 1, and each `close` opens the next.

    Here is a whole strategy, for trainers that each know one number and look for the mean of them all:

    >>> from dataclasses import replace
    >>> @dataclass(frozen=True)
    ... class Guess:
    ...     value: float = 0.0
    ...     told: tuple[tuple[str, float], ...] = ()
    >>> class MeanOfNumbers:
    ...     name = "mean-of-numbers"
    ...     robust = "none"
    ...     def init(self, task, seed):
    ...         return Guess()
    ...     def ask(self, state):
    ...         return Plan(Train(GradientLearner()), {"model": np.array([state.value])})
    ...     def tell(self, state, update):
    ...         others = tuple(pair for pair in state.told if pair[0] != update.trainer)
    ...         return replace(state, told=(*others, (update.trainer, float(update.arrays["model"][0]))))
    ...     def close(self, state, members):
    ...         numbers = [number for trainer, number in sorted(state.told) if trainer in members]
    ...         return Guess(sum(numbers) / len(numbers)) if numbers else Guess(state.value)
    ...     def evaluation(self, state):
    ...         return None
    >>> from fedmq.protocol.messages import GradientLearner, Train
    >>> strategy = MeanOfNumbers()
    >>> state = strategy.init(None, seed=1)
    >>> for trainer, number in [("bob", 4.0), ("alice", 1.0), ("bob", 4.0)]:
    ...     update = Update(trainer, round=1, staleness=0, num_examples=1, arrays={"model": np.array([number])})
    ...     state = strategy.tell(state, update)
    >>> state = strategy.close(state, members={"alice", "bob"})
    >>> strategy.ask(state).arrays["model"]
    array([2.5])
    """

    @property
    def name(self) -> str:
        """The name by which a command asks for it."""
        ...

    @property
    def robust(self) -> str:
        """The name of the rule by which it bounds what one trainer can do; `none`: it does not."""
        ...

    def init(self, task: Task, seed: int) -> State:
        """The state before round 1. All random draws of the run derive from `seed`.

        Raises:
            BadConfiguration: the strategy cannot train this task's model.
        """
        ...

    def ask(self, state: State) -> Plan:
        """What the open round publishes. Pure: asked again, it says the same."""
        ...

    def tell(self, state: State, update: Update) -> State:
        """The state that knows of one more result. The same trainer's same round again changes nothing.

        Raises:
            Rejected: the result cannot be: wrong arrays, dtypes or shapes, numbers that are not finite, a negative
                loss, more correct rows than rows, no rows, a round that has not been or is too long ago. The state
                that was given stays as it was.
        """
        ...

    def close(self, state: State, members: Collection[str]) -> State:
        """The state of the next round: all that was told since the last close is merged.

        `members` are the trainers that count: present, or expected back. What others said is kept while it may be of
        use again, but decides nothing. Sums run in (round, trainer) order in float64: the order of arrival changes
        no bit.
        """
        ...

    def evaluation(self, state: State) -> Evaluation | None:
        """The candidate that would be deployed: the best covered, of those the most correct, then the least loss.

        The number of correct rows counts for tasks that are measured by it. None: nothing has been scored yet.
        """
        ...


def find_strategy(name: str, robust: str | None = None) -> Strategy[Any]:
    """The strategy of that name, with that rule against liars. Its state is nobody's business but its own, hence Any.

    No rule: the strategy's default, `clip` for evolution and `none` for those that average models.

    Raises:
        BadConfiguration: there is no such strategy or rule, or they do not go together; the message lists what there
            is.
    """
    from fedmq.algorithms.averaging.robust_aggregation import check_rule
    from fedmq.algorithms.averaging.strategy import fedavg, fedsgd  # here, for both build on this module
    from fedmq.algorithms.evolution.strategy import Evolution

    averaging = {"fedavg": fedavg, "fedsgd": fedsgd}
    if name in averaging:
        return averaging[name](robust or "none")
    if name != "evolution":
        raise BadConfiguration(f"strategy: expected one of {', '.join(STRATEGY_NAMES)}, got {name!r}")
    if robust is not None and check_rule(robust) != "clip":
        raise BadConfiguration(
            f"robust: expected clip, which is always on, for the strategy evolution, got {robust}: "
            f"for that use the strategy {' or '.join(averaging)}"
        )
    return Evolution()
