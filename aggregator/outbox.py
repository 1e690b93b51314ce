"""The one output buffer of the aggregator's state machine: records to save, messages to send, events to report."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from fedmq.aggregator.machine import Output
from fedmq.algorithms.base import Plan, encode_query
from fedmq.errors import Rejected
from fedmq.observe.events import AnyEvent
from fedmq.protocol import topics
from fedmq.protocol.codec import CODE, PARTS, Frames, Payload, encode, pack
from fedmq.protocol.messages import (
    SECURE_VERSION,
    Accepted,
    Delta,
    Hello,
    Message,
    Refused,
    Result,
    Round,
    SumRequest,
)
from fedmq.protocol.run_config import RunConfig
from fedmq.runs.records import Record, StoredResult

DETAIL_MAX = 200


class Outbox:
    """Encodes, signs and buffers the output of one run in one term. `sign` makes the signature of a header."""

    def __init__(self, config: RunConfig, term: int, code: bytes | None, sign: Callable[[bytes], bytes]) -> None:
        self.bytes_sent = 0  # to the broker, which multiplies them; without what observers get
        self.about: dict[str, Any] = {"run": config.run, "term": term}  # in the header of each message
        self._seed, self._sign = config.seed, sign
        self._code = {} if code is None else {CODE: np.frombuffer(code, np.uint8)}
        self._task = msgspec.structs.replace(config.task, parameters={}, algorithm="")  # a query has what trainers need
        self._rounds: dict[bool, tuple[Any, Frames]] = {}  # the encoded round and what is in it; True: with a delta
        self._output = Output(0.0)

    def take(self, at: float) -> Output:
        """Return the output since the last call."""
        output, self._output = self._output, Output(0.0)
        output.at = at
        return output

    def save(self, record: Record) -> None:
        """Save `record` before anything is sent; all but a result are on disk before the next event."""
        self._output.records.append(record)
        self._output.commit |= not isinstance(record, StoredResult)

    def commit(self) -> None:
        """Commit all records, also those that nothing acknowledges yet."""
        self._output.commit = True

    def report(self, event: AnyEvent) -> None:
        self._output.events.append(event)

    @property
    def events(self) -> list[AnyEvent]:
        return self._output.events

    def pack(self, plan: Plan) -> Payload:
        """Return the arrays of a round, encoded and hashed: once for all recipients."""
        return pack({**plan.arrays, **self._code})

    def send_round(
        self,
        topic: str,
        number: int,
        plan: Plan,
        payload: Payload,
        *,
        deadline_s: float,
        acknowledged: bytes,
        invited: bytes | None,
        staleness: int,
        delta: Delta | None = None,
        sum_number: int | None = None,
    ) -> None:
        """Publish the open round, or send it to an inbox; with a `delta`, the payload is one."""
        about, is_delta = (number, acknowledged, invited, sum_number), delta is not None
        if is_delta not in self._rounds or self._rounds[is_delta][0] != about:
            message = msgspec.structs.replace(
                self.round_of(number, plan, payload),
                v=2 if sum_number is None else SECURE_VERSION,
                deadline_s=deadline_s,
                acknowledged=acknowledged,
                invited=invited,
                staleness=staleness,
                delta=delta,
                sum=sum_number,
            )
            self._rounds[is_delta] = about, encode("", message, payload, self._sign)
        self._append([topic.encode(), *self._rounds[is_delta][1][1:]])

    def round_of(self, number: int, plan: Plan, payload: Payload) -> Round:
        """Return what a round asks, with nothing that may change while it is open."""
        return Round(
            **self.about,
            arrays=payload.infos,
            round=number,
            seed=self._seed,
            deadline_s=1.0,
            task=self._task,
            query=encode_query(plan.query),
        )

    def send_sums(self, topic: str, parts: bytes, advertise: int = 0) -> None:
        """Send what secure sums need, to all trainers or to one: messages of `fedmq.secure_sums`, b"" for none."""
        arrays = {PARTS: np.frombuffer(parts, np.uint8)} if parts else None
        self._append(encode(topic, SumRequest(**self.about, advertise=advertise), arrays, self._sign))

    def send_accepted(self, result: Result) -> None:
        """Acknowledge a late or repeated result; others are acknowledged by the next round or beacon."""
        message = Accepted(**self.about, trainer=result.trainer, round=result.round)
        self.send(topics.inbox_of(result.trainer), message)

    def send_refused(self, refused: Result | Hello, rejected: Rejected) -> None:
        """Refuse a result, or a trainer by its Hello."""
        self.send_refused_name(refused.trainer, rejected, refused.round if isinstance(refused, Result) else 0)

    def send_refused_name(self, trainer: str, rejected: Rejected, round: int = 0) -> None:
        """Refuse the result of a round, or with round 0 all trainers of this name."""
        message = Refused(
            **self.about, trainer=trainer, round=round, reason=rejected.reason, detail=rejected.detail[:DETAIL_MAX]
        )
        self.send(topics.inbox_of(trainer), message)

    def send_observers(self, topic: str, message: Message, payload: Payload) -> None:
        """Send to observers. It acknowledges nothing, so it does not need a commit."""
        self._output.sends.append(encode(topic, message, payload, self._sign))

    def send(self, topic: str, message: Message) -> None:
        """Send a message without arrays."""
        self._append(encode(topic, message, sign=self._sign))

    def _append(self, frames: Frames) -> None:
        self.bytes_sent += sum(map(len, frames))
        self._output.commit = True
        self._output.sends.append(frames)
