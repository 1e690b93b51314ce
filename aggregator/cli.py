"""The command `fedmq aggregator`."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedmq.cli.echo import echo, echo_json, unread_output_dropped
from fedmq.cli.options import (
    COUNT,
    NAME_OR_PATH,
    SECONDS,
    Command,
    FiniteRange,
    UserPath,
    check_labels,
    check_name,
    edge_options,
    metrics_option,
    one_thread_for_arrays,
    option,
    optional_metrics,
    service_options,
)
from fedmq.errors import BadConfiguration, RunFailed, StoreError, TooFewTrainers
from fedmq.runtime.atomic_files import writing
from fedmq.runtime.run_folder import REPORT, RUNS, STORE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fedmq.aggregator.service import Aggregator
    from fedmq.aggregator.sums import SumIdentities
    from fedmq.algorithms.base import Strategy
    from fedmq.algorithms.findings import Findings
    from fedmq.models.trained_model import TrainedModel
    from fedmq.observe.events import AnyEvent
    from fedmq.protocol.run_config import Privacy, RunConfig
    from fedmq.runs.report import Report
    from fedmq.runs.store import Store
    from fedmq.security.keyring import Credentials, Members
    from fedmq.security.signing import Signing
    from fedmq.tasks.task import Task
    from fedmq.transport.zeromq import AggregatorSockets

HOLDOUT_MAX = 0.9  # as in `fedmq.tasks.task`, which would load numpy for `--help`
SAMPLE_MAX = 2**53  # as in `fedmq.protocol.run_config`
NUMBER, NUMBER_DIGITS = "{number}", 4  # in --out


class SampleSize(FiniteRange):
    """A number of trainers, or a share of them below 1."""

    name = "sample"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if number > 1 and number != int(number):
            self.fail(f"expected a number of trainers such as 10, or a share below 1, got {value}.", param, ctx)
        return number


SAMPLE = SampleSize(0, SAMPLE_MAX, min_open=True)


def _check_name(_ctx: click.Context, param: click.Parameter, name: str | None) -> str | None:
    """Return the name of a known task or algorithm; a FILE.py is not run yet."""
    if name is None or ".py" in name:
        return name
    one_thread_for_arrays()
    from fedmq.algorithms.registry import find_algorithm
    from fedmq.tasks.task_file import find_task

    check: Callable[[str], object] = find_task if param.name == "task_name" else find_algorithm
    check(name)
    return name


def _read_parameters(_ctx: click.Context, _param: click.Parameter, pairs: tuple[str, ...]) -> dict[str, Any]:
    one_thread_for_arrays()
    from fedmq.algorithms.parameters import parse_parameters

    return parse_parameters(pairs)


def algorithm_options(command: Command) -> Command:
    """Add --algorithm and --param."""
    algorithm = option(
        "--algorithm",
        type=NAME_OR_PATH,
        metavar="NAME",
        callback=_check_name,
        help="How to learn: evolution, averaging, statistics, ridge, newton, boosting, es, an installed one or "
        "FILE.py:NAME. [default: the task's, or evolution]",
    )
    parameters = option(
        "--param",
        "parameters",
        multiple=True,
        metavar="NAME=VALUE",
        callback=_read_parameters,
        help="A parameter of the algorithm, such as population=200; repeatable. [default: the task's]",
    )
    return algorithm(parameters(command))


def holdout_option(command: Command) -> Command:
    """Add --holdout."""
    return option(
        "--holdout",
        type=FiniteRange(0, HOLDOUT_MAX),
        metavar="SHARE",
        help="Share of the rows of each trainer that is scored and never trained on. [default: the task's]",
    )(command)


def sample_option(command: Command) -> Command:
    """Add --sample."""
    return option(
        "--sample",
        type=SAMPLE,
        metavar="N",
        help="Ask N of the trainers in each round, or below 1 a share of them: 10, 0.1. They take turns. "
        "[default: all]",
    )(command)


def privacy_options(command: Command) -> Command:
    """Add --epsilon and --delta."""
    epsilon = option(
        "--epsilon",
        type=FiniteRange(0, 1e6, min_open=True),
        metavar="E",
        help="Train with differential privacy: noise is added to all answers, so that the run reveals at most so much "
        "about a row. [default: no noise]",
    )
    delta = option(
        "--delta",
        type=FiniteRange(0, 1, min_open=True, max_open=True),
        metavar="D",
        help="With --epsilon: the probability that it reveals more; below one in the number of rows. [default: 1e-5]",
    )
    return epsilon(delta(command))


def buffer_option(command: Command) -> Command:
    """Add --buffer."""
    return option(
        "--buffer",
        type=COUNT,
        metavar="N",
        help="Close a round after N results, those of up to 15 earlier rounds too: no trainer waits for slower ones. "
        "[default: wait for all that the round asks]",
    )(command)


@click.command()
@option(
    "--task",
    "task_name",
    type=NAME_OR_PATH,
    metavar="NAME|FILE",
    callback=_check_name,
    help="What to train: xor, parity4, linear, a FILE.toml from fedmq new, or a FILE.py.",
)
@algorithm_options
@holdout_option
@privacy_options
@option("--rounds", "rounds_max", type=COUNT, metavar="N", help="The most rounds. [default: the task's]")
@option(
    "--min-trainers",
    type=COUNT,
    metavar="N",
    help="A round opens when so many trainers are present. [default: the task's]",
)
@option(
    "--wait",
    "wait_s",
    type=SECONDS,
    metavar="SECONDS",
    help="Wait so long for the trainers that the task intends, then start with --min-trainers or more; "
    "with fewer, end with exit code 75. [default: start with --min-trainers, wait for ever]",
)
@option(
    "--quorum",
    type=FiniteRange(0, 1),
    metavar="SHARE",
    help="Share of a round's trainers whose results it needs to close; at least one trainer. [default: 0.5; with "
    "--epsilon, without --secure: 1]",
)
@sample_option
@option(
    "--select",
    callback=check_labels,
    metavar="A,B",
    help="Only trainers with all these labels take part: site=eu,gpu=yes. [default: all]",
)
@buffer_option
@option(
    "--secure",
    is_flag=True,
    help="Learn totals of answers, and no single answer. At least three trainers begin a total; up to a third of them "
    "may drop out of it. Needs --keys and an algorithm that adds up answers.",
)
@option(
    "--deadline-s",
    type=SECONDS,
    metavar="SECONDS",
    help="Seconds after which a round closes without the stragglers. [default: many times a usual answer]",
)
@option(
    "--max-examples",
    "num_examples_max",
    type=COUNT,
    metavar="N",
    help="Refuse the results of a trainer that claims more rows. [default: any number]",
)
@option(
    "--keep-rounds",
    type=COUNT,
    metavar="N",
    help="Keep the results of at least so many of the last rounds. [default: of all]",
)
@option(
    "--seed",
    type=click.IntRange(0, 2**53),
    metavar="S",
    help="Every random draw comes from it. [default: drawn, and printed]",
)
@option(
    "--out",
    type=UserPath(path_type=Path),
    metavar="DIR",
    help="The run's folder. {number} in its name: the last unfinished run there, else a new one. [default: runs/<run>]",
)
@option(
    "--from",
    "start",
    type=NAME_OR_PATH,
    metavar="RUN",
    help="Start from the model of an earlier run (its folder, its name, or a model file) of the same task.",
)
@option("--resume", is_flag=True, help="Continue the run in --out, also a finished one, with more --rounds.")
@option("--require-target", is_flag=True, help="End with exit code 1 if the run is over and its target is not reached.")
@option("--run", callback=check_name, hidden=True, help="The run's name, for who has chosen it already.")
@option("--quiet", is_flag=True, help="Print nothing but errors.")
@option("--json", "as_json", is_flag=True, help="Print the report as JSON at the end, and nothing else.")
@edge_options
@metrics_option
@service_options
def aggregator(
    task_name: str | None,
    algorithm: str | None,
    parameters: dict[str, Any],
    holdout: float | None,
    seed: int | None,
    wait_s: float | None,
    secure: bool,
    out: Path | None,
    start: str | None,
    resume: bool,
    require_target: bool,
    run: str | None,
    quiet: bool,
    as_json: bool,
    broker: str | None,
    keys: Path | None,
    connect_timeout: float | None,
    metrics: tuple[str, int] | None,
    epsilon: float | None,
    delta: float | None,
    **limits: Any,
) -> None:
    """Run one training to its end, or continue the one in --out.

    Publishes rounds, collects results and stores what it accepts. It can be killed at any moment: the same command
    with the same --out continues the run, to the same model. A continued run keeps the limits that it was given
    (--rounds, --quorum, ...) unless you give others. A round opens once --min-trainers are present.

    Exit codes: 0 the target is reached or the rounds are used up; 1 stopped before, or with --require-target not
    reached; 70 the run cannot go on, because all trainers declined or left it; 75 too few trainers within --wait; 78
    the run in --out is finished.

    \b
    Examples:
      fedmq aggregator --task xor
      fedmq aggregator --task parity4 --min-trainers 4 --out runs/parity
      fedmq aggregator --task linear --algorithm averaging --param learning_rate=0.1 --rounds 50 --seed 7 --json
      fedmq aggregator --task linear --from runs/last-month
      fedmq aggregator --task parity4 --sample 2 --select site=eu
      fedmq aggregator --task linear --algorithm ridge --secure --keys keys
      fedmq aggregator --out runs/parity         (continue it)
      fedmq aggregator --task xor --wait 600 --out 'runs/night-{number}'         (every night)
    """
    one_thread_for_arrays()
    from fedmq.tasks.shipping import ship

    out = out and numbered(out)
    new = out is None or not (out / STORE).exists()
    wanted, code, on_generation = (None, None, None) if task_name is None else ship(task_name, algorithm)
    if wanted is not None:
        wanted = wanted.with_holdout(holdout)
    elif holdout is not None and not new:
        raise BadConfiguration("--holdout: expected it with a new run only, which keeps it: leave it out")
    if wanted is None and new:
        raise BadConfiguration("expected --task for a new run, or --out with the folder of a run to continue")
    name = run or new_name("run" if wanted is None else wanted.name)
    report = run_training(
        wanted,
        name,
        out or RUNS / name,
        code=code,
        on_generation=on_generation,
        algorithm=algorithm,
        parameters=parameters,
        seed=seed,
        start=start,
        wait_s=wait_s,
        secure=secure,
        resume=resume,
        require_target=require_target,
        quiet=quiet,
        as_json=as_json,
        broker=broker,
        keys=keys,
        connect_timeout=connect_timeout,
        metrics=metrics,
        limits=limits,
        epsilon=epsilon,
        delta=delta,
    )
    if report.why == "failed":
        raise RunFailed(report.failure)
    raise SystemExit(1 if report.why == "stopped" or (require_target and not report.solved) else 0)


def run_training(
    wanted: Task | None,
    name: str,
    folder: Path,
    *,
    code: bytes | None = None,
    on_generation: Callable[[Any], object] | None = None,
    algorithm: str | None = None,
    parameters: dict[str, Any] | None = None,
    seed: int | None = None,
    start: str | None = None,
    wait_s: float | None = None,
    secure: bool = False,
    resume: bool = False,
    require_target: bool = False,
    quiet: bool = False,
    as_json: bool = False,
    broker: str | None = None,
    keys: Path | None = None,
    connect_timeout: float | None = None,
    metrics: tuple[str, int] | None = None,
    limits: Mapping[str, Any] | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
) -> Report:
    """Run the task to its end, as a new run of this name, or continue the run in the folder.

    The options are those of `fedmq aggregator`.

    Raises:
        BadConfiguration: the options contradict each other or the run in the folder.
        TooFewTrainers: fewer trainers than needed within the wait.
        SystemExit: it was stopped, and can be continued.
    """
    from fedmq.aggregator.private_runs import limits_of_private, privacy_of, usual_of_private
    from fedmq.algorithms.conformance import check_partial
    from fedmq.algorithms.parameters import parameters_of
    from fedmq.algorithms.registry import DEFAULT_ALGORITHM
    from fedmq.protocol.run_config import Limits, RunConfig
    from fedmq.runs.store import Store
    from fedmq.runtime.lock import FolderLock
    from fedmq.runtime.safe_files import make_private_folder
    from fedmq.security.keyring import Members, find_broker
    from fedmq.security.signing import AggregatorSigning
    from fedmq.transport.zeromq import AggregatorSockets

    parameters = parameters or {}
    address, credentials = find_broker(broker, keys, "aggregator")
    begins = wanted is not None and not (folder / STORE).exists()
    chosen, privacy, strategy = _chosen_limits(limits or {}, usual_of_private(epsilon, secure=secure)), None, None
    if wanted is not None and begins:
        name_of_algorithm = algorithm or wanted.algorithm or DEFAULT_ALGORITHM
        usual = Limits(**{"rounds_max": wanted.rounds, "min_trainers": wanted.trainers, **chosen})
        privacy = privacy_of(epsilon, delta, wanted, name_of_algorithm, parameters, usual, secure=secure)
        strategy = checked_strategy(wanted, code, algorithm, parameters, privacy)
    elif epsilon is not None or delta is not None:
        raise BadConfiguration("--epsilon: expected it with a new run only, which keeps it: leave it out")
    if strategy is not None and wanted is not None:
        check_partial(strategy, wanted, chosen)
        if secure:
            chosen = _secure_limits(strategy, wanted, keys, chosen)
    earlier = _start_of(start, strategy, wanted)
    _check_unfinished(folder, resume=resume)
    with writing(f"--out {folder}"):
        make_private_folder(folder)
    with FolderLock(folder) as lock, Store(folder / STORE, lock) as store:
        finished_after = _check_unfinished(folder, resume=resume)  # again: another process may have finished it
        if store.config is None:
            if wanted is None or strategy is None:
                raise BadConfiguration(f"expected --task for a new run; {folder} holds none to continue")
            begun = RunConfig(
                run=name,
                task=wanted,
                algorithm=strategy.name,
                parameters=parameters_of(strategy),
                seed=secrets.randbelow(2**31) if seed is None else seed,
                started=time.time(),
                secure=secure,
                limits=limits_of_private(
                    Limits(**{"rounds_max": wanted.rounds, "min_trainers": wanted.trainers, **chosen}), privacy
                ),
                privacy=privacy,
            )
            _begin(store, begun, code, strategy, earlier)
        else:
            _check_secure_again(store.config, folder, chosen, secure=secure)
            _continue(store, store.config, folder, wanted, code, algorithm, parameters, seed, earlier, chosen)
        config = store.config
        assert config is not None
        if require_target and config.task.target is None:
            raise BadConfiguration(f"--require-target: expected a task with a target, {config.task.name} has none")
        members = None if keys is None else Members(keys)
        signing = None if members is None or credentials is None else AggregatorSigning(credentials, members)
        link = AggregatorSockets(address, config.run, credentials)
        service = _serve(
            link,
            store,
            config,
            folder,
            address,
            connect_timeout,
            signing,
            _identities(config, credentials, members),
            metrics,
            wait_s,
            on_generation,
            silent=quiet or as_json,
        )
        return _end(service, folder, store, finished_after, quiet=quiet, as_json=as_json)


def _secure_limits(strategy: Strategy[Any], task: Task, keys: Path | None, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return the limits of a new secure run, checked before anything is written."""
    from fedmq.algorithms.conformance import check_secure
    from fedmq.protocol.run_config import SECURE_TRAINERS_MIN

    if keys is None:
        raise BadConfiguration("--secure: expected --keys, as trainers sign what secure sums need: add it")
    check_secure(strategy, chosen)
    return {"min_trainers": max(SECURE_TRAINERS_MIN, task.trainers), **chosen, "staleness": 0}


