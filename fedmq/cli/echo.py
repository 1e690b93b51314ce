"""Lines that commands print: text on stdout and stderr is printable, whatever it quotes."""

from __future__ import annotations

import click

from fedmq.runtime.printable import printable


def echo(line: object = "", *, err: bool = False) -> None:
    """Print one line; on stderr with `err`."""
    click.echo(printable(str(line)), err=err)


def echo_json(value: object) -> None:
    """Print a value as one line of JSON, with escapes for characters that are not printable."""
    import msgspec

    text = msgspec.json.encode(value).decode()
    click.echo("".join(one if one.isprintable() else _escaped(one) for one in text))


def _escaped(character: str) -> str:
    """Return the escape of JSON: the units of UTF-16, as RFC 8259 requires."""
    units = character.encode("utf-16-be").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))
