"""The command `fedmq trainer`."""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from fedmq.cli.echo import echo_if_read
from fedmq.cli.options import (
    COUNT,
    FOLDER,
    NAME_OR_PATH,
    SECONDS,
    FiniteRange,
    check_labels,
    check_name,
    edge_options,
    metrics_option,
    one_thread_for_arrays,
    option,
    optional_metrics,
    service_options,
)
from fedmq.errors import BadConfiguration, BadData
from fedmq.security.commands import join

if TYPE_CHECKING:
    from fedmq.algorithms.base import WorkLimits
    from fedmq.protocol.codec import Packet
    from fedmq.security.keyring import Credentials
    from fedmq.trainer.budget import Budget
    from fedmq.trainer.code_policy import CodePolicy
    from fedmq.trainer.epsilon_budget import Spending
    from fedmq.trainer.machine import SumIdentity
    from fedmq.trainer.questions import Questions
    from fedmq.trainer.secure_answers import SecureAnswers
    from fedmq.trainer.session import Session
    from fedmq.trainer.site_policy import SitePolicy
    from fedmq.trainer.spool import FileSpool

ROWS_FEW = 10  # scores over fewer rows reveal their labels; see docs/privacy.md
FRACTION_BITS_MAX = 30  # as in `fedmq.protocol.messages`, which would load numpy for `--help`
WORK_SECONDS_MAX = 3600  # as in `fedmq.algorithms.base`
MEMBERS_MIN, MEMBERS_MAX = 3, 1000  # of a secure sum, as in `fedmq.secure_sums`

DAY_S = 86_400
EVALUATION = "evaluation"  # the queries by which algorithms of others score candidates

log = logging.getLogger(__name__)


def _check_data(_ctx: click.Context, _param: click.Parameter, spec: str | None) -> str | None:
    """Check early that a part of a built-in task exists."""
    if spec is not None and re.fullmatch(r"\w+:[0-9]{1,9}/[0-9]{1,9}", spec):
        one_thread_for_arrays()
        from fedmq.data.readers import load_rows

        load_rows(spec)
    return spec


