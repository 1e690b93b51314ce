"""A trainer's answer to a round: its rows, fitted to the round's task, and the round's own random stream."""

import logging
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from fedmq.algorithms.base import (
    AdditiveQuery,
    ArrayBounds,
    Assignment,
    Query,
    Shapes,
    WorkLimits,
    check_bounds,
    check_demand,
    objectives_of,
    without_preparation,
)
from fedmq.algorithms.differences import ColumnSummary, column_summary, differing_columns
from fedmq.algorithms.private.query import PrivateQuery, with_noise
from fedmq.algorithms.registry import BUILTIN_LEARNERS, find_learner
from fedmq.data.positional import positional
from fedmq.differential_privacy.discrete_gaussian import Words, system_words
from fedmq.errors import BadData, LimitExceeded, Rejected, WorkError
from fedmq.models.arrays import Floats
from fedmq.models.losses import ROW_SQUARED_ERROR_MAX, Scores
from fedmq.models.networks import Code
from fedmq.protocol.codec import CODE, Array, Packet
from fedmq.protocol.fixed_point import FRACTION_BITS, LOSSES, UNITS_MAX, fitting_bits, saturated
from fedmq.protocol.messages import Round
from fedmq.runtime.rng import derive_rng
from fedmq.tables.table import Table
from fedmq.tasks.row_views import RowViews
from fedmq.tasks.task import Rows, Task
from fedmq.trainer.budget import open_query, sent_bits
from fedmq.trainer.code_policy import NO_CODE, CodePolicy
from fedmq.trainer.control_sums import OWN_CONTROL
from fedmq.trainer.epsilon_budget import UNLIMITED, Spending
from fedmq.trainer.own_learner import OwnLearner, OwnRound
from fedmq.trainer.publications import Publications
from fedmq.trainer.sandbox import Sandbox
from fedmq.trainer.site_policy import PERMIT_ALL, SitePolicy
from fedmq.trainer.worker import Answer, Cancelled, Learn

RowsOf = Callable[[str, Collection[str]], Rows | Table]  # of a run, with columns of these names
NoiseOf = Callable[[Round], Words]  # random words for the noise of an answer
Warn = Callable[..., None]  # as `logging.Logger.warning`

log = logging.getLogger(__name__)


class _Views:
    """The rows of the newest run as its task sees them; they are fitted again for another task or other rows."""

    def __init__(self, rows_of: RowsOf, held_out: RowsOf | None, warn: Warn) -> None:
        self._rows_of, self._held_out, self._warn = rows_of, held_out, warn
        self._fitted: tuple[Rows | Table, Rows | Table | None, RowViews] | None = None

    def __call__(self, run: str, task: Task) -> RowViews:
        names, known = () if task.schema is None else tuple(task.schema.names()), self._fitted
        read, held = self._rows_of(run, names), None if self._held_out is None else self._held_out(run, names)
        if known is None or known[0] is not read or known[1] is not held or known[2].task != task:
            views = RowViews(task, _for_task(task, read), None if held is None else _for_task(task, held))
            self._fitted = known = (read, held, views)
            for note in views.notes:
                self._warn("run %s: %s", run, note)
        return known[2]


class _Sandboxes:
    """The sandbox of the newest task that code scores."""

    def __init__(self) -> None:
        self._open: tuple[Task, bytes, Rows, Sandbox] | None = None

    def __call__(self, task: Task, code: bytes, rows: Rows) -> Sandbox:
        known = self._open
        if known is None or known[2] is not rows or known[:2] != (task, code):
            if known is not None:
                known[3].close()
            self._open = known = (task, code, rows, Sandbox(code, rows, objectives_of(task)))
        return known[3]


class _Checked(NamedTuple):
    """What one kind of round needs was checked, and what its answers may hold; most rounds of a run are of one kind."""

    query: Query
    shapes: Shapes
    num_examples: int
    task: Task
    answer: Mapping[str, ArrayBounds]


