"""The configuration as a target: TOML files, environments and arguments for every command, parsed by click.

The commands and their options are taken from the program itself; nothing is started.
"""

from __future__ import annotations

import json
import os
from random import Random
from typing import Any

import click
import msgspec
from mutation import EDGES, FLOATS, TEXTS, changed

from fedmq.cli.main import fedmq
from fedmq.errors import BadConfiguration

NAME = "configuration"
ADDRESSES = ("tcp://127.0.0.1:5550", "tcp://[::1]:1", "tcp://:0", "tcp://a:99999", "ipc://x", "")
LINES = ("[a]", "a = [1, 2]", "x = 1979-05-27", 'quote = """', "= 1", "\ufeff", "# \u0000", "a.b.c = 1", "config = 'x'")


class Input(msgspec.Struct):
    """The inputs of one call of the program."""

    command: list[str]
    toml: bytes
    environment: dict[str, str]
    arguments: list[str]


def _commands(group: click.Group, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], click.Command]:
    """Return every command by its path."""
    found: dict[tuple[str, ...], click.Command] = {}
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        if isinstance(command, click.Group):
            found |= _commands(command, (*path, name))
        elif any(isinstance(one, click.Option) for one in command.params):
            found[(*path, name)] = command
    return found


class Configuration:
    """Draw inputs and parse them with click; an input is a msgpack `Input`."""

    def __init__(self) -> None:
        self._commands = _commands(fedmq)
        self._file = os.memfd_create("fedmq.toml")  # a file in memory: there are a million inputs
        self._path = f"/proc/self/fd/{self._file}"

    def draw(self, draws: Random) -> bytes:
        """Draw a command with settings from a file, the environment and its arguments."""
        path = draws.choice(list(self._commands))
        options = [one for one in self._commands[path].params if isinstance(one, click.Option)]
        lines = [self._line(draws.choice(options), draws) for _ in range(draws.choice((0, 1, 1, 2, 5)))]
        toml = "\n".join(lines).encode(errors="replace")
        if draws.random() < 0.4:
            toml = changed(toml, draws, [line.encode() for line in LINES])
        environment = {}
        if draws.random() < 0.4:
            variable = draws.choice(options).envvar
            environment[str(variable or "FEDMQ_DEBUG")] = self._text(draws).replace("\0", "")
        arguments = self._required(self._commands[path], draws)
        if draws.random() < 0.4:
            arguments.append(f"{max(draws.choice(options).opts, key=len)}={self._text(draws)}")
        if draws.random() < 0.1:
            arguments.append(self._text(draws))
        return msgspec.msgpack.encode(Input(list(path), toml, environment, arguments))

    def take(self, blob: bytes) -> str:
        """Parse an input; return `read`, or the class of the error that ends the program with a message."""
        given = msgspec.msgpack.decode(blob, type=Input)
        command = self._commands[tuple(given.command)]
        has_file = any("--config" in one.opts for one in command.params)
        os.truncate(self._file, 0)
        os.pwrite(self._file, given.toml, 0)
        arguments = [*(["--config", self._path] if has_file else []), *given.arguments]
        before = {name: os.environ[name] for name in given.environment if name in os.environ}
        os.environ.update(given.environment)
        try:
            with command.make_context(given.command[-1], arguments) as context:
                return "read" if isinstance(context.params, dict) else "nothing"
        except (click.ClickException, BadConfiguration) as error:
            return type(error).__name__
        except click.exceptions.Exit:  # --help
            return "help"
        finally:
            for name in given.environment:
                os.environ.pop(name)
            os.environ.update(before)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    @staticmethod
    def _required(command: click.Command, draws: Random) -> list[str]:
        """Return the required options of a command, most of the time."""
        found = []
        for one in command.params:
            if one.required and draws.random() < 0.9:
                found += ["runs"] if isinstance(one, click.Argument) else [max(one.opts, key=len), "xor:1/2"]
        return found

    def _line(self, option: click.Option, draws: Random) -> str:
        if draws.random() < 0.1:
            return draws.choice(LINES)
        key = max(option.opts, key=len).removeprefix("--").replace("-", "_")
        return f"{draws.choice((key, key, key, key.upper(), draws.choice(TEXTS) or 'a'))} = {self._value(draws)}"

    def _value(self, draws: Random) -> str:
        kind: Any = draws.randrange(6)
        if kind == 0:
            return str(draws.choice(EDGES))
        if kind == 1:
            return str(draws.choice(FLOATS))
        if kind == 2:
            return draws.choice(("true", "false", "[]", "{}", "[[1]]", "07:32:00", "1e400", "0x_1", "''"))
        text = draws.choice((self._text(draws), self._text(draws), "a\0b", "a\nb", "\x1b[31m"))
        return draws.choice((json.dumps(text), "'" + text.replace("'", "") + "'"))

    @staticmethod
    def _text(draws: Random) -> str:
        text = draws.choice((*TEXTS, *ADDRESSES, str(draws.choice(EDGES)), str(draws.choice(FLOATS)), "debug", "true"))
        return text.replace("\0", "") or "a"