def _names(_ctx: click.Context, _param: click.Parameter, text: str | None) -> tuple[str, ...]:
    """Return the names in a list that is separated by commas."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def _fingerprints(ctx: click.Context, param: click.Parameter, text: str | None) -> frozenset[str] | None:
    """Return the fingerprints in a list that is separated by commas; None without one."""
    from fedmq.security.keys import FINGERPRINT_PATTERN

    found = _names(ctx, param, text)
    if wrong := [one for one in found if not re.fullmatch(FINGERPRINT_PATTERN, one)]:
        raise click.BadParameter(f"expected fingerprints such as k7fq-2mzt-x4wd-hb3p, got {wrong[0]!r:.40}", ctx, param)
    return None if text is None else frozenset(found)


@click.group(invoke_without_command=True)
@option(
    "--name",
    callback=check_name,
    metavar="NAME",
    help="Name of this trainer: unique, and the same after a restart. [default: the host's name; with keys the key's]",
)
@option(
    "--data",
    type=NAME_OR_PATH,
    metavar="SPEC",
    callback=_check_data,
    help="Rows: xor:1/2, parity4:3/4, linear:bob, FILE.py:1/2, a file (.csv .tsv .parquet .json .xlsx .db .npz ...), a "
    "folder of them, \"SELECT ... FROM 'rows.csv'\", or module:function.",
)
@option(
    "--holdout-data",
    type=NAME_OR_PATH,
    metavar="SPEC",
    callback=_check_data,
    help="Rows that measure the models of runs with --holdout, instead of a share of --data; never trained on.",
)
@option(
    "--state",
    type=FOLDER,
    metavar="DIR",
    default=lambda: os.environ.get("STATE_DIRECTORY"),
    show_default="$STATE_DIRECTORY, else in memory only",
    help="Folder for pending results, so that they survive a kill.",
)
@option(
    "--score-bits",
    type=click.IntRange(0, FRACTION_BITS_MAX),
    default=16,
    metavar="B",
    help="Send losses as integers in units of 2**-B: fewer bits reveal less about the rows.",
)
@option(
    "--min-rows",
    type=COUNT,
    metavar="N",
    help="Do not start, and answer no question, with fewer rows: their scores reveal too much. "
    f"[default: start, with a warning if there are fewer than {ROWS_FEW}]",
)
@option(
    "--max-evaluations",
    type=COUNT,
    metavar="N",
    help="Score at most N candidates of a run, then decline it. [default: no limit]",
)
@option(
    "--rounds-per-run",
    type=COUNT,
    metavar="N",
    help="Answer at most N rounds of a run, then decline it. [default: no limit]",
)
@option(
    "--rounds-per-day",
    type=COUNT,
    metavar="N",
    help="Answer at most N rounds of all runs on a day, UTC. [default: no limit]",
)
@option(
    "--epsilon-max",
    type=FiniteRange(0, 1e6, min_open=True),
    metavar="E",
    help="Answer questions of runs with --epsilon only, until all runs together have spent so much. What is "
    "spent is kept in --state. [default: no limit]",
)
@option(
    "--epsilon-delta",
    type=FiniteRange(0, 1, min_open=True, max_open=True),
    default=1e-5,
    metavar="D",
    help="The delta for which --epsilon-max counts.",
)
@option(
    "--min-cell",
    type=COUNT,
    metavar="N",
    help="Send a count of fewer rows, of a histogram, class or category, as 0. [default: send all]",
)
@option(
    "--parameters-per-row-max",
    type=FiniteRange(0, 1e6, min_open=True),
    metavar="X",
    help="Decline to fit a model with more than X parameters for each row. [default: no limit]",
)
@option(
    "--allow-algorithms",
    callback=_names,
    metavar="A,B",
    help="Answer questions of these algorithms only. [default: all]",
)
@option(
    "--allow-columns",
    callback=_names,
    metavar="A,B",
    help="Take part only in tasks that use no other columns. [default: all]",
)
@option(
    "--no-site-figures",
    is_flag=True,
    help="Do not let a run show how well its model does on these rows alone, held-out ones.",
)
@option(
    "--require-secure",
    is_flag=True,
    help="Answer only in secure sums, of which the aggregator learns the total; decline other runs. Needs --keys.",
)
@option(
    "--min-members",
    type=click.IntRange(MEMBERS_MIN, MEMBERS_MAX),
    default=MEMBERS_MIN,
    metavar="N",
    help="Take part in secure sums that at least N trainers begin; up to a third of them may drop out.",
)
@option(
    "--peers",
    callback=_fingerprints,
    metavar="A,B",
    help="Take part in secure sums only with trainers whose keys have these fingerprints. Each trainer prints its own "
    "at its start; fedmq keys ls at the broker lists all. "
    "[default: those that the aggregator names]",
)
@option("--show-policy", is_flag=True, help="Print what this site permits, and exit.")
@option(
    "--work-seconds-max",
    type=SECONDS,
    default=WORK_SECONDS_MAX,
    metavar="SECONDS",
    help="Decline a run when the work of a round takes longer.",
)
@option(
    "--memory-max",
    type=COUNT,
    metavar="MIB",
    help="Decline a run when the work of a round needs more memory, in MiB. [default: half of this machine's or this "
    "unit's, at most 2048]",
)
@option(
    "--allow-code",
    is_flag=True,
    help="Run the Python code of a task in a sandbox, if a pinned aggregator key signed it.",
)
@option(
    "--score",
    type=NAME_OR_PATH,
    metavar="FILE.py",
    help="Local copy of a task with code or a PyTorch model: only this code runs.",
)
@option(
    "--learner",
    type=NAME_OR_PATH,
    metavar="FILE.py:NAME",
    help="Train with the function NAME of this file, and score with its evaluate, if it has one; any framework.",
)
@option(
    "--labels",
    callback=check_labels,
    default="",
    metavar="A,B",
    help="Labels of this trainer, for aggregator --select and for observers: site=north,gpu=yes.",
)
@edge_options
@metrics_option
@service_options
@click.pass_context
def trainer(
    ctx: click.Context,
    name: str | None,
    data: str | None,
    holdout_data: str | None,
    state: Path | None,
    score_bits: int,
    min_rows: int | None,
    max_evaluations: int | None,
    rounds_per_run: int | None,
    rounds_per_day: int | None,
    epsilon_max: float | None,
    epsilon_delta: float,
    min_cell: int | None,
    parameters_per_row_max: float | None,
    allow_algorithms: tuple[str, ...],
    allow_columns: tuple[str, ...],
    no_site_figures: bool,
    require_secure: bool,
    min_members: int,
    peers: frozenset[str] | None,
    show_policy: bool,
    work_seconds_max: float,
    memory_max: int | None,
    allow_code: bool,
    score: str | None,
    learner: str | None,
    labels: str,
    broker: str | None,
    keys: Path | None,
    connect_timeout: float | None,
    metrics: tuple[str, int] | None,
) -> None:
    """Train on this machine's rows until it is stopped.

    Takes part in every run at the broker, one round at a time. Rows stay on this machine; scores and candidate models
    are sent. It can start before the broker, and be killed and restarted at any moment. SIGTERM and Ctrl-C end it
    within five seconds, with exit code 0. Rows or settings that are invalid at the start end it with exit code 78. No
    run ends it: it declines a run that its rows do not fit or whose work fails, reports why, and takes the next.

    \b
    Examples:
      fedmq trainer --name alice --data xor:1/2
      fedmq trainer --name clinic-7 --data rows.csv --broker tcp://127.0.0.1:5550
      fedmq trainer --name plant-2 --data mypackage.rows:load --log-level info
      fedmq trainer join
      fedmq trainer --keys keys --data rows.csv
      fedmq trainer --name clinic-7 --data rows.csv --min-rows 500 --max-evaluations 2000 --score-bits 8
    """
    if ctx.invoked_subcommand is not None:
        given = [name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
        if given:
            raise click.UsageError(f"expected --{given[0].replace('_', '-')} after {ctx.invoked_subcommand}.", ctx)
        return
    if show_policy:
        _show_policy(
            _site_policy(min_rows, min_cell, parameters_per_row_max, allow_algorithms, allow_columns),
            {
                "rounds of a run": rounds_per_run,
                "rounds of a day": rounds_per_day,
                "candidates of a run": max_evaluations,
            },
            site_figures=not no_site_figures,
            secure={
                "answers": "secure sums only" if require_secure else "plain and secure sums",
                "trainers of a secure sum": f"at least {min_members}",
                "keys of its trainers": "any" if peers is None else ", ".join(sorted(peers)),
                "epsilon of all runs": "any" if epsilon_max is None else f"at most {epsilon_max:g}",
            },
        )
        return
    if data is None:
        raise click.UsageError("Missing option '--data': the rows, such as --data rows.csv.", ctx)
    one_thread_for_arrays()
    from fedmq.data.readers import files_of
    from fedmq.runtime.clock import SystemClock
    from fedmq.runtime.loop import serve
    from fedmq.security.keyring import find_broker
    from fedmq.security.signing import TrainerSigning
    from fedmq.trainer.code_policy import no_signer
    from fedmq.trainer.metrics import trainer_metrics
    from fedmq.trainer.own_learner import OwnLearner
    from fedmq.trainer.round_handler import on_rows
    from fedmq.trainer.rows_source import RowsSource
    from fedmq.trainer.service import NewKeys, Trainer, usage_of_process
    from fedmq.trainer.spool import FileSpool, MemorySpool
    from fedmq.trainer.worker import ThreadWorker
    from fedmq.transport.zeromq import TrainerSockets
    from fedmq.transport.zeromq.edge import keys_of

    address, credentials = find_broker(broker, keys, "trainer")
    _check_keys(credentials, {"--require-secure": require_secure, "--peers": peers is not None})
    name = _name(name, credentials)
    rows = RowsSource(data, lambda count: _check_count(name, count, min_rows), holdout_data)
    signing = None if credentials is None else TrainerSigning(credentials)
    policy = _policy(allow_code, score, no_signer if signing is None else signing.signer)
    if policy.allowed or (policy.own is not None and policy.own.code is not None):
        _check_private({"--keys": keys, "--state": state, "--data": next(iter(files_of(data)), None)})
    link, clock = TrainerSockets(address, name, credentials), SystemClock()
    spool = None if state is None else FileSpool(state / name, _pinned(credentials))

    def read_keys() -> NewKeys:
        found, again = find_broker(broker, keys, "trainer")
        assert again is not None
        assert signing is not None
        _name(name, again)
        signing.use(again)
        link.move(found, keys_of(again))
        return NewKeys(found, again.federation.aggregator.fingerprint, _member(again))

    service = Trainer(
        link,
        _session(
            name,
            rows.num_rows,
            spool,
            score_bits,
            _budget(spool, max_evaluations),
            _questions(spool, rounds_per_run, rounds_per_day),
            labels,
            work_seconds_max,
            site_figures=not no_site_figures,
            secure=_secure(spool, credentials, min_members, peers, required=require_secure),
        ),
        ThreadWorker(
            on_rows(
                rows.of,
                name,
                policy,
                fraction_bits=score_bits,
                limits=_limits(memory_max, work_seconds_max),
                site=_site_policy(min_rows, min_cell, parameters_per_row_max, allow_algorithms, allow_columns),
                held_out=None if rows.held_out is None else rows.held_out.of,
                own=None if learner is None else OwnLearner(learner, work_seconds_max),
                spending=_spending(epsilon_max, epsilon_delta, None if state is None else state / name),
            ),
            link.wake,
            clock,
            rows.reload,
            work_seconds_max,
        ),
        clock=clock,
        broker=address,
        connect_timeout_s=connect_timeout,
        spool=spool or MemorySpool(_pinned(credentials)),
        signing=signing,
        usage=usage_of_process,
        rows_of=rows.count,
        read_keys=None if signing is None else read_keys,
    )
    try:
        with optional_metrics(metrics, trainer_metrics(service), lambda: service.connection.problem) as pulse:
            line = f"trainer {name}: {rows.num_rows} rows, broker {address}{_key(credentials)}"
            serve(service, link, clock, ready=lambda: echo_if_read(line), reload=service.reload, pulse=pulse)
    finally:
        link.close()


trainer.add_command(join)


def _key(credentials: Credentials | None) -> str:
    """Return the fingerprint of the trainer's key for its first line, which other sites pin with --peers."""
    return "" if credentials is None else f", key {credentials.identity.public.fingerprint}"


