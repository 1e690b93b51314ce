"""The command `fedmq new`: write a task file from tables."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from fedmq.cli.echo import echo
from fedmq.cli.options import FILE, UserText, check_name, log_options, one_thread_for_arrays
from fedmq.errors import BadConfiguration, BadTable
from fedmq.runtime.atomic_files import SHARED_FILE, write_whole, writing


@click.command()
@click.argument("name", callback=check_name)
@click.option(
    "--from",
    "sources",
    type=UserText(),
    multiple=True,
    required=True,
    metavar="DATA",
    help="A table, as for fedmq trainer --data; repeat it to unite the categories and labels of several.",
)
@click.option(
    "--target",
    metavar="COLUMN",
    help="The column to predict. [default: y, target, label, class, outcome, ..., else the last]",
)
@click.option("--out", type=FILE, metavar="FILE", help="Write this file. [default: NAME.toml]")
@click.option("--force", is_flag=True, help="Overwrite the file.")
@log_options
def new(name: str, sources: tuple[str, ...], target: str | None, out: Path | None, force: bool) -> None:
    """Write the task file NAME.toml from a table: the kind of each column, categories, labels.

    The file is a proposal with the reasons as comments; read and edit it. It is the same for all sites. No cell of the
    table is in it but labels and categories. Exit code 78 if the table does not fit the file yet.

    \b
    Examples:
      fedmq new tumor --from north.csv --target diagnosis
      fedmq new tumor --from north.csv --from south.csv --target diagnosis
    """
    one_thread_for_arrays()
    from fedmq.data.readers import read_table
    from fedmq.tables.encoding import encode_table
    from fedmq.tasks.proposal import propose
    from fedmq.tasks.table_task import SUFFIX, parse_task_file, task_of
    from fedmq.tasks.task_text import text_of

    path = out or Path(name + SUFFIX)
    if path.exists() and not force:
        raise BadConfiguration(f"{path}: expected no such file: it is not overwritten; choose another, or --force")
    tables = [read_table(source) for source in sources]
    for table in tables:
        table.check()
    proposal = propose(tables, target)
    text = text_of(proposal, name, [Path(source).name for source in sources])
    task = task_of(parse_task_file(text))
    with writing(str(path)):
        write_whole(path, text.encode(), mode=SHARED_FILE)
    for note in dict.fromkeys([*proposal.notes, *(note for table in tables for note in table.notes)]):
        echo(f"note: {note}")
    assert task.schema is not None
    ignored, inputs = len(task.schema.ignored), len(task.schema.columns)
    echo(f"{path}: target {task.schema.target.name} ({task.schema.target.kind}), {inputs} columns, {ignored} ignored")
    faults = []
    for table in tables:
        try:
            encode_table(task.schema, table)
        except BadTable as error:
            faults += [f"{table.source}: {fault}" for fault in error.faults]
    for fault in faults:
        echo(fault, err=True)
    if faults:
        raise SystemExit(BadConfiguration.exit_code)
    echo(f"Next: read {path}, then: {shlex.join(['fedmq', 'check', str(path), '--data', sources[0]])}")
