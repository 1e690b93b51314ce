"""Settings of a command in a TOML file: read a file, list its faults, and write a template.

Everything comes from the command's own options.
"""

import difflib
import json
import re
import textwrap
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import click

from fedmq.cli.renamed import RenamedOption, key_of
from fedmq.errors import BadConfiguration

COLUMNS = 100


class Fault(NamedTuple):
    """A setting that cannot be used; `line` counts from 1."""

    line: int
    text: str


def config_key(param: click.Option) -> str:
    """Return the option's key in a file: `min_trainers` for `--min-trainers`."""
    return key_of(max(param.opts, key=len))


def settable_options(command: click.Command) -> dict[str, click.Option]:
    """Return the options that a file may set, by key: all that the environment may set, except --config."""
    options = (param for param in command.params if isinstance(param, click.Option) and param.envvar)
    return {key: option for option in options if (key := config_key(option)) != "config"}


def values_of(command: click.Command, text: str) -> tuple[dict[str, str | list[str]], list[Fault]]:
    """Return the values of a file by parameter name, and its faults.

    Values are text, as in the environment: click takes a number for a file descriptor, and fails at dates.
    """
    try:
        settings = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        place = re.search(r" \(at (?:line (\d+).*|end of document)\)", str(error))
        line = int(place[1]) if place and place[1] else max(1, len(text.rstrip().split("\n")))
        return {}, [Fault(line, f"expected TOML, got {str(error)[: place.start() if place else None]}")]
    known, wrong = settable_options(command), {}
    values: dict[str, str | list[str]] = {}
    for key, value in settings.items():
        if isinstance(option := known.get(key), RenamedOption):
            wrong[key] = option.fault_in_file
        elif option is None:
            visible = [name for name, one in known.items() if not one.hidden]
            wrong[key] = f"unknown setting {key!r}; {_suggestion(key, visible)}"
        elif (complaint := _complaint(command, option, value)) is not None:
            wrong[key] = f"{key}: {complaint}"
        else:
            values[str(option.name)] = _pairs(value) if option.multiple else _text(value)
    lines = _lines(text) if wrong else {}
    return values, sorted(Fault(lines[key], line) for key, line in wrong.items())


def template(command: click.Command, name: str) -> str:
    """Return a file for `fedmq NAME` that sets nothing: every setting with help and default, as comments."""
    heading = (
        f"# Settings of fedmq {name}: each key is a long option, with underscores. Remove the # before a setting to "
        "use it, and replace words in capitals by a value. The command line wins over the environment, and the "
        f"environment over this file. Check it with: fedmq config check {name} FILE"
    )
    blocks = [_wrapped(heading)]
    for key, option in settable_options(command).items():
        if not option.hidden:
            blocks.append(f"{_wrapped('# ' + _help(option))}\n# {key} = {_example(command, option)}")
    return "\n\n".join(blocks) + "\n"


def _suggestion(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key.lower().replace("-", "_"), known, 1)
    return f"did you mean {near[0]}?" if near else f"expected one of {', '.join(sorted(known))}"


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _pairs(table: dict[str, Any]) -> list[str]:
    """Return a table as the values of an option NAME=VALUE that may be given several times."""
    return [f"{name}={json.dumps(value, default=str)}" for name, value in table.items()]


def _complaint(command: click.Command, option: click.Option, value: Any) -> str | None:
    """Return the fault of a value for `option`, or None."""
    if option.multiple and not isinstance(value, dict):
        return f"expected a table, got {value!r:.80}: write {config_key(option)} = {{ NAME = VALUE }}"
    text = _pairs(value) if option.multiple else _text(value)
    if not option.multiple and (isinstance(value, dict | list) or "\0" in text):
        return f"expected one value, got {text!r:.80}: write {config_key(option)} = VALUE"
    if _is_text(option) and not isinstance(value, str) and not option.multiple:
        return f"expected text in quotes, got {text}: write {config_key(option)} = {json.dumps(text)}"
    with click.Context(command, resilient_parsing=False) as context:
        try:
            cast = option.type_cast_value(context, text)
            if option.callback is not None and option.expose_value:  # the other callbacks act instead of checking
                option.callback(context, option, cast if option.multiple else text)
        except click.BadParameter as error:
            return error.message
        except BadConfiguration as error:
            return str(error).removeprefix(f"{config_key(option)}: ")
    return None


def _is_text(option: click.Option) -> bool:
    return isinstance(option.type, click.types.StringParamType | click.Path | click.Choice)


def _lines(text: str) -> dict[str, int]:
    """Return the first line of each key of a TOML document, found by parsing every prefix of the document."""
    found: dict[str, int] = {}
    lines, start = text.split("\n"), 0
    for number, line in enumerate(lines, start=1):
        if not start and (not line.strip() or line.lstrip().startswith("#")):
            continue
        start = start or number
        try:
            keys = tomllib.loads("\n".join(lines[:number])).keys()
        except (tomllib.TOMLDecodeError, RecursionError):
            continue  # a value over several lines
        found |= dict.fromkeys(keys - found.keys(), start)
        start = 0
    return found


def _help(option: click.Option) -> str:
    """Return the help, and the default where the example cannot show it."""
    text = option.help or ""
    if isinstance(option.show_default, str):
        text += f" [default: {option.show_default}]"
    return text + " [required]" * option.required


def _example(command: click.Command, option: click.Option) -> str:
    """Return the default as TOML, or a placeholder."""
    if option.is_flag:
        return "false"
    default = option.get_default(click.Context(command), call=False)
    if isinstance(default, str | Path):
        return json.dumps(str(default))
    if isinstance(default, int | float):
        return str(default)
    if option.multiple:
        return "{ NAME = VALUE }"
    word = option.make_metavar(click.Context(command)).strip("[]")
    return json.dumps(word) if _is_text(option) else word


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, COLUMNS, subsequent_indent="# ", break_on_hyphens=False))