def _name(given: str | None, credentials: Credentials | None) -> str:
    """Return the trainer's name; with keys the one in the key."""
    if credentials is None:
        return given or socket.gethostname().split(".")[0]
    name = credentials.identity.name
    if given not in (None, name):
        raise BadConfiguration(f"expected --name {name}, the name in the key, got {given}; omit --name")
    return name


def _check_keys(credentials: Credentials | None, needs: Mapping[str, bool]) -> None:
    """Check that there are keys if an option needs them."""
    if credentials is None and (given := [name for name, is_given in needs.items() if is_given]):
        raise BadConfiguration(f"{given[0]}: expected keys, got none: give --keys, see fedmq trainer join")


def _session(
    name: str,
    count: int,
    spool: FileSpool | None,
    fraction_bits: int,
    budget: Budget,
    questions: Questions,
    labels: str,
    work_seconds_max: float,
    *,
    site_figures: bool,
    secure: SecureAnswers | None = None,
) -> Session:
    """Return a session that continues from the spool."""
    from fedmq import __version__
    from fedmq.runtime.rng import derive_rng
    from fedmq.trainer.high_water_marks import HighWaterMarks
    from fedmq.trainer.session import Session

    pending = [] if spool is None else spool.load(name, count)
    marks = HighWaterMarks(() if spool is None else spool.marks())
    controls = () if spool is None else spool.controls()
    jitter, label_names = derive_rng(0, "jitter", name), tuple(filter(None, labels.split(",")))
    return Session(
        name,
        count,
        __version__,
        jitter,
        pending,
        fraction_bits=fraction_bits,
        budget=budget,
        questions=questions,
        marks=marks,
        controls=controls,
        labels=label_names,
        work_seconds_max=work_seconds_max,
        site_figures=site_figures,
        secure=secure,
    )


