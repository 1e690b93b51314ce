"""The messages of fedmq: a closed set of frozen headers, one struct per message.

Knows nothing of sockets, frames on the wire or what anybody does with a message: `wire` encodes and decodes, the
state machines decide. Every header carries the protocol version `v`, and its kind as the msgpack tag `t`.

Who says what to whom (docs/protocol.md has it field by field):

    aggregator -> everybody   Round, Beacon, Finished        topics round/<run>, beacon/<run>
    aggregator -> observers   Events, Snapshot               topics event/<run>, snapshot/<run>
    aggregator -> one trainer Welcome, Accepted, Refused     topic to/<trainer>
    trainer -> aggregator     Hello, Result, Goodbye         topic up/<run>
    operator -> aggregator    Control                        topic up/<run>
    broker -> aggregators     Presence                       topic presence/<trainer>
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from fedmq.errors import RejectReason
from fedmq.names import Name
from fedmq.tasks.task import CANDIDATES_MAX, GENERATIONS_MAX, MUTATION_EXPONENT_MAX, TRAINERS_MAX, Task

PROTOCOL_VERSION = 1
BITMAP_BYTES_MAX = TRAINERS_MAX // 8  # half of what a header may hold
FRACTION_BITS_MAX = 30  # bits behind the point of a loss
STEPS_MAX = 1_000_000

Count = Annotated[int, Meta(ge=0, le=2**53)]
Positive = Annotated[int, Meta(ge=1, le=2**53)]
Bitmap = Annotated[bytes, Meta(max_length=BITMAP_BYTES_MAX)]  # bit i of byte i // 8 is roster index i
Text = Annotated[str, Meta(max_length=200)]
Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]  # SHA-256
Labels = Annotated[tuple[Annotated[str, Meta(max_length=64)], ...], Meta(max_length=8)]
Action = Literal["pause", "resume", "stop", "checkpoint", "drain", "ban", "readmit"]
Candidates = Annotated[int, Meta(ge=0, le=CANDIDATES_MAX)]
Population = Annotated[int, Meta(ge=2, le=CANDIDATES_MAX)]
Generations = Annotated[int, Meta(ge=0, le=GENERATIONS_MAX)]
Exponent = Annotated[float, Meta(ge=-MUTATION_EXPONENT_MAX, le=MUTATION_EXPONENT_MAX)]
Moderate = Annotated[float, Meta(ge=0, le=1e6)]
At = Annotated[float, Meta(ge=-1e11, le=1e11)]  # seconds since 1970, of a day that calendars have
Seconds = Annotated[float, Meta(ge=0, le=1e9)]  # about 30 years: neither NaN nor infinity gets into logs and reports


class ArrayInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Describes one array frame: C order, little-endian, at most two dimensions."""

    name: Annotated[str, Meta(max_length=32)]
    dtype: Annotated[str, Meta(max_length=8)]
    shape: Annotated[tuple[Count, ...], Meta(max_length=8)]
    nbytes: Count
    sha256: Digest


class EvolutionLearner(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="evolution"):
    """Local training by a genetic algorithm around the model that was received."""

    generations: Generations = 20
    population: Population = 20
    spread: Moderate = 0.5  # standard deviation of the first population's genes
    mutation: tuple[Exponent, Exponent] = (-1.5, 0.3)  # log10 of the smallest and largest mutation scale


class GradientLearner(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="gradient"):
    """Local training by plain gradient descent on the summed loss; for linear models."""

    steps: Annotated[int, Meta(ge=0, le=STEPS_MAX)] = 1
    learning_rate: Moderate = 0.1


class Evolve(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="evolve"):
    """Work of the strategy `evolution`: score the pool on your rows, evolve offspring from it, send the best back.

    Arrays down: `ids` (pool,) int64, `pool` (pool, genes) float64. Arrays up: `losses` (pool,) int64, the summed loss
    of each candidate on the trainer's rows in units of 2**-fraction_bits; `correct` (pool,) int64; `elites`
    (proposals or fewer, genes) float64.
    """

    elites: Candidates  # the first so many rows of the pool are its elites
    generations: Generations = 5  # of the local evolution; 0: score only
    population: Population = 20  # of the local evolution: half pool elites, half the trainer's own best of the pool
    proposals: Candidates = 3  # elites to send back at the most
    mutation: tuple[Exponent, Exponent] = (-1.5, 0.3)  # log10 of the smallest and largest mutation scale


class Train(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="train"):
    """Work of the averaging strategies: train the model on your rows and send it back.

    Arrays down: `model` (genes,) float64. Arrays up: `model` (genes,) float64, the trained one; `losses` (1,) int64, in
    units of 2**-fraction_bits, and `correct` (1,) int64 of the model that was received, on the trainer's rows.
    """

    learner: EvolutionLearner | GradientLearner


