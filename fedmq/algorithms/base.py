"""The contract of an algorithm: queries, strategies, learners.

Each algorithm is a folder. `query.py` defines what a round sends down and what an answer may hold. `strategy.py` is the
aggregator's half: pure functions over explicit state. `learner.py` is the trainer's half: query and rows in, answer
out. No strategy imports a learner.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, NamedTuple, Protocol, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from fedmq.algorithms.evaluation.figures import Measured, Score
from fedmq.errors import LimitExceeded, Rejected
from fedmq.models import genes
from fedmq.models.arrays import Floats, Integers
from fedmq.models.losses import ROW_CROSS_ENTROPY_MAX, ROW_SQUARED_ERROR_MAX, Scores
from fedmq.models.networks import Code
from fedmq.protocol.codec import FRAME_BYTES_MAX, Shape, check_arrays
from fedmq.protocol.messages import FRACTION_BITS_MAX
from fedmq.tables.preparation import Preparation
from fedmq.tasks.row_views import View
from fedmq.tasks.task import BLOCK_VALUES, Rows, Task

Arrays = Mapping[str, npt.NDArray[Any]]
Shapes = Mapping[str, Shape]  # of the arrays that a round sends down, by name
State = TypeVar("State")
CANDIDATES_MAX = 100_000
GENERATIONS_MAX = 10_000
MUTATION_EXPONENT_MAX = 9.0
Candidates = Annotated[int, Meta(ge=0, le=CANDIDATES_MAX)]
Population = Annotated[int, Meta(ge=2, le=CANDIDATES_MAX)]
Generations = Annotated[int, Meta(ge=0, le=GENERATIONS_MAX)]
Exponent = Annotated[float, Meta(ge=-MUTATION_EXPONENT_MAX, le=MUTATION_EXPONENT_MAX)]
Mutation = tuple[Exponent, Exponent]  # log10 of the smallest and largest mutation scale
BYZANTINE_SHARE = 5  # one trainer in so many is expected to be Byzantine
SUM_BITS_MAX = 62  # a sum of int64 stays below 2**62
MEMORY_BYTES_MAX = 1 << 31  # that the work of one round may need; a trainer may give less
OPERATIONS_PER_S = 10**11  # no core is faster: work that cannot end in time is refused before it begins
WORK_SECONDS_MAX = 3600.0  # for the work of one round; a trainer may give less or more
SCORING_COPIES, SEARCH_COPIES = 2, 8  # of the candidates: measured, see tests/unit/test_demand.py
BLOCK_COPIES = 4  # of the widest layer's numbers, for one block of rows
PREPARATION = ("column_shift", "column_scale", "column_fill")  # arrays of a round that prepare a table's columns
CONTROL = "control"  # an array of an answer, integers: a trainer adds up its own over the rounds of a run


class ArrayBounds(NamedTuple):
    """Shape, dtype and smallest and largest value of one array.

    A first dimension `rows_max` or smaller is legal where it is given; else the shape is exact, -1 being any length.
    The arrays of an answer have no other free length: their size is known before they arrive.
    """

    shape: Shape
    dtype: type[np.generic] = np.float64
    smallest: float = -math.inf  # an int for integers
    largest: float = math.inf
    rows_max: int | None = None


class Demand(NamedTuple):
    """What the work of one round needs at most, known before it begins."""

    memory_bytes: int  # held at once
    operations: int  # multiplications: candidates x generations x rows x parameters


class WorkLimits(NamedTuple):
    """What a trainer gives to the work of one round."""

    memory_bytes: int = MEMORY_BYTES_MAX
    seconds: float = WORK_SECONDS_MAX


class Query(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="kind"):
    """What a round asks of a trainer. A subclass is a frozen struct with a tag, the kind of the query.

    It travels as msgpack inside a Round. Both sides check it before any work: the aggregator before a run begins,
    the trainer before it computes. `rows` says which of a trainer's rows a learner gets, see `fedmq.tasks.row_views`:
    a task without schema and holdout has the same rows for all. `sends` says in words what an answer holds.
    """

    rows: ClassVar[View] = "features"
    partial: ClassVar[bool] = False  # an answer of some of the trainers is of use: for --sample and --buffer
    draws: ClassVar[bool] = False  # an answer depends on the seed and the number of the round
    counts: ClassVar[frozenset[str]] = frozenset()  # arrays of an answer whose numbers each count rows
    sends: ClassVar[str] = ""

    @property
    def kind(self) -> str:
        """The tag of the query, as a round carries it."""
        return str(self.__struct_config__.tag)

    @abstractmethod
    def arrays(self, task: Task) -> Mapping[str, ArrayBounds]:
        """Return the arrays that come down with the query."""
        raise NotImplementedError

    @abstractmethod
    def answer(self, task: Task, shapes: Shapes, num_examples: int) -> Mapping[str, ArrayBounds]:
        """Return the arrays of an answer of `num_examples` rows; losses as float64, of an additive query as int64."""
        raise NotImplementedError

    @abstractmethod
    def evaluations(self, shapes: Shapes) -> int:
        """Return how many candidate evaluations an answer reveals; a trainer's cap counts them."""
        raise NotImplementedError

    @abstractmethod
    def demand(self, task: Task, shapes: Shapes, num_examples: int) -> Demand:
        """Return what the work on so many rows needs; the aggregator asks with one row, before a run begins."""
        raise NotImplementedError

    @property
    def settings(self) -> Mapping[str, Any]:
        """The parameters of local training, for the own code of a trainer."""
        return {}

    def check(self, task: Task, shapes: Shapes) -> None:
        """Raise Rejected if the fields do not fit the arrays."""

    def delta(self, task: Task, shapes: Shapes) -> Mapping[str, ArrayBounds]:
        """Return the arrays that lead from the last round of this kind, with arrays of these shapes, to this round.

        None, the default: each round brings its own arrays.
        """
        return {}

    def without_small(self, answer: Arrays, least: int) -> Arrays:
        """Return an answer without counts of fewer rows than `least`, and without sums over so few rows."""
        return {
            name: self.suppressed(name, array, least) if name in self.counts else array
            for name, array in answer.items()
        }

    def suppressed(self, name: str, counts: npt.NDArray[Any], least: int) -> npt.NDArray[Any]:
        """Return one of the arrays in `counts` without counts of fewer rows than `least`: they are sent as 0."""
        return np.where(counts < least, 0, counts)


