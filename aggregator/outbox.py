"""What an aggregator says in a step: how each of its messages is made, and the effects that a step has gathered.

Knows nothing of when anything is to be said; `rounds` does.
"""

from __future__ import annotations

import msgspec
import numpy as np

from fedmq.aggregator.machine import Effects, KeepClose, KeepResult, Outgoing
from fedmq.aggregator.roster import Roster
from fedmq.algorithms.base import Plan, encode_query
from fedmq.errors import Rejected
from fedmq.observe import events
from fedmq.protocol import topics
from fedmq.protocol.codec import CODE, Array
from fedmq.protocol.messages import Accepted, Beacon, Finished, Hello, Message, Refused, Result, Round, Welcome
from fedmq.protocol.run_config import RunConfig

SPREAD_S, SPREAD_MAX_S = 0.001, 10.0  # for each trainer on the roster: many that return at once do so one by one


class Voice:
    """Gathers the effects of a step, for one run, in one term."""

    def __init__(self, config: RunConfig, term: int, code: bytes | None) -> None:
        self._config, self._term, self._code = config, term, code
        self._task = msgspec.structs.replace(config.task, parameters={})  # a query has what trainers need
        self._effects = Effects()

    def take(self) -> Effects:
        """The effects since the last call."""
        effects, self._effects = self._effects, Effects()
        return effects

    def keep(self, save: KeepResult | KeepClose) -> None:
        """To be saved before anything is sent."""
        self._effects.saves.append(save)

    def tell(self, event: events.AnyEvent) -> None:
        """For those who watch."""
        self._effects.events.append(event)

    def round(self, topic: str, number: int, plan: Plan, deadline_s: float, acknowledged: bytes) -> None:
        """Publish a round, or send it to an inbox."""
        message = Round(
            run=self._config.run,
            term=self._term,
            round=number,
            seed=self._config.seed,
            deadline_s=deadline_s,
            task=self._task,
            query=encode_query(plan.query),
            acknowledged=acknowledged,
        )
        arrays = dict(plan.arrays)
        if self._code is not None:
            arrays[CODE] = np.frombuffer(self._code, np.uint8)
        self._send(topic, message, arrays)

    def beacon(
        self,
        topic: str,
        number: int,
        roster: Roster,
        acknowledged: bytes,
        *,
        opened: bool,
        paused: bool,
        acked_request: int,
    ) -> None:
        """The small truth: the newest round, and whose result of it is on disk."""
        message = Beacon(
            run=self._config.run,
            term=self._term,
            round=number,
            open=opened,
            paused=paused,
            waiting=not opened and not paused,
            spread_s=min(SPREAD_MAX_S, SPREAD_S * len(roster)),
            acknowledged=acknowledged,
            acked_request=acked_request,
        )
        self._send(topic, message)

    def finished(self, topic: str, rounds: int, *, solved: bool) -> None:
        """The run is over."""
        self._send(topic, Finished(run=self._config.run, term=self._term, rounds=rounds, solved=solved))

    def welcome(self, trainer: str, index: int) -> None:
        """A trainer is on the roster."""
        run, term = self._config.run, self._term
        self._send(topics.inbox_of(trainer), Welcome(run=run, term=term, trainer=trainer, index=index))

    def accepted(self, result: Result) -> None:
        """A late or repeated result is on disk."""
        run, term, name = self._config.run, self._term, result.trainer
        self._send(topics.inbox_of(name), Accepted(run=run, term=term, trainer=name, round=result.round))

    def refused(self, message: Result | Hello, rejected: Rejected) -> None:
        """Refuse a result, or a trainer by its Hello."""
        refused = Refused(
            run=self._config.run,
            term=self._term,
            trainer=message.trainer,
            round=message.round if isinstance(message, Result) else 0,
            reason=rejected.reason,
            detail=rejected.detail[:200],
        )
        self._send(topics.inbox_of(message.trainer), refused)

    def _send(self, topic: str, message: Message, arrays: dict[str, Array] | None = None) -> None:
        self._effects.sends.append(Outgoing(topic, message, arrays))