def on_rows(
    rows: Rows | Table | RowsOf,
    name: str,
    policy: CodePolicy = NO_CODE,
    *,
    fraction_bits: int = FRACTION_BITS,
    limits: WorkLimits | None = None,
    site: SitePolicy = PERMIT_ALL,
    held_out: RowsOf | None = None,
    own: OwnLearner | None = None,
    spending: Spending = UNLIMITED,
    noise: NoiseOf = lambda _message: system_words,
    warn: Warn = log.warning,
) -> Learn:
    """Return the function that answers rounds from the rows of trainer `name`, for a worker.

    The same round gives the same answer, bit for bit: its draws derive from the run's seed, the round and the name.
    The rows are encoded, split and fitted to a task once, and again when another task or other rows arrive. Code runs
    only as `policy` allows, and questions are answered only as `site` permits. What a round needs is checked against
    the `limits` before any work. Losses will be sent in units of 2**-`fraction_bits`; an answer that they cannot
    express is refused. With rows of their own that are `held_out`, a run that holds rows out measures its model on
    these, and trains it on all others. The site's `own` code trains where an algorithm trains models, and scores
    training rows if it can.
    Questions of private runs are answered with noise from `noise`, if `spending` allows it.
    `warn` gets what the operator of this site should look at.

    Raises (when called):
        BaseMissing: the round has a delta, and the arrays that it leads on from are not here.
        BadData: the rows cannot be read, or do not fit the task, or every loss saturates.
        QueryRefused: the query is of an unknown kind, or malformed.
        LimitExceeded: the work needs more memory or time than the limits.
        PolicyRefused: the site does not permit the question.
        Rejected: the arrays of the round do not fit its query or the task, or the code failed.
        CodeRefused: code scores the task, and the policy does not allow it.
        LearnerFailed: the own code failed.
        WorkError: the learner returned what its query does not allow.
    """
    for kind in BUILTIN_LEARNERS:  # imports PyGAD now, not while the first round waits
        find_learner(kind)
    rows_of: RowsOf = (lambda _run, _names: rows) if isinstance(rows, Rows | Table) else rows
    checked: _Checked | None = None
    views_of = _Views(rows_of, held_out, warn)
    publications = Publications(limits)
    sandbox_of = _Sandboxes()
    compared: RowViews | None = None  # with the statistics of all sites

    def answer(packet: Packet, cancelled: Cancelled) -> dict[str, Array]:
        nonlocal checked, compared
        with np.errstate(all="ignore"):
            packet = publications.whole(packet, cancelled)
        message = packet.message
        assert isinstance(message, Round)
        task = message.task
        query, learner, _ = open_query(message)
        sent = {key: array for key, array in packet.arrays.items() if key != CODE or not isinstance(task.model, Code)}
        control = sent.pop(OWN_CONTROL, None)
        code = _code(packet, policy, own)
        arrays, preparation = without_preparation(query, task, sent)
        check_bounds(query.arrays(task), arrays)
        shapes = {key: array.shape for key, array in arrays.items()}
        views = views_of(message.run, task)
        num_examples = views.count(query.rows)
        if checked is None or checked[:3] != (query, shapes, num_examples) or checked.task != task:
            checked = _checked(query, shapes, num_examples, task, limits)
        spending.check(query)
        private = isinstance(query, PrivateQuery)  # which rows it sees of all rows must not decide on anything
        if num_examples < (site.min_rows if query.rows == "held-out" else 1) and not private:
            return _empty(checked)
        site.check(learner.kind, task, views.num_examples if private else num_examples)
        if preparation:
            _check_features(task, views.num_examples + num_examples, limits or WorkLimits())
        if preparation and not private and views is not compared:  # else it has the bounds of the task, no statistics
            compared = views
            _warn_of_differences(message.run, views, preparation, warn)
        rows = views.view(query.rows, preparation)
        own_round = _own_round(own, query, message, rows, cancelled)
        score = _score(task, rows, own_round, cancelled)
        draws = derive_rng(message.seed, "trainer", name, message.round)
        fit = None if own_round is None else own_round.fit
        work = Assignment(task, arrays, rows, score, draws, cancelled, message.round, fit, control=control)
        if code is not None:
            work = _scored_by_code(work, sandbox_of(task, code, rows))
        with np.errstate(all="ignore"):  # a round may bring any finite numbers; code of the site has its own thread
            learned = learner.learn(query, work)
        _check_answer(checked, learned)
        if isinstance(query, PrivateQuery):
            return _with_noise(query, checked, learned, views, spending, noise(message))
        learned = site.suppressed(query, learned)
        _check_saturated(task, learned.get(LOSSES), rows, sent_bits(query, fraction_bits))
        return _answer(learned, num_examples, own_round)

    return answer


