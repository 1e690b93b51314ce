"""The functions that make text of other machines, files and processes safe to print.

They are applied where text leaves this process, not where it arrives: in logs (`observe.log_format` and
`observe.event_log`), in lines of commands (`cli.echo`), in tables and screens (`observe.console`), and in plots
(`dashboard.figures`).
"""


def printable(text: str) -> str:
    """Return `text` on one line: a space for each line break or other white space, `?` for each control character.

    The result has as many characters as `text`.
    """
    return "".join(one if one.isprintable() else " " if one.isspace() else "?" for one in text)


def printable_json(encoded: bytes) -> bytes:
    """Return a line of JSON with the same content, and escapes for characters that are not printable."""
    text = encoded.decode()
    if text.isprintable():
        return encoded
    return "".join(one if one.isprintable() else _escaped(one) for one in text).encode()


def _escaped(character: str) -> str:
    """Return the escape of JSON: the units of UTF-16, as RFC 8259 requires."""
    units = character.encode("utf-16-be").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))
