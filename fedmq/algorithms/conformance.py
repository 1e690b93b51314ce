"""Checks before a run: the conformance suite of algorithms, and the size of the first round.

`fedmq.testing.check_algorithm` is its public name. The aggregator runs it on an algorithm from a file.
"""

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np

from fedmq.algorithms.additive import Additive, total_of
from fedmq.algorithms.base import (
    Arrays,
    Plan,
    Strategy,
    Update,
    check_bounds,
    check_down,
    encode_query,
    without_preparation,
)
from fedmq.algorithms.checkpoint import dump, load
from fedmq.algorithms.registry import decode_query
from fedmq.algorithms.staged import Staged, staged
from fedmq.algorithms.trial import answer
from fedmq.errors import BadConfiguration, FedmqError, ProtocolError, Rejected, named
from fedmq.protocol.codec import FRAME_BYTES_MAX, encode, pack
from fedmq.protocol.messages import Round
from fedmq.protocol.run_config import SECURE_TRAINERS_MIN
from fedmq.tables.table import Table
from fedmq.tasks.row_views import RowViews
from fedmq.tasks.task import Rows, Task
from fedmq.tasks.task_file import find_task, task_rows

TRAINERS = ("alice", "bob", "carol")
ROUNDS = 3
ROUNDS_TO_FOLLOW = 5  # two about the columns, one in full, and two deltas, the second with a late answer
ROUNDS_TO_EVALUATE = 8  # an algorithm may ask about the columns before it has a model


class NonConforming(BadConfiguration):
    """An algorithm breaks the contract; `check` names the broken promise."""

    def __init__(self, algorithm: str, check: str, detail: str) -> None:
        super().__init__(f"algorithm {algorithm}: fails the check {check!r}: {detail}")
        self.check = check


@dataclass(frozen=True)
class _Bench:
    """A strategy with trainers that answer at once."""

    strategy: Strategy[Any]
    task: Task
    rows: Mapping[str, RowViews]
    seed: int

    def init(self) -> Any:
        return self.strategy.init(self.task, self.seed)

    def answers(self, state: Any, number: int, trainers: Sequence[str] = TRAINERS) -> list[Update]:
        plan = self.strategy.ask(state)
        return [self.answer(plan, number, name) for name in trainers]

    def answer(self, plan: Plan, number: int, name: str) -> Update:
        """Return a trainer's answer, after the way through the wire."""
        _encoded(self.task, plan)
        return answer(plan, self.task, self.rows[name], number, self.seed, name)

    def after(self, state: Any, updates: Sequence[Update]) -> Any:
        for update in updates:
            state = self.strategy.tell(state, update)
        return state

    def closed(self, state: Any, updates: Sequence[Update], members: Sequence[str] = TRAINERS) -> Any:
        return self.strategy.close(self.after(state, updates), members)

    def figures(self, state: Any) -> bytes:
        """Return all that can be seen of a state, as bytes."""
        plan = self.strategy.ask(state)
        evaluation = self.strategy.evaluation(state)
        seen = [*sorted(plan.arrays.items()), *(vars(evaluation).items() if evaluation else ())]
        return repr((plan.query, [one.tobytes() if isinstance(one, np.ndarray) else one for _, one in seen])).encode()

    def impossible(self, plan: Plan, good: Update) -> Iterator[tuple[str, Update]]:
        """Yield answers that the plan's query does not allow, made of a good one, with what is wrong."""

        def with_array(name: str, array: np.ndarray) -> Update:
            return replace(good, arrays={**good.arrays, name: array})

        for name, bounds in plan.query.answer(self.task, plan.shapes, good.num_examples).items():
            array = good.arrays[name]
            yield f"no {name}", replace(good, arrays={key: one for key, one in good.arrays.items() if key != name})
            yield f"{name} of another shape", with_array(name, array[..., None])
            most = len(array) if bounds.rows_max is None else bounds.rows_max
            yield f"{name} with {most + 1} rows", with_array(name, np.resize(array, (most + 1, *array.shape[1:])))
            yield f"{name} of float32", with_array(name, array.astype(np.float32))
            for value in (bounds.smallest - 1, bounds.largest * 2 + 1):
                if array.size and np.isfinite(value) and abs(value) < 2**62:
                    bad = array.copy()
                    bad.flat[0] = value
                    yield f"{name} of {value:g}", with_array(name, bad)
            if array.size and array.dtype == np.float64:
                yield f"NaN in {name}", with_array(name, np.full_like(array, np.nan))
        yield "no rows", replace(good, num_examples=0)
        yield "a round that is to come", replace(good, round=good.round + 5)