class AdditiveQuery(Query, frozen=True):
    """A query whose answers are integers that may be summed, in units of 2**-fraction_bits for losses.

    Its bounds grow with the rows: `answer` for n rows allows n times what it allows for one.
    """

    fraction_bits: Annotated[int, Meta(ge=0, le=FRACTION_BITS_MAX)] = 16
    rows_max: Annotated[int, Meta(ge=1, le=2**53)] = 1 << 32  # of all trainers together

    @property
    @abstractmethod
    def row_bits(self) -> int:
        """How many bits the greatest number of one row's answer has."""
        raise NotImplementedError

    def room(self, _task: Task, _shapes: Shapes) -> Mapping[str, int]:
        """Return how far an answer may be beyond its bounds, for each array: noise; none by default."""
        return {}

    def check(self, task: Task, shapes: Shapes) -> None:
        """See `Query`: a total must fit an int64."""
        if self.row_bits + math.log2(self.rows_max) > SUM_BITS_MAX:
            raise Rejected(
                "values",
                f"expected a sum of at most {SUM_BITS_MAX} bits, got {self.row_bits} bits a row for {self.rows_max} "
                "rows: lower fraction_bits or rows_max",
            )


def check_down(
    query: Query, task: Task, arrays: Arrays, num_examples: int = 1, limits: WorkLimits | None = None
) -> None:
    """Check the arrays that a query comes with, and that its work fits the limits.

    Raises:
        Rejected: with the reason `arrays`, `dtype`, `shape`, `nbytes`, `not-finite` or `values`.
        LimitExceeded: the work needs more memory or time; nothing has been allocated for it.
    """
    check_bounds(query.arrays(task), arrays)
    check_demand(query, task, {name: array.shape for name, array in arrays.items()}, num_examples, limits)


def without_preparation(query: Query, task: Task, arrays: Arrays) -> tuple[Arrays, Arrays]:
    """Return the arrays of a round without those that prepare the columns, and these, each (columns,) float64.

    Raises:
        Rejected: they are missing, or do not fit the schema of the task.
    """
    own = {name: array for name, array in arrays.items() if name not in PREPARATION}
    found = {name: arrays[name] for name in PREPARATION if name in arrays}
    expected: Mapping[str, ArrayBounds] = {}
    if task.schema is not None and is_prepared(query, task):
        size = (len(task.schema.columns),)
        expected = {name: ArrayBounds(size, np.float64, *_PREPARATION_BOUNDS.get(name, ())) for name in PREPARATION}
    check_bounds(expected, found)
    return own, found


def is_prepared(query: Query, task: Task) -> bool:
    """Return whether a learner gets prepared features: not without a schema, and not for a model of encoded columns."""
    return task.schema is not None and query.rows != "columns" and not task.takes_columns


