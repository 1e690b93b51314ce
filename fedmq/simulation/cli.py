"""The command `fedmq simulate`."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedmq.aggregator.cli import (
    algorithm_options,
    buffer_option,
    holdout_option,
    new_name,
    print_report,
    privacy_options,
    sample_option,
)
from fedmq.cli.echo import echo, echo_if_read, echo_json, unread_output_dropped
from fedmq.cli.options import (
    COUNT,
    NAME_OR_PATH,
    SECONDS,
    FiniteRange,
    UserPath,
    UserText,
    one_thread_for_arrays,
    option,
    service_options,
)
from fedmq.runtime.run_folder import RUNS

if TYPE_CHECKING:
    from fedmq.observe.events import AnyEvent

SPLIT_FORMS = "blocks, iid, shards:K, classes:K, dirichlet:A, size:A, sorted:COLUMN, column:COLUMN"
SHARE = FiniteRange(0, 1)
SWEEP_TABLE, SWEEP_CHART = "sweep.csv", "sweep.html"
SPLIT_PAGE = "split.html"


@click.command()
@click.argument("task_name", metavar="[TASK]", type=NAME_OR_PATH, required=False)
@click.option(
    "--data",
    "sources",
    type=UserText(),
    multiple=True,
    metavar="DATA",
    help="Rows to split, as for fedmq trainer --data, or a data set: digits, iris, wine, breast_cancer, diabetes. "
    "Repeat it for the rows of each trainer. [default: the task's own rows]",
)
@option(
    "--trainers",
    type=COUNT,
    metavar="N",
    help="Number of virtual trainers. [default: the task's; with --secure at least 3]",
)
@option("--split", default="blocks", metavar="HOW", help=f"Who has which rows: {SPLIT_FORMS}.")
@algorithm_options
@holdout_option
@privacy_options
@option("--rounds", type=COUNT, metavar="N", help="The most rounds. [default: the task's]")
@option(
    "--seed",
    type=click.IntRange(0, 2**53),
    metavar="S",
    help="Seed of all random draws. [default: drawn, and printed]",
)
@option("--quorum", type=SHARE, metavar="SHARE", help="As for fedmq aggregator. [default: 0.5]")
@sample_option
@buffer_option
@option("--deadline-s", type=SECONDS, metavar="SECONDS", help="As for fedmq aggregator, in virtual time.")
@option("--keep-rounds", type=COUNT, metavar="N", help="As for fedmq aggregator. [default: of all]")
@option(
    "--work-s",
    default="0.01",
    metavar="TIME",
    help="Virtual time of an answer: SECONDS, uniform:LOW:HIGH, exponential:MEAN or lognormal:MEDIAN:SIGMA.",
)
@option("--stragglers", type=SHARE, default=0.0, metavar="SHARE", help="Share of trainers that are slow.")
@option("--slowdown", type=FiniteRange(1, 1e6), default=10.0, metavar="X", help="How many times as slow they are.")
@option(
    "--dropout", type=SHARE, default=0.0, metavar="SHARE", help="Share of a round's answers that miss its deadline."
)
@option("--online-s", metavar="TIME", help="How long a trainer stays connected. [default: to the end]")
@option("--offline-s", default="10", metavar="TIME", help="How long it is gone after that.")
@option("--learner", metavar="FILE.py:NAME", help="As for fedmq trainer: own code that trains and scores.")
@option("--secure", is_flag=True, help="As for fedmq aggregator, with keys that are made for the simulation.")
@option("--processes", type=click.IntRange(1, 256), default=1, metavar="N", help="Processes that train.")
@option(
    "--engine",
    type=click.Choice(["local", "dask"]),
    default="local",
    help="Where they run: on this machine, or on a cluster of Dask that is running.",
)
@option("--scheduler", metavar="ADDRESS", help="Address of the scheduler of the cluster, such as tcp://10.0.0.5:8786.")
@option(
    "--sweep",
    "swept",
    multiple=True,
    metavar="NAME=V1,V2",
    help="Train once with each of these values, of a parameter of the algorithm, or of algorithm, split, trainers, "
    "rounds, holdout, dropout, stragglers, sample or epsilon; repeat it for all combinations.",
)
@option("--seeds", type=COUNT, default=5, metavar="N", help="With --sweep: so many seeds each, from --seed on.")
@option("--plot", is_flag=True, help="Write who has which rows to split.html in the run's folder.")
@option("--out", type=UserPath(path_type=Path), metavar="DIR", help="The run's folder. [default: runs/<run>]")
@option("--quiet", is_flag=True, help="Print errors only.")
@option("--json", "as_json", is_flag=True, help="Print the report as JSON at the end, and nothing else.")
@service_options
def simulate(
    task_name: str | None,
    sources: tuple[str, ...],
    trainers: int | None,
    split: str,
    algorithm: str | None,
    parameters: dict[str, Any],
    holdout: float | None,
    epsilon: float | None,
    delta: float | None,
    rounds: int | None,
    seed: int | None,
    work_s: str,
    stragglers: float,
    slowdown: float,
    dropout: float,
    online_s: str | None,
    offline_s: str,
    learner: str | None,
    secure: bool,
    processes: int,
    engine: str,
    scheduler: str | None,
    swept: tuple[str, ...],
    seeds: int,
    plot: bool,
    out: Path | None,
    quiet: bool,
    as_json: bool,
    **limits: Any,
) -> None:
    """Train over virtual trainers in one process, on virtual time.

    The same task, rows, names, settings and seed give the model of services on many machines, to the bit. Waiting takes
    no time: an hour of stragglers passes in seconds. TASK is what fedmq demo takes, or a data set of scikit-learn. The
    run's folder is that of a real run: fedmq report, fedmq runs and the page show it.

    \b
    Examples:
      fedmq simulate digits --algorithm evolution --trainers 10 --split classes:2
      fedmq simulate xor --seed 1
      fedmq simulate tumor.toml --data tumor.csv --trainers 100 --split dirichlet:0.3
      fedmq simulate linear --algorithm averaging --trainers 1000 --dropout 0.3 --work-s lognormal:5:1
      fedmq simulate FILE.py --trainers 100 --processes 4
      fedmq simulate iris --algorithm evolution --rounds 20 --sweep population=50,100 --sweep split=iid,classes:1
    """
    one_thread_for_arrays()
    from fedmq.simulation.scenario import scenario
    from fedmq.simulation.simulate import behavior_of, run_scenario

    if (engine == "dask") is not (scheduler is not None):
        raise click.UsageError("expected --engine dask and --scheduler together: give both or none")
    seed = secrets.randbelow(2**31) if seed is None else seed
    data: object = None if not sources else sources[0] if len(sources) == 1 else list(sources)
    if swept and plot:
        raise click.UsageError("--plot: expected it without --sweep, which draws its own chart: leave it out")
    if swept:
        arguments = {
            "algorithm": algorithm,
            "parameters": parameters,
            "trainers": trainers,
            "split": split,
            "rounds": rounds,
            "holdout": holdout,
            "work_s": work_s,
            "stragglers": stragglers,
            "slowdown": slowdown,
            "dropout": dropout,
            "online_s": online_s,
            "offline_s": offline_s,
            "learner": learner,
            "secure": secure,
            "scheduler": scheduler,
            "epsilon": epsilon,
            "delta": delta,
            **limits,
        }
        _sweep(task_name, data, swept, seeds, seed, out, processes, arguments, quiet=quiet or as_json)
        return
    found = scenario(
        task_name,
        data,
        algorithm=algorithm,
        trainers=trainers,
        split=split,
        seed=seed,
        holdout=holdout,
        bounded=epsilon is not None,
        secure=secure,
    )
    name = new_name(found.task.name)
    folder = out or RUNS / name
    if not (quiet or as_json):
        echo(f"run {name}: task {found.task.name}, {len(found.data)} virtual trainers, seed {seed}")
    with _progress(found.task.metric, rounds or found.task.rounds, quiet=quiet or as_json) as on_events:
        run = run_scenario(
            found,
            algorithm=algorithm,
            parameters=parameters,
            rounds=rounds,
            seed=seed,
            out=folder,
            name=name,
            behavior=behavior_of(work_s, stragglers, slowdown, dropout, online_s, offline_s),
            learner=learner,
            processes=processes,
            scheduler=scheduler,
            secure=secure,
            limits=limits,
            epsilon=epsilon,
            delta=delta,
            on_events=on_events,
        )
    if plot:
        run.plot_split().save(folder / SPLIT_PAGE)
    with unread_output_dropped():
        if as_json:
            echo_json(run.report)
        elif not quiet:
            print_report(run.report, folder, run.findings)
            if (fair := run.fairness) is not None:
                worse = "above" if fair.figure == "rmse" else "below"
                echo(f"fairness {fair.figure}: median {fair.median:.4g}, a tenth of trainers {worse} {fair.tenth:.4g}")


@contextmanager
def _progress(metric: str, rounds: int, *, quiet: bool) -> Iterator[Callable[[Sequence[AnyEvent]], None]]:
    """Show a bar on a terminal, else one line for each closed round."""
    import sys

    from fedmq.observe.event_text import event_line
    from fedmq.observe.events import RoundClosed
    from fedmq.simulation.progress import progress_bar

    def lines(happened: Sequence[AnyEvent]) -> None:
        for event in happened:
            if isinstance(event, RoundClosed) and (line := event_line(event, metric)) is not None:
                echo_if_read(line)

    if quiet or sys.stdout.isatty():
        with progress_bar(rounds, metric, show=not quiet) as update:
            yield update
    else:
        yield lines


def _sweep(
    task_name: str | None,
    data: object,
    swept: Sequence[str],
    seeds: int,
    seed: int,
    out: Path | None,
    processes: int,
    arguments: Mapping[str, Any],
    *,
    quiet: bool,
) -> None:
    """Run a sweep, write its table and its chart, and print the table."""
    from fedmq.algorithms.parameters import parse_parameters
    from fedmq.runtime.atomic_files import SHARED_FILE, write_whole, writing
    from fedmq.runtime.safe_files import make_private_folder
    from fedmq.simulation.sweep import SweptRun, sweep, text_of_settings

    over: dict[str, list[Any]] = {}
    for text in swept:
        name, _, values = text.partition("=")
        parsed = [parse_parameters((f"{name}={value}",))[name] for value in values.split(",") if value]
        over[name] = [*over.get(name, ()), *parsed]

    def show(one: SweptRun) -> None:
        if not quiet:
            echo_if_read(f"{text_of_settings(one.settings)} seed={one.seed}: {one.value:.6g}")

    found = sweep(task_name, data, over=over, seeds=seeds, seed=seed, processes=processes, on_run=show, **arguments)
    folder = out or RUNS / new_name("sweep")
    with writing(f"--out {folder}"):
        make_private_folder(folder)
        write_whole(folder / SWEEP_TABLE, found.csv().encode(), mode=SHARED_FILE)
    found.plot().save(folder / SWEEP_CHART)
    if quiet:
        return
    with unread_output_dropped():
        echo(f"{found.metric}, mean and interval of 95 % over {seeds} seeds:")
        for settings, one in found.intervals().items():
            echo(f"  {text_of_settings(settings):<40} {one.mean:.4g} ± {one.half:.2g}")
        echo(f"table    {folder / SWEEP_TABLE}")
        echo(f"chart    {folder / SWEEP_CHART}")
