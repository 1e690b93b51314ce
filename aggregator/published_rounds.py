"""What rounds publish, and what their answers must match: the digest of the arrays, and a number of bytes at most."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fedmq.algorithms.base import Plan, answer_bytes_max
from fedmq.protocol.codec import Payload, digest_of, pack
from fedmq.protocol.messages import Delta
from fedmq.tasks.task import Task


class _OpenRound(NamedTuple):
    plan: Plan
    payload: Payload
    delta: tuple[Delta, Payload] | None  # which leads to the arrays, for trainers that can follow


class PublishedRounds:
    """The open round, in full and as a delta, and what is known of earlier ones whose results may still arrive.

    `pack` makes the arrays of a message. `digests` are those of the arrays by round, also of earlier lives.
    """

    def __init__(self, task: Task, pack: Callable[[Plan], Payload], digests: Mapping[int, bytes]) -> None:
        self._task, self._pack = task, pack
        self.digests = dict(digests)
        self._open: _OpenRound | None = None
        self._newest: dict[str, bytes] = {}  # the digest of the last arrays of each kind of query, in this life
        self._newcomers = False  # trainers have come since the last round was opened, and lack its arrays
        self._answer_bytes: dict[int, int] = {}  # the most that an answer has, by round of this life
        self._bounded: tuple[Any, int] | None = None  # the query with its shapes, and the bound: mostly they stay

    @property
    def is_open(self) -> bool:
        """Whether a round is open."""
        return self._open is not None

    @property
    def plan(self) -> Plan:
        """That of the open round."""
        assert self._open is not None
        return self._open.plan

    def open(self, number: int, plan: Plan) -> None:
        """Open a round."""
        self._bound_answers(number, plan)
        payload = self._pack(plan)
        digest = self.digests[number] = digest_of(payload.infos)
        self._open = _OpenRound(plan, payload, self._delta_to(plan, digest))

    def close(self, oldest: int) -> None:
        """Close the open round, and forget those before `oldest`."""
        self._open = None
        self.digests.pop(oldest - 1, None)
        self._answer_bytes.pop(oldest - 1, None)

    def newcomer(self) -> None:
        """Note that a trainer has come while no round is open: it lacks the arrays that a delta leads on from."""
        self._newcomers = True

    def content(self, *, in_full: bool) -> tuple[Payload, Delta | None]:
        """Return what a message of the open round carries: its arrays, or a delta if there is one."""
        assert self._open is not None
        if in_full or self._open.delta is None:
            return self._open.payload, None
        delta, payload = self._open.delta
        return payload, delta

    def expect(self, number: int, plan: Plan) -> bytes:
        """Return the digest of the arrays of a round that this life has not opened yet, whose answers may arrive."""
        self._bound_answers(number, plan)
        return digest_of(self._pack(plan).infos)

    def answer_bytes(self, number: int) -> int | None:
        """Return the most bytes that an answer to a round has; None if it is not known."""
        return self._answer_bytes.get(number)

    def _bound_answers(self, number: int, plan: Plan) -> None:
        asked = plan.query, plan.shapes
        if self._bounded is None or self._bounded[0] != asked:
            self._bounded = asked, answer_bytes_max(plan.query, self._task, plan.shapes)
        self._answer_bytes[number] = self._bounded[1]

    def _delta_to(self, plan: Plan, digest: bytes) -> tuple[Delta, Payload] | None:
        """Return what leads from the last published arrays of this kind to those of the plan, if all can follow.

        A trainer that cannot, against expectation, sends Hello and gets the round in full.
        """
        base, self._newest[plan.query.kind] = self._newest.get(plan.query.kind), digest
        newcomers, self._newcomers = self._newcomers, False
        if plan.delta is None or base is None or newcomers:
            return None
        return Delta(base=base, result=digest), pack(plan.delta)