_PREPARATION_BOUNDS = {"column_scale": (5e-324,)}


def check_demand(
    query: Query, task: Task, shapes: Shapes, num_examples: int = 1, limits: WorkLimits | None = None
) -> None:
    """Check that arrays of these shapes fit the query, and that its work and answer fit the limits.

    Raises:
        Rejected: with the reason `shape`, `nbytes` or `values`.
        LimitExceeded: the work needs more memory or time; nothing has been allocated for it.
    """
    query.check(task, shapes)
    if isinstance(query, AdditiveQuery) and num_examples > query.rows_max:
        raise Rejected("values", f"expected at most {query.rows_max} rows in all, this trainer has {num_examples}")
    if (size := answer_bytes_max(query, task, shapes)) > FRAME_BYTES_MAX:
        raise Rejected("nbytes", f"expected a query for answers of at most {FRAME_BYTES_MAX} bytes, got {size}")
    needed, limits = query.demand(task, shapes, num_examples), limits or WorkLimits()
    if needed.memory_bytes > limits.memory_bytes:
        raise LimitExceeded(
            f"expected work in at most {limits.memory_bytes >> 20} MiB of memory, got {needed.memory_bytes >> 20} MiB "
            f"for a model of {task.model.num_parameters} parameters: lower the population, or take a smaller model"
        )
    operations_max = limits.seconds * OPERATIONS_PER_S
    if needed.operations > operations_max:
        raise LimitExceeded(
            f"expected at most {operations_max:.1e} operations, which no machine does in {limits.seconds:g} s, got "
            f"{needed.operations:.1e}: lower the generations, the steps or the population"
        )


def answer_bytes_max(query: Query, task: Task, shapes: Shapes) -> int:
    """Return the most bytes that the arrays of an answer have together.

    Raises:
        Rejected: the query leaves a length open.
    """
    size = 0
    for name, one in query.answer(task, shapes, 1).items():
        shape = one.shape if one.rows_max is None else (one.rows_max, *one.shape[1:])
        if min(shape, default=0) < 0:
            raise Rejected("shape", f"expected a query that bounds each length of {name} in an answer, got {shape}")
        size += math.prod(shape) * np.dtype(one.dtype).itemsize
    return size


def demand_of_scores(
    task: Task, candidates: int, num_examples: int, *, times: int = 1, copies: int = SCORING_COPIES
) -> Demand:
    """Return the demand of scoring so many candidates at once, `times` in a row."""
    numbers = candidates * task.model.num_parameters
    widest = 1 if isinstance(task.model, Code) else task.model.widest
    block = BLOCK_COPIES * max(BLOCK_VALUES, candidates * widest)
    return Demand(8 * (copies * numbers + block), times * numbers * max(1, num_examples))


def check_bounds(bounds: Mapping[str, ArrayBounds], arrays: Arrays) -> None:
    """Check that these are exactly the arrays that the bounds describe.

    Raises:
        Rejected: with the reason `arrays`, `dtype`, `shape`, `not-finite` or `values`.
    """
    exact = {
        name: ((-1, *one.shape[1:]) if one.rows_max is not None else one.shape, one.dtype)
        for name, one in bounds.items()
    }
    check_arrays(arrays, exact)
    for name, one in bounds.items():
        array = arrays[name]
        if one.rows_max is not None and len(array) > one.rows_max:
            raise Rejected("shape", f"expected at most {one.rows_max} rows in {name}, got {len(array)}")
        if array.size and not _within(one, array):
            raise Rejected(
                "values",
                f"expected {name} from {one.smallest:g} to {one.largest:g}, got {array.min():g} to {array.max():g}",
            )


def _within(bounds: ArrayBounds, array: npt.NDArray[Any]) -> bool:
    """Return whether all numbers of a finite array are within the bounds; most arrays have none, or one."""
    return bool(
        (bounds.smallest == -math.inf or bounds.smallest <= array.min())
        and (bounds.largest == math.inf or array.max() <= bounds.largest)
    )


def encode_query(query: Query) -> msgspec.Raw:
    """Return the query as a Round carries it."""
    return msgspec.Raw(msgspec.msgpack.encode(query))


@dataclass(frozen=True, eq=False)
class Plan:
    """What a round publishes: the query and the arrays that go with it.

    `delta` leads to these arrays from those of the last round of this kind: see `Learner`. A trainer that has them gets
    the delta instead.
    """

    query: Query
    arrays: Arrays
    delta: Arrays | None = None

    @property
    def shapes(self) -> Shapes:
        """The shapes of the query's own arrays."""
        return {name: array.shape for name, array in self.arrays.items() if name not in PREPARATION}