def _order(bench: _Bench) -> Iterator[str]:
    """Any order of arrival gives the same bits, a late answer among them."""
    first = bench.init()
    late = [replace(one, staleness=1) for one in bench.answers(first, 1, TRAINERS[:1])]
    second = bench.closed(first, bench.answers(first, 1, TRAINERS[1:]))
    updates = [*late, *bench.answers(second, 2)]
    if bench.figures(bench.closed(second, updates)) != bench.figures(bench.closed(second, updates)):
        yield "the same answers give two results: draw only from derive_rng(seed, ...), keep no values on the instance"
    results = {bench.figures(bench.closed(second, order)) for order in itertools.permutations(updates)}
    if len(results) > 1:
        yield f"{len(results)} results from the same answers in different orders: sum by round and trainer"


def _repetition(bench: _Bench) -> Iterator[str]:
    """An answer that arrives again changes nothing, before the close and after it."""
    state, updates = bench.init(), bench.answers(bench.init(), 1)
    once, twice = bench.closed(state, updates), bench.closed(state, [*updates, *updates[:1]])
    if bench.figures(once) != bench.figures(twice):
        yield "an answer that arrived twice in its round counts twice"
    second = bench.answers(once, 2)
    again = bench.closed(once, [replace(updates[0], staleness=1), *second])
    if bench.figures(again) != bench.figures(bench.closed(once, second)):
        yield "an answer that arrived again a round later counts twice"


def _participation(bench: _Bench) -> Iterator[str]:
    """Rounds close with some answers or none, and without members."""
    state, evaluation, number = bench.closed(bench.init(), [], ()), None, 2
    while evaluation is None and number < 2 + ROUNDS_TO_EVALUATE:
        state = bench.closed(state, bench.answers(state, number, TRAINERS[:1]))
        evaluation, number = bench.strategy.evaluation(state), number + 1
    if evaluation is None or not 0.0 < evaluation.coverage < 1.0:
        got = "no evaluation" if evaluation is None else f"coverage {evaluation.coverage:g}"
        yield f"expected a coverage between 0 and 1 with one answer of three, got {got}"
    state = bench.closed(state, [])
    for later in range(number + 1, number + 1 + ROUNDS_TO_EVALUATE):
        state = bench.closed(state, bench.answers(state, later))
        evaluation = bench.strategy.evaluation(state)
        if evaluation is not None and evaluation.coverage == 1.0:
            return
    yield f"expected coverage 1 within {ROUNDS_TO_EVALUATE} rounds that all members answered"


def _checkpoint(bench: _Bench) -> Iterator[str]:
    """A stored state continues with the same bits in a new process, with answers waiting, too."""
    unused = copy.deepcopy(bench.strategy)
    kept = bench.init()
    blob = dump(kept)
    for number in range(1, ROUNDS + 1):
        restarted = replace(bench, strategy=copy.deepcopy(unused))
        kind = type(restarted.init())
        updates = bench.answers(kept, number)
        kept = bench.after(kept, updates[:2])
        waiting = dump(restarted.after(load(blob, kind), updates[:2]))
        kept, stored = bench.closed(kept, updates[2:]), restarted.closed(load(waiting, kind), updates[2:])
        blob = dump(stored)
        if bench.figures(kept) != bench.figures(stored):
            yield f"another result in a new process after round {number}: keep all that changes in the state"
            return


def _bounds(bench: _Bench) -> Iterator[str]:
    """Answers outside of what the query allows are rejected, and queries count what they reveal."""
    state = bench.init()
    plan = bench.strategy.ask(state)
    if plan.query.evaluations(plan.shapes) < 1:
        yield "expected a query to count at least one evaluation"
    for what, bad in bench.impossible(plan, bench.answer(plan, 1, TRAINERS[0])):
        try:
            bench.strategy.tell(state, bad)
        except Rejected:
            continue
        yield f"expected Rejected for {what}"