def _with_noise(
    query: PrivateQuery,
    checked: _Checked,
    learned: Mapping[str, Array],
    views: RowViews,
    spending: Spending,
    words: Words,
) -> Answer:
    """Return an answer with noise, after what it costs is saved.

    The number of rows of an answer must not depend on what is in them, so it is that of all rows, less the share that
    is held out. Small counts need not be left out: no count is exact.
    """
    held_out = views.num_held_out
    rows = held_out if query.rows == "held-out" else views.num_examples - held_out
    spending.spend(query.noise.rho)
    return Answer(with_noise(query, checked.task, checked.shapes, learned, rows, words), rows)


def _code(packet: Packet, policy: CodePolicy, own: OwnLearner | None) -> bytes | None:
    """Return the code that scores the task; None if no code does, or the site's own.

    Raises:
        CodeRefused: it must not run here.
    """
    assert isinstance(packet.message, Round)
    scored_by_code = isinstance(packet.message.task.model, Code) and (own is None or not own.scores)
    return policy.code(packet) if scored_by_code else None


def _own_round(
    own: OwnLearner | None, query: Query, message: Round, rows: Rows, cancelled: Cancelled
) -> OwnRound | None:
    """Return the site's own code for this round, if there is some and the query is about rows that train."""
    if own is None or query.rows != "features":
        return None
    return own.on_round(message.task, rows, query.settings, message.round, cancelled)


def _score(task: Task, rows: Rows, own: OwnRound | None, cancelled: Cancelled) -> Callable[[Floats], Scores]:
    """Return the function that scores candidates without code from the network."""
    scores = None if own is None else own.scores
    return scores or partial(task.score, rows=rows, cancelled=cancelled)


def _answer(learned: Mapping[str, Array], rows: int, own_round: OwnRound | None) -> Answer:
    """Return the answer over so many rows; own code may have trained on a part of them."""
    if own_round is None or own_round.num_examples == rows:
        return Answer(learned, rows, {} if own_round is None else own_round.metrics)
    share = own_round.num_examples / rows
    sums = {name: learned[name] * share for name in (LOSSES, "correct", "change") if name in learned}
    part = {name: array.astype(learned[name].dtype) for name, array in sums.items()}
    return Answer({**learned, **part}, *own_round.outcome)


def _scored_by_code(work: Assignment, sandbox: Sandbox) -> Assignment:
    """Return the work with the function in the sandbox: a fitness function if the model has objectives, or a score."""
    if objectives_of(work.task):
        return replace(work, fitness=partial(sandbox.fitness, cancelled=work.cancelled))
    return replace(work, score=partial(sandbox.score, cancelled=work.cancelled))


def _for_task(task: Task, read: Rows | Table) -> Rows | Table:
    """Return a table as rows of numbers if the task names no columns."""
    return positional(read) if isinstance(read, Table) and task.schema is None else read