@dataclass(frozen=True, eq=False)
class Update:
    """One trainer's answer to one round, or for an additive algorithm the total of several trainers' answers.

    Losses are float64. For an additive algorithm they are int64, in units of 2**-`fraction_bits`.
    """

    trainer: str  # "" for a total
    round: int  # the round that it answers
    staleness: int  # rounds closed since that one; 0: in time
    num_examples: int  # rows that it was computed on
    arrays: Arrays
    fraction_bits: int = 0
    site_figures: bool = False  # figures of this trainer's rows alone may be shown
    total_of: Mapping[str, int] = field(default_factory=dict)  # the rows of each trainer in a total, by name

    @property
    def rows(self) -> Mapping[str, int]:
        """The rows of each trainer whose answer this is, or is part of, by name."""
        return self.total_of or {self.trainer: self.num_examples}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The candidate that would be deployed now, and the scores of it and of the others.

    `loss` and `correct` are sums over the `rows` on which the candidate has been scored, of members only; with
    held-out rows, these are the rows that it is trained on. With a
    `coverage` of 1 every member has scored it. Fitness is the negative loss per row.
    """

    parameters: npt.NDArray[np.float64]
    loss: float
    correct: int
    rows: int
    coverage: float  # the share of the members' rows on which the candidate has been scored
    fitness_best: float
    fitness_mean: float
    fitness_worst: float
    diversity: float  # the mean standard deviation of a parameter over the candidates
    restarted: bool = False  # the round searched in a new random pool, so the best fitness may be worse than before
    preparation: Preparation | None = None  # of the columns of the task's schema: a part of the model
    measured: Measured | None = None  # on held-out rows, if the task has some

    @property
    def score(self) -> Score:
        """What the metric is computed from: of held-out rows if there are some, else of the rows trained on."""
        held_out = None if self.measured is None else self.measured.held_out
        if held_out is None or not held_out.rows:
            return Score(self.loss, self.correct, self.rows, "training")
        return Score(held_out.loss, held_out.correct, held_out.rows, "held-out")


class NoParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of an algorithm that has none."""


class Strategy(Protocol[State]):
    """The aggregator's half of an algorithm: `ask` for a round's query, `tell` the answers, `close` the round.

    A strategy is a value without memory: all that changes is in the state, which is never changed in place. The same
    calls give the same bits in any order of arrival, so a run that is replayed from disk continues exactly.
    `init` opens round 1, each `close` the next. A state is a frozen dataclass of numbers, names, arrays and the like.
    `fedmq.testing.check_algorithm` checks all of this.
    """

    name: str
    additive: bool  # the framework sums the answers: see `fedmq.algorithms.additive`
    parameters: Any  # a frozen struct; None at the class for none

    def init(self, task: Task, seed: int) -> State:
        """Return the state of round 1. All random draws of the run derive from `seed`.

        Raises:
            BadConfiguration: the algorithm cannot train this task's model.
        """

    def ask(self, state: State) -> Plan:
        """Return what the open round publishes; the same each time."""

    def tell(self, state: State, update: Update) -> State:
        """Return the state with one more answer. The same trainer's same round again changes nothing.

        Raises:
            Rejected: wrong arrays, dtypes or shapes, numbers out of bounds, or a round that is not remembered.
        """

    def close(self, state: State, members: Collection[str]) -> State:
        """Return the state of the next round, with all answers since the last close merged.

        `members` are the trainers that count: present, or expected back. Sums run in (round, trainer) order.
        """

    def evaluation(self, state: State) -> Evaluation | None:
        """Return the candidate to deploy: the best covered, then the most correct, then the least loss.

        Correct rows count for tasks with the metric accuracy. None: nothing has been scored yet.
        """


def is_finished(strategy: Any, state: Any) -> bool:
    """Return whether the strategy has nothing left to learn: its optional method `finished(state)`.

    The run then ends, if every member has scored the model.
    """
    finished = getattr(strategy, "finished", None)
    return finished is not None and bool(finished(state))


def failure_of(strategy: Any, state: Any) -> str:
    """Return why the strategy cannot learn any more, in one line: its optional method `failure(state)`; "" if it can.

    The run then ends as failed, without a model.
    """
    failure = getattr(strategy, "failure", None)
    return "" if failure is None else str(failure(state))