def _purity(bench: _Bench) -> Iterator[str]:
    """No call changes the state that it is given, a refused answer least of all, and asking again gives the same."""
    state = bench.closed(bench.init(), bench.answers(bench.init(), 1))
    before, figures = dump(state), bench.figures(state)
    if bench.figures(state) != figures:
        yield "asked twice, it publishes two different things"
    plan, updates = bench.strategy.ask(state), bench.answers(state, 2)
    for _, bad in bench.impossible(plan, updates[0]):
        try:
            bench.strategy.tell(state, bad)
        except Rejected:
            if dump(state) != before:
                yield "a refused answer changes the state"
                return
    bench.closed(state, updates)
    if dump(state) != before:
        yield "tell or close changes the state that it is given"


def _delta(bench: _Bench) -> Iterator[str]:
    """The delta of a round leads to its arrays from those of the last round of its kind, with a late answer, too."""
    state, last, late = bench.init(), dict[str, Arrays](), list[Update]()
    for number in range(1, 1 + ROUNDS_TO_FOLLOW):
        plan = bench.strategy.ask(state)
        query, learner = decode_query(encode_query(plan.query))
        own, _ = without_preparation(query, bench.task, plan.arrays)
        base = last.get(query.kind)
        if plan.delta is not None and base is not None:
            if learner.apply is None:
                yield f"expected the learner of {query.kind} to apply deltas"
                return
            check_bounds(query.delta(bench.task, {name: one.shape for name, one in base.items()}), plan.delta)
            found = {**base, **learner.apply(query, bench.task, base, plan.delta, lambda: False)}
            if pack(found).infos != pack(own).infos:
                yield f"the delta of round {number} leads to other arrays than those of the plan"
                return
        last[query.kind] = own
        *updates, missing = bench.answers(state, number)
        state = bench.closed(state, [*late, *updates])
        late = [replace(missing, staleness=1)] if number % 2 else []


def _totals(bench: _Bench) -> Iterator[str]:
    """The total of a round's answers, as secure sums give it, leads to the same state as the single answers."""
    state = bench.init()
    for number in range(1, ROUNDS + 1):
        if not bench.strategy.additive:
            return
        updates = bench.answers(state, number)
        singly, at_once = bench.closed(state, updates), bench.closed(state, [total_of(updates)])
        if dump(singly) != dump(at_once):
            yield f"the total of round {number} leads to another state than its answers"
            return
        state = singly


CHECKS: Mapping[str, Callable[[_Bench], Iterator[str]]] = {
    check.__name__.removeprefix("_"): check
    for check in (_order, _repetition, _participation, _checkpoint, _bounds, _purity, _delta, _totals)
}


def check_algorithm(
    algorithm: Any, task: Task | str = "xor", *, rows: Sequence[Rows | Table] | None = None, seed: int = 1
) -> None:
    """Check that an algorithm keeps the contract of `fedmq.algorithms.base`, within a few rounds of a small task.

    `algorithm` is a strategy, an additive algorithm, or a class of either, which is used with its default parameters.
    A `task` by name has its own rows; any other is used with the rows of `xor`, or with `rows` of each of the three
    trainers. The checks: `order`, `repetition`,
    `participation`, `checkpoint`, `bounds`, `purity`, `delta`, `totals`.

    Raises:
        NonConforming: a check failed; it names the check and what is wrong, in one line.
    """
    name = getattr(algorithm, "name", type(algorithm).__name__)
    if isinstance(algorithm, type):
        algorithm = algorithm(algorithm.Parameters()) if hasattr(algorithm, "Parameters") else algorithm()
    of_task = task if isinstance(task, Task) else find_task(task)
    if getattr(algorithm, "additive", True) and not isinstance(algorithm, Additive | Staged):
        algorithm = Additive(algorithm, str(name), getattr(algorithm, "parameters", None))
    if not isinstance(algorithm, Staged):
        algorithm = staged(algorithm, of_task)
    source = "xor" if isinstance(task, Task) else task
    views = {
        one: RowViews(of_task, task_rows(source, part, len(TRAINERS)) if rows is None else rows[part - 1])
        for part, one in enumerate(TRAINERS, start=1)
    }
    for check, found in CHECKS.items():
        bench = _Bench(copy.deepcopy(algorithm), of_task, views, seed)  # no values on the instance from another check
        try:
            problem = next(found(bench), None)
        except NotImplementedError as error:
            problem = f"{named(error)}: expected only numbers, names, arrays and the like in the state"
        except FedmqError as error:
            problem = str(error).removeprefix(f"algorithm {name}: ")
        except Exception as error:  # noqa: BLE001  code of the user
            problem = f"expected no error, got {named(error)}"
        if problem is not None:
            raise NonConforming(str(name), check, problem)