def _pinned(credentials: Credentials | None) -> str:
    """Return the fingerprint of the aggregator's key, "" without keys."""
    return "" if credentials is None else credentials.federation.aggregator.fingerprint


def _member(credentials: Credentials) -> SumIdentity:
    from fedmq.trainer.machine import SumIdentity

    return SumIdentity(credentials.federation.id, credentials.identity)


def _secure(
    spool: FileSpool | None,
    credentials: Credentials | None,
    members_min: int,
    peers: frozenset[str] | None,
    *,
    required: bool,
) -> SecureAnswers:
    """Return the secure sums of this trainer, with the ledgers of the spool."""
    from fedmq.secure_sums.policy import SumPolicy
    from fedmq.trainer.secure_answers import SecureAnswers

    member, ledgers = None if credentials is None else _member(credentials), () if spool is None else spool.ledgers()
    return SecureAnswers(member, SumPolicy(members_min, peers=peers), required=required, ledgers=ledgers)


def _budget(spool: FileSpool | None, cap: int | None) -> Budget:
    from fedmq.trainer.budget import Budget

    return Budget(cap, () if spool is None or cap is None else spool.spent())


def _spending(epsilon_max: float | None, delta: float, folder: Path | None) -> Spending:
    """Return what counts the epsilon of private answers.

    Raises:
        BadConfiguration: a limit without a folder, in which it would not survive a restart.
    """
    from fedmq.trainer.epsilon_budget import SPENT_FILE, UNLIMITED, EpsilonBudget

    if epsilon_max is None:
        return UNLIMITED
    if folder is None:
        raise BadConfiguration("--epsilon-max: expected --state, where what is spent is kept, got none: add a folder")
    return EpsilonBudget(epsilon_max, delta, folder / SPENT_FILE)