def is_asked_again(strategy: Any, state: Any) -> bool:
    """Return whether the open round repeats the last one: the strategy's optional method `asked_again(state)`."""
    asked_again = getattr(strategy, "asked_again", None)
    return asked_again is not None and bool(asked_again(state))


@dataclass(frozen=True, eq=False)
class Total:
    """The sum of all answers to one round, in integers.

    `coverage` is the share of the members at the close that are in it.
    """

    arrays: Mapping[str, npt.NDArray[np.int64]]
    num_examples: int
    trainers: int
    coverage: float
    fraction_bits: int  # of the losses

    @property
    def losses(self) -> Floats:
        """The summed losses, float64."""
        losses: Floats = self.arrays["losses"].astype(np.float64) * 2.0**-self.fraction_bits
        return losses

    def evaluation(self, candidate: Floats, index: int = 0, *, diversity: float = 0.0) -> Evaluation:
        """Return the evaluation of the candidate (parameters,) that was published at `index`."""
        fitness = -self.losses / self.num_examples
        return Evaluation(
            parameters=candidate,
            loss=float(self.losses[index]),
            correct=int(self.arrays["correct"][index]),
            rows=self.num_examples,
            coverage=self.coverage,
            fitness_best=float(fitness.max()),
            fitness_mean=float(fitness.mean()),
            fitness_worst=float(fitness.min()),
            diversity=diversity,
        )


class AdditiveAlgorithm(Protocol[State]):
    """An algorithm that needs only the total of a round's answers; see `docs/how-to/your-own-algorithm.md`.

    `name` is a class attribute, and so may be `Parameters`, a frozen msgspec struct with a default for each field; the
    class is called with one. The framework checks, sums and stores the answers. A method `result(state)` may return
    what was found beside the model, such as statistics or standard errors; `finished(state)` whether nothing is left to
    learn, so that the run ends; `starting_at(state, trained)` the state of `init` with an earlier model (`--from`).
    """

    name: str

    def init(self, task: Task, seed: int) -> State: ...

    def ask(self, state: State) -> Plan:
        """See `Strategy`. The query must be additive."""

    def close(self, state: State, total: Total | None, late: Mapping[int, Total]) -> State:
        """Return the state of the next round; `total` is None if no trainer answered.

        `late` has the totals of earlier rounds that have grown since the last close.
        """

    def evaluation(self, state: State) -> Evaluation | None: ...


@dataclass(frozen=True, eq=False)
class Assignment:
    """A round as a learner gets it: the task, the arrays that came down, the trainer's own rows."""

    task: Task
    arrays: Arrays
    rows: Rows  # fitted to the task and scaled, as the query needs them
    score: Callable[[Floats], Scores]  # scores candidates (n, parameters) on the rows
    generator: np.random.Generator
    cancelled: Callable[[], bool] = field(default=lambda: False)  # a newer round makes the work needless
    round: int = 1
    # The trainer's own training: parameters (num_parameters,) and draws -> trained parameters.
    fit: Callable[[Floats, np.random.Generator], Floats] | None = None
    # Of a Code model with objectives: typed candidates (n, genes) and the names of their types -> (n, objectives).
    fitness: Callable[[genes.Population, tuple[str, ...]], Floats] | None = None
    control: Integers | None = None  # the sum of this trainer's answers `control` so far; None: there are none


class Learner(NamedTuple):
    """The trainer's half of an algorithm, for one kind of query.

    `learn` returns the answer's arrays, losses as float64. It raises WorkError if the model cannot be trained
    in this way, and WorkCancelled when `cancelled()` is true: it asks between two generations or steps.

    `apply(query, task, arrays, delta, cancelled)` returns the arrays of a round that differ from those of the last
    round of its kind, bit for bit those of the strategy's plan. It raises Rejected if the delta does not fit, and
    WorkCancelled as `learn` does.
    """

    query: type[Query]
    learn: Callable[[Any, Assignment], dict[str, npt.NDArray[Any]]]
    apply: Callable[[Any, Task, Arrays, Arrays, Callable[[], bool]], Arrays] | None = None

    @property
    def kind(self) -> str:
        """The tag of the query, as a round carries it."""
        return str(self.query.__struct_config__.tag)


def row_loss_max(task: Task) -> float:
    """Return the most that one row's loss can come to."""
    return ROW_CROSS_ENTROPY_MAX if task.loss == "cross-entropy" else ROW_SQUARED_ERROR_MAX


def objectives_of(task: Task) -> int:
    """Return how many numbers the task's fitness function returns; 0 if losses score the task."""
    return task.model.objectives if isinstance(task.model, Code) else 0