def _encoded(task: Task, plan: Plan) -> Sequence[bytes]:
    """Return the frames of a round with this plan.

    Raises:
        ProtocolError: an array that no message can hold.
    """
    message = Round(
        run="r" * 64,
        term=2**53,
        round=1,
        seed=2**53,
        deadline_s=1.0,
        task=msgspec.structs.replace(task, parameters={}, algorithm=""),
        query=encode_query(plan.query),
    )
    return encode("round", message, plan.arrays)


def check_first_plan(strategy: Strategy[Any], task: Task, code: bytes | None = None) -> None:
    """Check that the first round of a run can be sent and answered, and the algorithm's first round after a survey.

    Raises:
        BadConfiguration: it needs more than a message holds, or more work than a trainer accepts.
    """
    for plan in (strategy.ask(strategy.init(task, 0)), first_training(strategy, task)):
        _check_plan(strategy, task, plan, code)


def check_partial(strategy: Strategy[Any], task: Task, limits: Mapping[str, Any]) -> None:
    """Check that the rounds of the algorithm can go without some trainers, if `sample` or `buffer` ask for that.

    Raises:
        BadConfiguration: they cannot.
    """
    for name in ("sample", "buffer"):
        if limits.get(name) is not None and not first_training(strategy, task).query.partial:
            raise BadConfiguration(
                f"{name}: expected an algorithm that learns from some of the trainers, such as averaging, es, or "
                f"evolution with neither additive nor keywords of PyGAD; {strategy.name} here needs the answers of "
                "all: leave it out"
            )


def check_secure(strategy: Strategy[Any], limits: Mapping[str, Any]) -> None:
    """Check that a run of the algorithm with these limits can learn from totals of answers only.

    Raises:
        BadConfiguration: it cannot.
    """
    if not strategy.additive:
        raise BadConfiguration(
            "secure: expected an algorithm that needs only sums of answers, such as ridge, newton, boosting, es, "
            "evolution with --param additive=true, or averaging by gradients without a robust rule; "
            f"{strategy.name} here needs the answer of each trainer: choose another --algorithm or --param"
        )
    for name in ("sample", "buffer", "staleness"):
        if limits.get(name):
            raise BadConfiguration(
                f"{name}: expected rounds that ask all trainers and take no late results, as a secure run has; "
                f"got {limits[name]:g}: leave it out"
            )
    if (trainers := limits.get("min_trainers")) is not None and trainers < SECURE_TRAINERS_MIN:
        raise BadConfiguration(
            f"min-trainers: expected at least {SECURE_TRAINERS_MIN} in a secure run, as a total of two shows each "
            f"trainer the answer of the other; got {trainers}"
        )


def first_training(strategy: Strategy[Any], task: Task) -> Plan:
    """Return the algorithm's first round, after a survey if it has one."""
    state = strategy.init(task, 0)
    return strategy.first_training(state) if isinstance(strategy, Staged) else strategy.ask(state)


def _check_plan(strategy: Strategy[Any], task: Task, plan: Plan, code: bytes | None) -> None:
    about = f"algorithm {strategy.name}: task {task.name} has {task.model.num_parameters} parameters"
    needed = sum(array.nbytes for array in plan.arrays.values()) + len(code or b"")
    if needed > FRAME_BYTES_MAX:
        raise BadConfiguration(
            f"{about}: expected a round of at most {FRAME_BYTES_MAX} bytes, got {needed}: "
            "lower the population, or take a smaller model"
        )
    try:
        check_down(plan.query, task, without_preparation(plan.query, task, plan.arrays)[0])
        _encoded(task, plan)
    except (ProtocolError, Rejected) as error:
        raise BadConfiguration(f"{about}: {error}") from error
