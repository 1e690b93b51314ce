"""`fedmq.simulate`: a whole federation in this process, on virtual time."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any

import msgspec

from fedmq.aggregator.cli import checked_strategy, new_name
from fedmq.aggregator.departures import causes_text
from fedmq.aggregator.generation_callback import GenerationCallback
from fedmq.aggregator.outcome import report_of
from fedmq.aggregator.private_runs import limits_of_private, privacy_of, usual_of_private
from fedmq.algorithms.base import WORK_SECONDS_MAX
from fedmq.algorithms.conformance import check_partial, check_secure
from fedmq.algorithms.parameters import parameters_of
from fedmq.algorithms.registry import DEFAULT_ALGORITHM
from fedmq.errors import BadConfiguration, FedmqError, RunFailed
from fedmq.observe.event_log import EventLog
from fedmq.observe.events import AnyEvent
from fedmq.observe.run_state import RunState
from fedmq.protocol.run_config import SECURE_TRAINERS_MIN, Limits, RunConfig
from fedmq.runs.report import write_report
from fedmq.runs.store import Store
from fedmq.runtime.atomic_files import writing
from fedmq.runtime.lock import FolderLock
from fedmq.runtime.run_folder import EVENTS, STORE
from fedmq.runtime.safe_files import make_private_folder
from fedmq.simulation.behavior import Behavior, Distribution
from fedmq.simulation.partition import DEFAULT
from fedmq.simulation.population import LocalWorkers, Population
from fedmq.simulation.processes import PROCESSES_MAX, dask_workers, process_workers
from fedmq.simulation.progress import OnEvents, progress_bar
from fedmq.simulation.run import Run
from fedmq.simulation.scenario import Scenario, scenario
from fedmq.simulation.simulator import BEACON_S, Simulator, Workers, append_close
from fedmq.tasks.task import Task
from fedmq.trainer.code_policy import CodePolicy
from fedmq.trainer.own_learner import OwnLearner

WHOLE_MAX = 2**53  # exact in JSON and in the store


def simulate(
    task: Task | str | None = None,
    data: object = None,
    *,
    algorithm: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    trainers: int | None = None,
    split: str = DEFAULT,
    rounds: int | None = None,
    seed: int | None = None,
    holdout: float | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
    out: Path | str | None = None,
    work_s: str | float = 0.01,
    stragglers: float = 0.0,
    slowdown: float = 10.0,
    dropout: float = 0.0,
    online_s: str | float | None = None,
    offline_s: str | float = 10.0,
    learner: str | None = None,
    processes: int = 1,
    scheduler: str | None = None,
    secure: bool = False,
    progress: bool | None = None,
    **limits: Any,
) -> Run:
    """Train a task over virtual trainers in this process, and return the run.

    The same task, data, names, settings and seed give the same model, to the bit, as services on many machines.
    Times are virtual: an hour of waiting takes no time.

    Args:
        task: a `Task`, the name of one, a FILE.py or FILE.toml, or a data set of scikit-learn (digits, iris, wine,
            breast_cancer, diabetes). None: one is proposed for `data`.
        data: rows to split: arrays (inputs, targets), a data frame, a file as for `fedmq trainer --data`, or a data
            set; or a list or mapping of them, one for each trainer. None: the task's own rows.
        algorithm: as for `fedmq aggregator`, with its `parameters`. None: the task's.
        trainers: how many there are. None: as the task intends, with `secure` at least 3.
        split: who has which rows, see `fedmq.simulation.partition`: blocks, iid, shards:2, classes:2, dirichlet:0.3,
            size:1, sorted:COLUMN, column:COLUMN.
        rounds: at most. None: as the task says.
        seed: of all random draws. None: drawn, see `run.report.seed`.
        holdout: the share of each trainer's rows that measures the model. None: the task's.
        epsilon: train with differential privacy, see docs/how-to/differential-privacy.md. None: no noise.
        delta: with `epsilon`. None: 1e-5.
        out: the folder of the run, for `fedmq report`, `fedmq runs` and the page. None: nothing is written.
        work_s: the time of an answer, in seconds: a number, or uniform:LOW:HIGH, exponential:MEAN,
            lognormal:MEDIAN:SIGMA.
        stragglers: the share of trainers that take `slowdown` times as long.
        dropout: the share of answers that arrive after the deadline of their round, unless it has closed by then.
        online_s: how long a trainer stays connected, in the forms of `work_s`, before it is gone for `offline_s`.
            None: always.
        learner: FILE.py:NAME with code of one's own that trains and scores, as for `fedmq trainer --learner`.
        processes: how many processes of this machine train; the model does not depend on it.
        scheduler: the address of a running cluster of Dask that trains instead, such as tcp://10.0.0.5:8786.
        secure: train by secure sums, of which the aggregator learns the total only. The model is the same where the
            same trainers answer; a simulation shows what it costs, and hides nothing.
        progress: show a progress bar. None: on a terminal and in a notebook.
        limits: fields of `fedmq.protocol.run_config.Limits`, such as quorum, deadline_s, keep_rounds.

    Raises:
        BadConfiguration: arguments that do not fit each other.
        BadData: data that do not fit the task.
        RunFailed: all trainers declined the run.

    >>> run = simulate("xor", seed=1)
    >>> run.value, run.report.rounds
    (1.0, 4)
    >>> run.model.predict([[0, 1], [1, 1]])
    array([1, 0])
    """
    seed = secrets.randbelow(2**31) if seed is None else _whole("seed", seed, 0)
    rounds = None if rounds is None else _whole("rounds", rounds, 1)
    trainers = None if trainers is None else _whole("trainers", trainers, 1)
    processes = _whole("processes", processes, 1)
    found = scenario(
        task,
        data,
        algorithm=algorithm,
        trainers=trainers,
        split=split,
        seed=seed,
        holdout=holdout,
        bounded=epsilon is not None,
        secure=secure,
    )
    behavior = behavior_of(work_s, stragglers, slowdown, dropout, online_s, offline_s)
    with progress_bar(rounds or found.task.rounds, found.task.metric, show=progress) as on_events:
        return run_scenario(
            found,
            algorithm=algorithm,
            parameters=parameters,
            rounds=rounds,
            seed=seed,
            out=None if out is None else Path(out),
            behavior=behavior,
            learner=learner,
            processes=processes,
            scheduler=scheduler,
            secure=secure,
            limits=limits,
            epsilon=epsilon,
            delta=delta,
            on_events=on_events,
        )


def _whole(name: str, value: object, least: int) -> int:
    """Return a number that an argument of `simulate` gives, of any type of integers.

    Raises:
        BadConfiguration: it is none, or out of bounds.
    """
    number = int(value) if isinstance(value, Integral) else -1
    if not least <= number <= WHOLE_MAX:
        raise BadConfiguration(f"{name}: expected a whole number from {least} to {WHOLE_MAX}, got {value!r:.40}")
    return number


def behavior_of(
    work_s: str | float,
    stragglers: float,
    slowdown: float,
    dropout: float,
    online_s: str | float | None,
    offline_s: str | float,
) -> Behavior:
    """Return the behavior that the arguments of `simulate` describe."""
    online = None if online_s is None else Distribution.parse(online_s)
    return Behavior(Distribution.parse(work_s), stragglers, slowdown, dropout, online, Distribution.parse(offline_s))


def run_scenario(
    found: Scenario,
    *,
    algorithm: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    rounds: int | None = None,
    seed: int = 0,
    out: Path | None = None,
    name: str | None = None,
    behavior: Behavior | None = None,
    learner: str | None = None,
    processes: int = 1,
    scheduler: str | None = None,
    secure: bool = False,
    limits: Mapping[str, Any] | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
    on_events: OnEvents = lambda _events: None,
) -> Run:
    """Run a scenario to its end; the arguments are those of `simulate`. `on_events` gets the events as they happen."""
    task, began = found.task, time.monotonic()
    behavior = behavior or Behavior()
    usual = _limits(found, behavior, rounds, limits or {}, secure=secure, epsilon=epsilon)
    name_of_algorithm = algorithm or task.algorithm or DEFAULT_ALGORITHM
    privacy = privacy_of(epsilon, delta, task, name_of_algorithm, parameters or {}, usual, secure=secure)
    strategy = checked_strategy(task, found.shipped.code, algorithm, dict(parameters or {}), privacy)
    check_partial(strategy, task, limits or {})
    if secure:
        check_secure(strategy, limits or {})
        if len(found.data) < SECURE_TRAINERS_MIN:
            raise BadConfiguration(
                f"secure: expected at least {SECURE_TRAINERS_MIN} trainers, as a total of two shows each the answer of "
                f"the other; got {len(found.data)}: add trainers"
            )
    config = RunConfig(
        run=name or new_name(task.name),
        task=task,
        algorithm=strategy.name,
        parameters=parameters_of(strategy),
        seed=seed,
        started=time.time(),
        limits=limits_of_private(usual, privacy),
        privacy=privacy,
        secure=secure,
    )
    if config.parameters.get("method") == "scaffold" and (processes != 1 or scheduler is not None):
        raise BadConfiguration(
            "method=scaffold: expected one process, which has the control variates of all trainers, got several: "
            "leave out --processes and --engine"
        )
    if secure and config.parameters.get("method") == "scaffold" and (behavior.dropout or behavior.online_s):
        raise BadConfiguration(
            "method=scaffold: expected trainers that all answer in a simulation with --secure, got --dropout or "
            "--online-s: leave it out"
        )
    callback = found.shipped.on_generation
    policy = CodePolicy(own=found.shipped if found.shipped.code is not None else None)
    own = None if learner is None else OwnLearner(learner, WORK_SECONDS_MAX)
    population = Population(found.data, policy, own)
    with _kept(out, config, found.shipped.code) as (store, log):
        simulator = Simulator(
            store,
            strategy,
            population,
            _workers(population, processes, scheduler),
            behavior,
            keep=out is not None,
            watch=_watch(log, on_events),
            on_generation=callback and GenerationCallback(callback, strategy),
        )
        simulator.run()
        run = _outcome(simulator, store, out, time.monotonic() - began)
        return replace(run, targets=found.targets())


def _workers(population: Population, processes: int, scheduler: str | None) -> Workers:
    if scheduler is not None:
        return dask_workers(population, scheduler)
    if not 1 <= processes <= PROCESSES_MAX:
        raise BadConfiguration(f"processes: expected 1 to {PROCESSES_MAX}, got {processes}")
    return LocalWorkers(population) if processes == 1 else process_workers(population, processes)


def _limits(
    found: Scenario,
    behavior: Behavior,
    rounds: int | None,
    given: Mapping[str, Any],
    *,
    secure: bool,
    epsilon: float | None,
) -> Limits:
    """Return the limits of a simulated run: it begins with all trainers, and goes on with any if they come and go."""
    usual = {
        "rounds_max": rounds or found.task.rounds,
        "min_trainers": len(found.data) if behavior.online_s is None else SECURE_TRAINERS_MIN if secure else 1,
        "beacon_s": BEACON_S,
        **usual_of_private(epsilon, secure=secure),
    }
    if secure:
        usual["staleness"] = 0
    return limits_of(usual, given, "simulate")


def limits_of(usual: Mapping[str, Any], given: Mapping[str, Any], function: str) -> Limits:
    """Return the `usual` limits of a run with those that a caller of `function` has given; None is not given.

    Raises:
        BadConfiguration: a limit that there is not, or one that is out of bounds.
    """
    known = [one.name for one in msgspec.structs.fields(Limits)]
    if unknown := next((name for name in given if name not in known), None):
        raise BadConfiguration(f"expected arguments of {function}, or {', '.join(known)}, got {unknown!r:.40}")
    chosen = {name: value for name, value in given.items() if value is not None}
    try:
        return msgspec.convert({**usual, **chosen}, Limits)
    except msgspec.ValidationError as error:
        raise BadConfiguration(f"{error}") from error


Log = Callable[[float, Sequence[AnyEvent]], None]


@contextmanager
def _kept(out: Path | None, config: RunConfig, code: bytes | None) -> Iterator[tuple[Store, Log]]:
    """Begin the store of a run, in its folder or in memory, and the log of its events."""
    with ExitStack() as open_files:
        if out is None:
            store = open_files.enter_context(Store(":memory:"))
            store.begin(config, code)
            yield store, lambda _at, _events: None
            return
        if (out / STORE).exists():
            raise BadConfiguration(f"--out {out}: expected a new folder, this one holds a run: choose another")
        with writing(f"--out {out}"):
            make_private_folder(out)
        lock = open_files.enter_context(FolderLock(out))
        store = open_files.enter_context(Store(out / STORE, lock))
        store.begin(config, code)
        state = RunState()
        log = EventLog(out / EVENTS, state)
        open_files.callback(log.close)

        def write(at: float, happened: Sequence[AnyEvent]) -> None:
            for event in happened:
                state.apply(at, event)
            log(at, *happened)

        yield store, write


def _watch(log: Log, on_events: OnEvents) -> Log:
    def watch(at: float, happened: Sequence[AnyEvent]) -> None:
        log(at, happened)
        on_events(happened)

    return watch


def _outcome(simulator: Simulator, store: Store, out: Path | None, seconds: float) -> Run:
    """Return the run, and write its report."""
    rounds = simulator.rounds
    if rounds.why is None:
        gone = causes_text(rounds.roster.departures(rounds.round))
        why = rounds.failure or (gone and f"too few trainers are left: {gone}") or "nothing happens any more"
        raise FedmqError(f"the simulation ended before round {rounds.round}: {why}")
    closes = simulator.closes
    for close in store.closes() if out is not None else ():
        append_close(closes, close)
    report, model = report_of(rounds, closes, store.software, simulator.clock.wall())
    if out is not None:
        store.close()
        write_report(out, report, model, closes, rounds.findings)
    if report.why == "failed":
        raise RunFailed(report.failure)
    return Run(report, model, tuple(closes), rounds.findings, out, seconds)