Work = Evolve | Train


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="t"):
    """What every message has: the protocol version and the arrays that follow the header."""

    v: Annotated[int, Meta(ge=PROTOCOL_VERSION, le=PROTOCOL_VERSION)] = PROTOCOL_VERSION
    arrays: tuple[ArrayInfo, ...] = ()


class RunHeader(Header, frozen=True, kw_only=True):
    """What every message of a run has. A higher term is a later life of the aggregator and wins."""

    run: Name
    term: Count


class Round(RunHeader, frozen=True, kw_only=True, tag="round"):
    """One publication: the work of a round, complete in itself, so that who joins now can start at once.

    `acknowledged` says, as in a beacon, whose result of the round before is on disk.
    """

    round: Positive
    seed: Count
    deadline_s: Annotated[float, Meta(gt=0, le=1e9)]  # seconds after which the round may close without you
    task: Task
    work: Work
    acknowledged: Bitmap = b""


class Beacon(RunHeader, frozen=True, kw_only=True, tag="beacon"):
    """The repeated small truth about a run: its newest round, and whose result of it is on disk.

    `acknowledged` is a bitmap over roster indices (bit i of byte i // 8). Round 0 means: none has been opened yet.
    """

    round: Count
    open: bool  # results of it are being collected
    paused: bool = False  # no other round is opened until an operator resumes the run
    waiting: bool = False  # for trainers: who is here says hello, in case the word of that was lost
    spread_s: Annotated[float, Meta(ge=0, le=60)] = 0.0  # who comes (back) waits a random part of this first
    acknowledged: Bitmap = b""
    acked_request: Count = 0  # `word` of the last Control that was heeded
    at: At = 0.0  # by the aggregator's clock, which may not be that of those who watch; 0: it does not say


class Finished(RunHeader, frozen=True, kw_only=True, tag="finished"):
    """The run is over; nothing that was not acknowledged will be used."""

    rounds: Count
    solved: bool


class Events(RunHeader, frozen=True, kw_only=True, tag="events"):
    """What has happened in a run: array `events`, msgpack of a list of (seconds since 1970, event).

    `first` is the number of the first one in the run: who holds a picture of just so many events is up to date with it.
    """

    first: Count
    count: Positive


class Snapshot(RunHeader, frozen=True, kw_only=True, tag="snapshot"):
    """All that has happened in a run: array `view`, msgpack of a `view.View` of `seq` events."""

    seq: Count


class Welcome(RunHeader, frozen=True, kw_only=True, tag="welcome"):
    """Answer to Hello: you are on the roster of this term, at `index` of the beacon's bitmap."""

    trainer: Name
    index: Count


class Accepted(RunHeader, frozen=True, kw_only=True, tag="accepted"):
    """Your late or repeated result of this round is on disk: forget it. (Others are acknowledged by bitmap.)"""

    trainer: Name
    round: Count


class Refused(RunHeader, frozen=True, kw_only=True, tag="refused"):
    """Your result of this round will never be used: forget it. Says why."""

    trainer: Name
    round: Count
    reason: RejectReason
    detail: Text


class Hello(RunHeader, frozen=True, kw_only=True, tag="hello"):
    """A trainer offers itself to a run. `round` is the newest round that it holds (0: none): send me a newer one."""

    trainer: Name
    num_examples: Positive
    round: Count
    version: Text
    labels: Labels = ()


class Result(RunHeader, frozen=True, kw_only=True, tag="result"):
    """What a trainer found in one round; sent again until it is accepted or refused.

    `base` says on what it was computed: `wire.base_of` the round's arrays. Its losses are integers in units of
    2**-fraction_bits, so that their sums are exact. `cpu_s` and `memory` are for observers
    only.
    """

    trainer: Name
    round: Count
    num_examples: Positive
    attempt: Positive  # 1 the first time
    train_s: Seconds  # of local work
    model_digest: Digest
    fraction_bits: Annotated[int, Meta(ge=0, le=FRACTION_BITS_MAX)]
    cpu_s: Seconds = 0.0  # of the trainer's process, in all,
    memory: Count = 0  # and the most bytes that it has held


class Goodbye(RunHeader, frozen=True, kw_only=True, tag="goodbye"):
    """A trainer leaves for good and is not to be waited for."""

    trainer: Name


class Control(RunHeader, frozen=True, kw_only=True, tag="control"):
    """An operator wants a live run to pause, to resume, to end, to keep its state, or to keep a trainer out.

    `trainer` is whom to drain, ban or readmit; the beacon after it repeats `word`.
    """

    action: Action
    trainer: Name | None = None
    request_id: Count = 0


class Presence(Header, frozen=True, kw_only=True, tag="presence"):
    """The broker's word that a trainer's inbox appeared or disappeared."""

    trainer: Name
    present: bool


FromAggregator = Round | Beacon | Finished | Welcome | Accepted | Refused
ForObservers = Events | Snapshot
FromTrainer = Hello | Result | Goodbye
Message = FromAggregator | ForObservers | FromTrainer | Control | Presence
