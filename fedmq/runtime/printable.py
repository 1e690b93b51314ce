"""The one function that makes text of other machines, files and processes safe to print.

It is applied where text leaves this process, not where it arrives: in log lines (`observe.log_format`), in lines of
commands (`cli.echo`), in tables and screens (`observe.console`), and in plots (`dashboard.figures`).
"""


def printable(text: str) -> str:
    """Return `text` on one line: a space for each line break or other white space, `?` for each control character.

    The result has as many characters as `text`.
    """
    return "".join(one if one.isprintable() else " " if one.isspace() else "?" for one in text)