def _questions(spool: FileSpool | None, per_run: int | None, per_day: int | None) -> Questions:
    from fedmq.trainer.questions import Questions

    counted = spool is not None and (per_run is not None or per_day is not None)
    answered = spool.answered() if spool is not None and counted else None
    return Questions(per_run, per_day, today=lambda: int(time.time() // DAY_S), answered=answered)


def _site_policy(
    min_rows: int | None,
    min_cell: int | None,
    parameters_per_row_max: float | None,
    algorithms: tuple[str, ...],
    columns: tuple[str, ...],
) -> SitePolicy:
    """Return what this site permits.

    Raises:
        BadConfiguration: an algorithm that is not installed.
    """
    from fedmq.algorithms.registry import algorithm_names
    from fedmq.trainer.site_policy import SitePolicy

    known = (*algorithm_names(), EVALUATION)
    if unknown := [one for one in algorithms if one not in known]:
        raise BadConfiguration(f"--allow-algorithms: expected {', '.join(known)}, got {unknown[0]!r:.80}")
    return SitePolicy(min_rows or 1, min_cell or 1, parameters_per_row_max, algorithms, columns)


def _show_policy(
    policy: SitePolicy, caps: Mapping[str, int | None], *, site_figures: bool, secure: Mapping[str, str]
) -> None:
    """Print what a site permits."""
    for text in policy.lines():
        echo_if_read(text)
    for what, cap in caps.items():
        echo_if_read(f"{what:27}  {'any number' if cap is None else f'at most {cap}'}")
    echo_if_read(f"{'figures of these rows alone':27}  {'shown' if site_figures else 'not shown'}")
    for what, setting in secure.items():
        echo_if_read(f"{what:27}  {setting}")


def _limits(memory_mib: int | None, seconds: float) -> WorkLimits:
    """Return what this machine gives to the work of a round."""
    from fedmq.algorithms.base import MEMORY_BYTES_MAX, WorkLimits
    from fedmq.runtime.memory_limit import memory_allowed

    if memory_mib is None:
        there = memory_allowed()
        return WorkLimits(MEMORY_BYTES_MAX if there is None else min(MEMORY_BYTES_MAX, there // 2), seconds)
    return WorkLimits(memory_mib << 20, seconds)


def _policy(allowed: bool, score: str | None, signer: Callable[[Packet], str | None]) -> CodePolicy:
    """Return which code of tasks runs here."""
    from fedmq.models.torch_model import Torch
    from fedmq.tasks.shipping import ship
    from fedmq.trainer.code_policy import CodePolicy

    own = None if score is None else ship(score)
    if own is not None and own.code is None and not isinstance(own.task.model, Torch):
        raise BadConfiguration(f"--score {score}: expected a task with code or a PyTorch model, got neither: omit it")
    return CodePolicy(allowed=allowed, own=own, signer=signer)


def _check_private(places: Mapping[str, Path | None]) -> None:
    """Check that code of a task can read neither keys nor state nor rows."""
    from fedmq.trainer.confinement import exposed

    for option_name, place in places.items():
        if place is not None and (folder := exposed(place)) is not None:
            raise BadConfiguration(
                f"{option_name} {place}: expected a place that code of a task cannot read, got one below {folder}, "
                "where installed packages are: move it, or start without --allow-code and --score"
            )


def _check_count(name: str, rows: int, least: int | None) -> None:
    """Warn about few rows, or reject them: their scores reveal the labels."""
    if least is not None and rows < least:
        raise BadData(f"--min-rows: expected at least {least} rows, got {rows}: add rows, or lower --min-rows")
    if least is None and rows < ROWS_FEW:
        log.warning(
            "trainer %s has %s rows: their labels can be computed from its scores; "
            "use more rows, or set --min-rows N to allow so few",
            name,
            rows,
        )
