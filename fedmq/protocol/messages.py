"""The messages of fedmq: one frozen struct per kind. docs/protocol.md describes each field.

    aggregator -> trainers    Round, Beacon, Finished        topics round/<run>, beacon/<run>
                              SumRequest                     topic sum/<run>, or to/<trainer>
    aggregator -> observers   Events, Snapshot               topics event/<run>, snapshot/<run>
    aggregator -> one trainer Welcome, Accepted, Refused     topic to/<trainer>
    trainer -> aggregator     Hello, Result, Goodbye,        topic up/<run>
                              SumReply
    control -> aggregator     Control                        topic up/<run>
    broker -> aggregators     Presence                       topic presence/<trainer>

How the protocol evolves, so that hosts can be upgraded one at a time:

- `v` is the lowest version that a reader needs to understand the message, not the version of the sender. A reader
  accepts `PROTOCOL_VERSION_MIN` to `PROTOCOL_VERSION`.
- A reader ignores unknown fields of a message. A new optional field therefore keeps the `v` of its message.
- A new kind of message, a new required field or another meaning needs a new version. A sender uses it only towards
  peers that read it: Hello carries the versions that the trainer reads.
- ArrayInfo, `query` and `task` stay strict: a reader that ignored a field there would compute something else. A field
  of a query at its default is left out, so that a new one reaches an old reader only when it is used.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from fedmq.names import Name
from fedmq.tasks.task import TRAINERS_MAX, Task

PROTOCOL_VERSION = 3  # the newest version that this code reads and writes
PROTOCOL_VERSION_MIN = 2  # the oldest
SECURE_VERSION = 3  # of secure sums: the messages of SumRequest and SumReply, and what names a sum
BITMAP_BYTES_MAX = TRAINERS_MAX // 8  # half of what a header may hold
FRACTION_BITS_MAX = 30  # of a loss on the wire
METRICS_MAX = 16  # of a trainer's own code, with a result

Count = Annotated[int, Meta(ge=0, le=2**53)]
Positive = Annotated[int, Meta(ge=1, le=2**53)]
Bitmap = Annotated[bytes, Meta(max_length=BITMAP_BYTES_MAX)]  # roster index i is bit i % 8 of byte i // 8
Version = Annotated[int, Meta(ge=PROTOCOL_VERSION_MIN, le=PROTOCOL_VERSION)]
Text = Annotated[str, Meta(max_length=200)]
Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]  # SHA-256
Versions = tuple[Positive, Positive]  # oldest and newest protocol version that a peer reads
Labels = Annotated[tuple[Annotated[str, Meta(max_length=64)], ...], Meta(max_length=8)]
Action = Literal["pause", "resume", "stop", "checkpoint", "drain", "ban", "readmit"]
At = Annotated[float, Meta(ge=-1e11, le=1e11)]  # seconds since 1970; a date that `datetime` can represent
MetricName = Annotated[str, Meta(min_length=1, max_length=32)]
Metric = Annotated[float, Meta(ge=-1e300, le=1e300)]  # excludes NaN and infinity
OwnMetrics = Annotated[dict[MetricName, Metric], Meta(max_length=METRICS_MAX)]
Seconds = Annotated[float, Meta(ge=0, le=1e9)]  # about 30 years; excludes NaN and infinity


class ArrayInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Description of one array frame: C order, little-endian, at most two dimensions."""

    name: Annotated[str, Meta(max_length=32)]
    dtype: Annotated[str, Meta(max_length=8)]
    shape: Annotated[tuple[Count, ...], Meta(max_length=8)]
    nbytes: Count
    sha256: Digest


class Header(msgspec.Struct, frozen=True, kw_only=True, tag_field="t"):
    """Fields of every message; unknown fields are ignored."""

    v: Version = 2  # lowest version that can read it
    arrays: tuple[ArrayInfo, ...] = ()


class RunHeader(Header, frozen=True, kw_only=True):
    """Fields of every message about a run. The highest term wins; each start of the aggregator gets a higher one."""

    run: Name
    term: Count


class Delta(msgspec.Struct, frozen=True):
    """The arrays of a message are a delta: with the arrays of an earlier round, they give those of this one."""

    base: Digest  # `codec.digest_of` the arrays of that round
    result: Digest  # and of this one


class Round(RunHeader, frozen=True, kw_only=True, tag="round"):
    """The query of a round, with its arrays, so that a trainer that joins late can start at once, or with a delta."""

    round: Positive
    seed: Count
    deadline_s: Annotated[float, Meta(gt=0, le=1e9)]  # after it the round may close without this trainer
    task: Task
    query: msgspec.Raw  # a map with its `kind`, strict; `fedmq.algorithms.registry` decodes it
    acknowledged: Bitmap = b""  # results of the previous round that are committed, by roster index
    invited: Bitmap | None = None  # the trainers that answer, by roster index; None: all
    staleness: Count = 0  # work on a round that is up to so many rounds older is finished first
    delta: Delta | None = None  # None: the arrays are those of the query
    sum: Positive | None = None  # number of the secure sum whose masks cover the answers; None: they are plain


class Beacon(RunHeader, frozen=True, kw_only=True, tag="beacon"):
    """Repeated status of a run: repairs lost publications and acknowledgements."""

    round: Count  # the newest; 0: none was opened yet
    open: bool  # its results are being collected
    paused: bool = False  # no round is opened until a control client resumes the run
    waiting: bool = False  # more trainers are needed: present ones send Hello, in case their Presence was lost
    spread_s: Annotated[float, Meta(ge=0, le=60)] = 0.0  # a trainer that returns waits a random part of this first
    acknowledged: Bitmap = b""  # results of `round` that are committed, by roster index
    acked_request: Count = 0  # `request_id` of the last Control that was executed
    at: At = 0.0  # the aggregator's wall clock, which may differ from the observer's; 0: unknown


