"""The command `fedmq forget`: the model of a run without the rows of one trainer."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedmq.cli.echo import echo
from fedmq.cli.options import FILE, one_thread_for_arrays, option
from fedmq.errors import BadConfiguration
from fedmq.runtime.atomic_files import write_whole, writing
from fedmq.runtime.run_folder import folder_of

if TYPE_CHECKING:
    from fedmq.models.trained_model import TrainedModel
    from fedmq.runs.replay import Replayed

FORGETS = "ridge"


@click.command()
@click.argument("run")
@click.argument("trainer")
@option("-o", "--output", type=FILE, metavar="FILE", help="[default: model-without-TRAINER.npz in the run's folder]")
def forget(run: str, trainer: str, output: Path | None) -> None:
    """Write the model of RUN (a folder, or a name below runs) without the rows of TRAINER.

    The run is one of ridge: the sums of the trainer, which are in the run's store, are subtracted from those of all. So
    no other trainer is asked, and the model is that of a run without TRAINER. The run's own files stay as they are.

    \b
    Examples:
      fedmq forget runs/tumor north -o model.npz
    """
    one_thread_for_arrays()
    folder = folder_of(run)
    model, notes = model_without(folder, trainer)
    content = model.to_bytes()
    target = output or folder / f"model-without-{trainer}.npz"
    with writing(target, "choose another -o"):
        write_whole(target, content)
    for note in notes:
        echo(f"fedmq forget: {note}", err=True)
    echo(f"{target}  (sha256 {hashlib.sha256(content).hexdigest()[:16]}…)")


def model_without(folder: Path, trainer: str) -> tuple[TrainedModel, list[str]]:
    """Return the model without the rows of a trainer, and what is not exactly that of a run without it.

    Raises:
        BadConfiguration: the folder holds no run of `ridge`, or its model has no rows of the trainer.
        StoreError: its store is damaged.
    """
    from fedmq.algorithms.registry import find_algorithm
    from fedmq.algorithms.ridge.query import Gram
    from fedmq.models.fourier import Fourier
    from fedmq.protocol.codec import decode
    from fedmq.runs.maintenance import open_store
    from fedmq.runs.records import StoredResult
    from fedmq.runs.replay import replay

    store, config = open_store(folder)
    with store:
        if config.algorithm != FORGETS:
            raise BadConfiguration(
                f"forget: expected a run of {FORGETS}, whose sums can be subtracted, got one of {config.algorithm}: "
                f"train again without {trainer}"
            )
        if config.secure:
            raise BadConfiguration(
                "forget: expected a run whose store has the sums of each trainer, got a secure one, which has totals "
                f"only: train again without {trainer}"
            )
        if config.privacy is not None:
            raise BadConfiguration(
                f"forget: expected a run without noise, got one with --epsilon: train again without {trainer}"
            )
        strategy: Any = find_algorithm(config.algorithm, config.task, config.parameters, config.privacy)
        answers: list[Any] = []  # of the trainer to the newest question about products

        def watch(replayed: Replayed) -> None:
            if isinstance(strategy.ask(replayed.state).query, Gram):
                results = (one for one in store.results(replayed.round) if isinstance(one, StoredResult))
                own = [one for one in results if (one.trainer, one.round) == (trainer, replayed.round)]
                answers[:] = [decode(one.frames).arrays for one in own]

        replayed = replay(store, config.task, strategy, config.seed, from_start=True, watch=watch)
    if trainer not in replayed.trainers:
        names = ", ".join(sorted(replayed.trainers)) or "none"
        raise BadConfiguration(f"forget: expected a trainer of this run ({names}), got {trainer}: correct the name")
    if not answers:
        raise BadConfiguration(
            f"forget: expected sums of {trainer} in the model, got none in the store: its rows are not in "
            "the model, or fedmq runs gc has dropped its round; then train again without it"
        )
    notes = []
    if isinstance(config.task.model, Fourier):
        notes.append("the Fourier features and the standardization of inputs are still those of all trainers")
    known, schema = strategy.survey(replayed.state), config.task.schema
    columns = () if known is None or schema is None else zip(schema.columns, known.missing, strict=False)
    if any(missing and column.kind != "category" for column, missing in columns):
        notes.append("gaps are still filled in with the medians or means of all trainers")
    return strategy.forget(replayed.state, answers[-1]), notes
