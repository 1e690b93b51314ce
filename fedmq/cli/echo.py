"""Lines that commands print: text on stdout and stderr is printable, whatever it quotes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import click

from fedmq.runtime.printable import printable, printable_json

STDOUT = 1


def echo(line: object = "", *, err: bool = False) -> None:
    """Print one line; on stderr with `err`."""
    click.echo(printable(str(line)), err=err)


def echo_if_read(line: object) -> None:
    """Print one line of a service; without a reader, drop it and all later output."""
    with unread_output_dropped():
        echo(line)


@contextmanager
def unread_output_dropped() -> Iterator[None]:
    """Let a service go on whose output has no reader any more, as after `| head -1`: drop the rest of the output."""
    try:
        yield
    except BrokenPipeError:
        drop_output()


def drop_output() -> None:
    """Write stdout to nowhere from now on, with what is still buffered."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STDOUT)
    os.close(nowhere)


def echo_json(value: object) -> None:
    """Print a value as one line of JSON, with escapes for characters that are not printable."""
    import msgspec

    click.echo(printable_json(msgspec.json.encode(value)).decode())