def _check_secure_again(config: RunConfig, folder: Path, chosen: Mapping[str, Any], *, secure: bool) -> None:
    """Check that a run is continued as it has begun: with secure sums, or without."""
    from fedmq.algorithms.conformance import check_secure
    from fedmq.algorithms.registry import find_algorithm

    if secure and not config.secure:
        raise StoreError(
            f"{folder}: expected no --secure, as this run has begun without it: leave it out, or choose another --out"
        )
    if config.secure:
        check_secure(find_algorithm(config.algorithm, config.task, config.parameters, config.privacy), chosen)


def _identities(config: RunConfig, credentials: Credentials | None, members: Members | None) -> SumIdentities | None:
    """Return the identities of the members of a secure run with keys, else None."""
    if not config.secure or credentials is None or members is None:
        return None
    from fedmq.aggregator.sums import SumIdentities

    return SumIdentities(credentials.federation.id, members.of_name)


def _chosen_limits(limits: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """Return the limits that the options give, as `Limits` has them, and those that are usual without an option."""
    chosen = {**usual, **{name: value for name, value in limits.items() if value is not None}}
    if isinstance(chosen.get("select"), str):
        chosen["select"] = tuple(filter(None, chosen["select"].split(",")))
    return chosen


def _start_of(start: str | None, strategy: Strategy[Any] | None, task: Task | None) -> TrainedModel | None:
    """Return the model that --from names, checked before anything is written; None without --from."""
    if start is None:
        return None
    from fedmq.algorithms.starting import start_state
    from fedmq.runs.model_file import model_of

    earlier = model_of(start)
    if strategy is not None and task is not None:
        start_state(strategy, task, 0, earlier)
    return earlier


def _digest(model: TrainedModel) -> str:
    return hashlib.sha256(model.to_bytes()).hexdigest()


def _begin(
    store: Store, config: RunConfig, code: bytes | None, strategy: Strategy[Any], earlier: TrainedModel | None
) -> None:
    """Begin a new run; one that starts from a model has the state of its first round as a checkpoint."""
    import msgspec

    from fedmq.algorithms.checkpoint import dump
    from fedmq.algorithms.starting import start_state
    from fedmq.runs.records import Checkpoint

    if earlier is not None:
        store.save(
            Checkpoint(1, dump(start_state(strategy, config.task, config.seed, earlier)))
        )  # with the next commit
        config = msgspec.structs.replace(config, started_from=_digest(earlier))
    store.begin(config, code)


def _serve(
    link: AggregatorSockets,
    store: Store,
    config: RunConfig,
    folder: Path,
    broker: str,
    connect_timeout_s: float | None,
    signing: Signing | None,
    identities: SumIdentities | None,
    metrics_at: tuple[str, int] | None,
    wait_s: float | None,
    on_generation: Callable[[Any], object] | None,
    *,
    silent: bool,
) -> Aggregator:
    """Run the aggregator of the run in `store` until it is done."""
    from fedmq.aggregator.generation_callback import GenerationCallback
    from fedmq.aggregator.metrics import Tally, aggregator_metrics
    from fedmq.aggregator.progress import log_event, open_progress
    from fedmq.aggregator.service import Aggregator
    from fedmq.algorithms.registry import find_algorithm
    from fedmq.observe.event_log import EventLog, read_run_state
    from fedmq.observe.events import RoundPublished
    from fedmq.runtime.clock import SystemClock
    from fedmq.runtime.loop import serve
    from fedmq.runtime.run_folder import EVENTS, HISTORY, MODEL

    clock, metric = SystemClock(), config.task.metric
    view = read_run_state(folder / EVENTS)
    log, tally = EventLog(folder / EVENTS, view), Tally()
    outcome = [HISTORY, MODEL, REPORT]  # of a finished run that is continued; the report is removed first

    def watch(at: float, happened: Sequence[AnyEvent]) -> None:
        while outcome and any(isinstance(event, RoundPublished) for event in happened):
            (folder / outcome.pop()).unlink(missing_ok=True)
        log(at, *happened)
        for event in happened:
            progress(event)
            log_event(event, config.run, metric)
            if metrics_at is not None:
                tally(event)

    # In the end the log is closed last: it may fail.
    with closing(log), closing(link), open_progress(view, metric, quiet=silent) as progress:
        strategy = find_algorithm(config.algorithm, config.task, config.parameters, config.privacy)
        service = Aggregator(
            link,
            store,
            strategy,
            clock=clock,
            watch=watch,
            broker=broker,
            connect_timeout_s=connect_timeout_s,
            signing=signing,
            run_state=view,
            wait_s=wait_s,
            on_generation=on_generation and GenerationCallback(on_generation, strategy),
            identities=identities,
        )
        with optional_metrics(
            metrics_at, aggregator_metrics(service, view, tally, clock), lambda: service.connection.problem
        ) as pulse:
            serve(service, link, clock, reload=service.reload, pulse=pulse)
    return service


def new_name(task: str) -> str:
    """A name that no other run has: the task, the time, and four hexadecimal digits; it is a legal name."""
    return f"{task[:40]}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def numbered(out: Path) -> Path:
    """Return `out` with `{number}` in its name replaced by the number of the last folder whose run is not over.

    If there is none, it is the next number: each call after a finished run names a new folder.
    """
    if NUMBER not in out.name:
        return out
    before, after = out.name.split(NUMBER, 1)
    pattern = re.compile(rf"{re.escape(before)}(\d+){re.escape(after)}")
    found = (pattern.fullmatch(path.name) for path in out.parent.glob("*") if path.is_dir())
    last = max((match for match in found if match), key=lambda match: int(match[1]), default=None)
    if last is None:
        return out.with_name(f"{before}{1:0{NUMBER_DIGITS}}{after}")
    if not (out.with_name(last[0]) / REPORT).exists():
        return out.with_name(last[0])
    return out.with_name(f"{before}{int(last[1]) + 1:0{NUMBER_DIGITS}}{after}")


def _check_unfinished(folder: Path, *, resume: bool) -> int:
    """Return the rounds of the finished run in `folder` that shall be resumed; 0: there is no finished run.

    A run that was stopped or has failed is continued like an interrupted one.

    Raises:
        BadConfiguration: the run is finished, and shall not be resumed; or there is none to resume.
    """
    from fedmq.runs.report import read_report

    if resume and not (folder / STORE).exists():
        raise BadConfiguration(f"--resume: expected --out with the folder of a run, {folder} holds none")
    report = read_report(folder)
    if report is None or not report.is_finished:
        return 0
    if not resume:
        raise BadConfiguration(
            f"--out {folder}: expected a new or an unfinished run, this one is finished after {report.rounds} rounds: "
            f"choose another, {NUMBER} in its name for a new one each time, or continue it with --resume --rounds"
        )
    return report.rounds


def checked_strategy(
    task: Task, code: bytes | None, algorithm: str | None, parameters: dict[str, Any], privacy: Privacy | None = None
) -> Strategy[Any]:
    """Return the strategy of a new run, checked before anything is written."""
    from fedmq.algorithms.conformance import check_algorithm, check_first_plan
    from fedmq.algorithms.registry import DEFAULT_ALGORITHM, find_algorithm, is_file

    name = algorithm or task.algorithm or DEFAULT_ALGORITHM
    strategy = find_algorithm(name, task, parameters, privacy)
    if is_file(name):
        check_algorithm(strategy)
    check_first_plan(strategy, task, code)
    return strategy


def _continue(
    store: Store,
    config: RunConfig,
    folder: Path,
    task: Task | None,
    code: bytes | None,
    algorithm: str | None,
    parameters: dict[str, Any],
    seed: int | None,
    earlier: TrainedModel | None,
    limits: dict[str, Any],
) -> None:
    """Continue the run in the store: take over the limits that are given, refuse other values of what is fixed."""
    import msgspec

    from fedmq.aggregator.private_runs import FIXED_IN_PRIVATE
    from fedmq.algorithms.conformance import check_partial
    from fedmq.algorithms.registry import absolute_name, find_algorithm

    for option_name, given, fixed in (
        ("--task", task and task.name, config.task.name),
        ("--algorithm", algorithm and absolute_name(algorithm), config.algorithm),
        *((f"--param {name}", value, config.parameters.get(name)) for name, value in parameters.items()),
        ("--seed", seed, config.seed),
        ("--from", earlier and _digest(earlier), config.started_from),
    ):
        if given is not None and given != (list(fixed) if isinstance(fixed, tuple) else fixed):
            raise StoreError(
                f"{folder}: expected {option_name} {'nothing' if fixed == '' else fixed}, which is fixed for this run, "
                f"got {given}: continue it without {option_name.split()[0]}, or choose another --out"
            )
    if task is not None and code != store.code:
        echo(f"fedmq: {folder}: the run keeps the score() that it began with", err=True)
    if config.privacy is not None and (changed := [name for name in FIXED_IN_PRIVATE if name in limits]):
        raise StoreError(
            f"{folder}: expected no --{changed[0].removesuffix('_max')} in a private run, whose noise is made for its "
            "rounds: leave it out"
        )
    check_partial(find_algorithm(config.algorithm, config.task, config.parameters, config.privacy), config.task, limits)
    store.change_limits(msgspec.structs.replace(config.limits, **limits))


def _end(
    service: Aggregator,
    folder: Path,
    store: Store,
    finished_after: int,
    *,
    quiet: bool,
    as_json: bool,
) -> Report:
    """Write the report of a run that is over, print the outcome, and return the report.

    Raises:
        TooFewTrainers: the run is not over, the wait for trainers is.
        BadConfiguration: the run had finished after so many rounds, and nothing was left to do.
        SystemExit: it was stopped, and can be continued.
    """
    from fedmq.aggregator.outcome import report_of
    from fedmq.runs.report import write_report

    rounds = service.rounds
    if rounds.why is None:
        store.close()
        if rounds.failure:
            raise TooFewTrainers(rounds.failure)
        if not quiet:
            echo(f"stopped before round {rounds.round}; continue with: fedmq aggregator --out {folder}", err=True)
        raise SystemExit(1)
    closes = list(store.closes())
    report, model = report_of(rounds, closes, store.software, time.time())
    store.close()
    if finished_after == report.rounds > 0 and report.is_finished:
        rest = ": nothing is left to learn" if report.why == "done" else ": give more --rounds"
        raise BadConfiguration(
            f"--resume: expected a run that can go on, {folder} is finished after {report.rounds} rounds"
            f"{': its target is reached' if report.solved else rest}"
        )
    write_report(folder, report, model, closes, rounds.findings)
    with unread_output_dropped():
        if as_json:
            echo_json(report)
        elif not quiet:
            print_report(report, folder, rounds.findings)
    return report


def print_report(report: Report, folder: Path, findings: Findings | None) -> None:
    """Print what a run came to, and where its files are."""
    from fedmq.observe.event_text import differences_text, metrics_text, spread_text
    from fedmq.observe.regression_text import regression_remarks

    verdict = {"solved": "solved", "stopped": "stopped", "failed": "failed"}.get(report.why, "finished")
    of_rows = " on held-out rows" if report.value_of == "held-out" else ""
    value = "nothing scored" if report.value is None else f"{report.metric} {report.value:.6g}{of_rows}"
    target = report.config.task.target
    missed = "" if report.solved or target is None else f" (target {target:g})"
    echo(f"{verdict} in {report.rounds} rounds, {report.train_s:.3f} s of training: {value}{missed}")
    for name, figures in (("held out", report.held_out), ("training", report.training)):
        if figures is not None:
            echo(f"{name:<8} {metrics_text(figures)}")
    if report.privacy:
        echo(f"privacy  {report.privacy}")
    if report.spread is not None:
        echo(f"trainers {spread_text(report.spread)}")
    for one in report.trainers:
        if one.differences:
            echo(f"warning  {differences_text(one.name, one.differences)}")
    for remark in () if findings is None else regression_remarks(findings):
        echo(remark)
    if report.model is not None:
        echo(f"model    {folder / report.model}  (sha256 {str(report.model_sha256)[:16]}…)")
    elif report.why == "rounds":
        echo(
            f"model    none: expected a model within {report.rounds} rounds, got none that was scored: "
            "allow more with --rounds, the survey of the columns takes the first ones"
        )
    echo(f"report   {folder / 'report.json'}")