class Finished(RunHeader, frozen=True, kw_only=True, tag="finished"):
    """The run is over; results that are not acknowledged will not be used."""

    rounds: Count
    solved: bool


class SumRequest(RunHeader, frozen=True, kw_only=True, tag="sum-request"):
    """What secure sums need of trainers, beside answers. Array `parts`: messages of `fedmq.secure_sums`."""

    v: Version = SECURE_VERSION
    advertise: Count = 0  # trainers send their keys for the sum of this number; 0: for none


class Events(RunHeader, frozen=True, kw_only=True, tag="events"):
    """Events of a run. Array `events`: msgpack of a list of (seconds since 1970, event)."""

    first: Count  # number of events before these; an observer that has exactly so many can apply these
    count: Positive


class Snapshot(RunHeader, frozen=True, kw_only=True, tag="snapshot"):
    """State of a run after `seq` events. Array `view`: msgpack of a `fedmq.observe.run_state.RunState`."""

    seq: Count


class Welcome(RunHeader, frozen=True, kw_only=True, tag="welcome"):
    """Answer to Hello: the trainer is on the roster of this term, at bit `index` of the bitmaps."""

    trainer: Name
    index: Count


class Accepted(RunHeader, frozen=True, kw_only=True, tag="accepted"):
    """The late or repeated result of this round is committed; the trainer deletes it. Others: see `Beacon`."""

    trainer: Name
    round: Count


class Refused(RunHeader, frozen=True, kw_only=True, tag="refused"):
    """The result of this round will never be used; the trainer deletes it. Round 0: the trainer's Hello is refused.

    `reason` is usually a `RejectReason`; a newer aggregator may have others.
    """

    trainer: Name
    round: Count
    reason: Annotated[str, Meta(max_length=32)]
    detail: Text


class Hello(RunHeader, frozen=True, kw_only=True, tag="hello"):
    """A trainer offers itself to a run and asks for a round newer than `round`."""

    trainer: Name
    num_examples: Positive
    round: Count  # the newest that it has; 0: none
    version: Text  # of the trainer's software, for people
    labels: Labels = ()
    versions: Versions = (2, 2)  # protocol versions that the trainer reads


class Result(RunHeader, frozen=True, kw_only=True, tag="result"):
    """Answer to a round; sent again until it is accepted or refused.

    Losses are integers in units of 2**-fraction_bits, so that their sums are exact.
    """

    trainer: Name
    round: Count
    num_examples: Count  # rows that it was computed on; 0 if all are held out, or none is
    attempt: Positive  # 1 the first time
    train_s: Seconds  # local work
    model_digest: Digest  # `codec.digest_of` the arrays of the round that it answers
    fraction_bits: Annotated[int, Meta(ge=0, le=FRACTION_BITS_MAX)]
    cpu_s: Seconds = 0.0  # CPU time of the trainer's process when the work was done, for observers
    memory: Count = 0  # peak resident bytes of the process, for observers
    site_figures: bool = False  # figures of a model on the rows of this trainer alone may be shown
    metrics: OwnMetrics | msgspec.UnsetType = (
        msgspec.UNSET
    )  # of the trainer's own training and scoring code, for observers
    sum: Digest | None = None  # id of the secure sum: the answer is the array `masked`; None: it is plain


class SumReply(RunHeader, frozen=True, kw_only=True, tag="sum-reply"):
    """What a trainer adds to a secure sum, beside its masked answer. Array `parts`: messages of `fedmq.secure_sums`."""

    v: Version = SECURE_VERSION
    trainer: Name


class Goodbye(RunHeader, frozen=True, kw_only=True, tag="goodbye"):
    """A trainer leaves for good, or declines the run: the aggregator does not wait for it.

    `reason` is usually a `LeaveReason`; a newer trainer may have others, and an older one gives none.
    """

    trainer: Name
    reason: Annotated[str, Meta(max_length=32)] = ""
    detail: Text = ""  # one line for the operator of the run


class Control(RunHeader, frozen=True, kw_only=True, tag="control"):
    """A control client changes a live run; the next beacon carries its `request_id` as `acked_request`."""

    action: Action
    trainer: Name | None = None  # to drain, ban or readmit
    request_id: Count = 0


class Presence(Header, frozen=True, kw_only=True, tag="presence"):
    """The broker reports that a trainer's inbox subscription appeared or disappeared."""

    trainer: Name
    present: bool
    inboxes: Count = 0  # 2: so many connections or more, of two processes or of one that has connected again


FromAggregator = Round | Beacon | Finished | Welcome | Accepted | Refused | SumRequest
ForObservers = Events | Snapshot
FromTrainer = Hello | Result | Goodbye | SumReply
Message = FromAggregator | ForObservers | FromTrainer | Control | Presence


def has_bit(bitmap: bytes, index: int | None) -> bool:
    """Return whether a bitmap has the bit of a roster index; not if it is shorter, or the index is unknown."""
    return index is not None and index // 8 < len(bitmap) and bool(bitmap[index // 8] >> index % 8 & 1)


def common_version(versions: Versions) -> int | None:
    """Return the newest protocol version that this code and a peer with these `versions` both read, or None."""
    oldest, newest = versions
    common = min(newest, PROTOCOL_VERSION)
    return common if common >= max(oldest, PROTOCOL_VERSION_MIN) else None


def version_text(oldest: int, newest: int) -> str:
    """Return a range of versions as people write it: `2` or `2 to 3`."""
    return f"{oldest}" if oldest == newest else f"{oldest} to {newest}"