def _warn_of_differences(run: str, views: RowViews, preparation: Mapping[str, Array], warn: Warn) -> None:
    """Tell this site's operator which of its columns are unlike those of all sites together."""
    columns = () if views.task.schema is None else views.task.schema.columns
    places = [place for place, column in enumerate(columns) if column.kind in ("number", "date")]
    if not places:
        return
    own = column_summary(views.view("columns").inputs[:, places])
    shift, scale = (preparation[name][places] for name in ("column_shift", "column_scale"))
    names = tuple(columns[place].name for place in places)
    for one in differing_columns(names, own, ColumnSummary(own.counts, shift, scale), "all sites together"):
        warn("run %s: column %s: %s", run, one.column, one.detail)


def _checked(query: Query, shapes: Shapes, num_examples: int, task: Task, limits: WorkLimits | None) -> _Checked:
    check_demand(query, task, shapes, num_examples, limits)
    bounds = dict(query.answer(task, shapes, num_examples))
    if isinstance(query, AdditiveQuery) and LOSSES in bounds:  # still float64: the session quantizes them
        bounds[LOSSES] = ArrayBounds(bounds[LOSSES].shape, np.float64)
    return _Checked(query, shapes, num_examples, task, bounds)


def _check_features(task: Task, rows: int, limits: WorkLimits) -> None:
    """Check the memory of the features of so many rows before they are computed: categories make many of them.

    Raises:
        LimitExceeded: it is more than the limit.
    """
    needed = 8 * rows * task.model.inputs
    if needed > limits.memory_bytes:
        raise LimitExceeded(
            f"expected features in at most {limits.memory_bytes >> 20} MiB of memory, got {needed >> 20} MiB for "
            f"{task.model.inputs} features: list fewer categories, or ignore columns"
        )


def _empty(checked: _Checked) -> Answer:
    """Return the sum over no row.

    Raises:
        BadData: the query is not additive.
    """
    if isinstance(checked.query, AdditiveQuery):
        return Answer({name: np.zeros(one.shape, one.dtype) for name, one in checked.answer.items()}, 0)
    problem = "expected rows to train on, got none that is not held out: lower the holdout of the task"
    raise BadData(problem, problem)


def _check_answer(checked: _Checked, answer: object) -> None:
    """Check an answer before it is stored and sent: the aggregator would reject it, and the encoder would fail."""
    if not isinstance(answer, Mapping) or not all(isinstance(array, np.ndarray) for array in answer.values()):
        raise WorkError(f"expected arrays by name from the learner, got {type(answer).__name__}")
    try:
        check_bounds(checked.answer, answer)
    except Rejected as rejected:
        # The reason leaves this machine: it has no number of the answer, which no setting of the site has passed.
        got = "numbers beyond its bounds" if rejected.reason == "values" else str(rejected)
        raise WorkError(f"expected a usable answer to {type(checked.query).__name__}, got {got}") from rejected


def _check_saturated(task: Task, losses: Array | None, rows: Rows, fraction_bits: int) -> None:
    """Check that not every loss of an answer saturates: candidates that all rank alike make a random walk.

    A part of the candidates may saturate: the others are better.

    Raises:
        BadData: every loss does; it names the scale or the fraction bits that fit.
    """
    if losses is None or not len(losses) or losses.min() < UNITS_MAX * 2.0**-fraction_bits / 2:
        return  # the usual case, in one look
    if not saturated(losses, fraction_bits).all():
        return
    least = float(np.nanmin(losses, initial=ROW_SQUARED_ERROR_MAX * len(rows.inputs)))
    error = math.sqrt(least / len(rows.inputs))
    bits = fitting_bits(least, fraction_bits)
    if task.loss == "own":
        action = "return smaller losses from score()"
    elif np.abs(rows.targets).max() * 10.0 >= error:
        scale = task.output_scale * 10.0 ** math.floor(math.log10(error))
        action = f"set output_scale={scale:g} in the task"
    else:
        action = "scale the input columns to about 1 at every site"
    coarser = "" if bits is None else f", or --score-bits {bits} at each trainer"
    problem = (
        f"expected summed losses below {UNITS_MAX * 2.0**-fraction_bits:.3g}, "
        f"got {least:.3g} or more for all {len(losses)} candidates: {action}{coarser}"
    )
    raise BadData(problem, problem)
