"""Hosts over SSH: a connection, a script that root runs on it, and one line for whatever goes wrong. The only module
that imports asyncssh; its exceptions never pass here.

Hosts, users, keys and jump hosts are what ~/.ssh/config and the agent say, as for ssh itself, and a host's key must be
known already: it is never accepted blindly. Knows nothing of what the scripts do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

import asyncssh

from fedmq.errors import FedmqError

CONNECT_S = 10.0  # until somebody is logged in
KEEPALIVE_S, KEEPALIVE_COUNT = 5.0, 3
LINE_MAX = 300
# Becomes root, or says in sudo's own words why not.
AS_ROOT = 'if [ "$(id -u)" = 0 ]; then exec sh -c {script}; else exec sudo -n sh -c {script}; fi'


class HostTrouble(FedmqError):
    """A host cannot be reached, or a script fails on it; the text is one line for people."""


class Output(NamedTuple):
    """What a script has printed."""

    text: str
    errors: str


class Conversation:
    """A script that is running: lines in and out."""

    def __init__(self, process: asyncssh.SSHClientProcess[str]) -> None:
        self._process = process

    def write(self, line: str) -> None:
        """Give it a line on its standard input, the only one."""
        self._process.stdin.write(line + "\n")
        self._process.stdin.write_eof()

    async def read_line(self) -> str:
        """Its next line; empty at its end."""
        return (await self._process.stdout.readline()).rstrip("\n")

    async def lines(self) -> AsyncIterator[str]:
        """Its lines as they come, to its end."""
        async for line in self._process.stdout:
            yield line.rstrip("\n")

    async def end(self) -> None:
        """Wait for its end.

        Raises:
            HostTrouble: it failed.
        """
        done = await self._process.wait(check=False)
        if done.exit_status != 0:
            raise HostTrouble(_why(done, _text(done.stderr), _text(done.stdout)))


class Host:
    """A connection to a host; see `connect`."""

    def __init__(self, name: str, connection: asyncssh.SSHClientConnection) -> None:
        self.name = name
        self._connection = connection

    async def run(self, script: str, reads: bytes = b"", timeout_s: float = 30.0) -> Output:
        """Run a shell script as root, with these bytes on its standard input.

        Raises:
            HostTrouble: it fails, or does not end in time.
        """
        with _told(self.name):
            async with _within(timeout_s, "an answer"):
                done = await self._connection.run(_as_root(script), input=reads, encoding=None, check=False)
        text, errors = _text(done.stdout), _text(done.stderr)
        if done.exit_status != 0:
            raise HostTrouble(_why(done, errors, text))
        return Output(text, errors)

    @asynccontextmanager
    async def converse(self, script: str, timeout_s: float | None) -> AsyncIterator[Conversation]:
        """Start a shell script as root, to talk with it; None: it may take for ever.

        Raises:
            HostTrouble: the connection breaks, or it does not end in time.
        """
        with _told(self.name):
            async with _within(timeout_s, "an end"), self._connection.create_process(_as_root(script)) as process:
                yield Conversation(process)


@asynccontextmanager
async def connect(name: str, config: Path | None, timeout_s: float = CONNECT_S) -> AsyncIterator[Host]:
    """A connection to a host as ssh knows it, `[USER@]HOST`; `config` stands in for ~/.ssh/config.

    Raises:
        HostTrouble: there is none within the time, or ssh's settings for it cannot be used.
    """
    user, _, host = name.rpartition("@")
    more: dict[str, Any] = {"username": user} if user else {}
    if config is not None:
        more["config"] = [str(config)]
    with _told(name):
        async with _within(timeout_s, "to be logged in"):
            known_hosts = await _known_hosts(host, more)
            try:
                connection = await asyncssh.connect(
                    host,
                    known_hosts=known_hosts,
                    keepalive_interval=KEEPALIVE_S,
                    keepalive_count_max=KEEPALIVE_COUNT,
                    login_timeout=timeout_s,
                    **more,
                )
            except ValueError as error:  # a UnicodeError: it is no name
                raise HostTrouble(f"expected a host's name or address, got {host} ({_short(str(error))})") from None
    try:
        yield Host(name, connection)
    finally:
        connection.abort()  # nothing is in flight, or nobody answers
        with suppress(TimeoutError, OSError, asyncssh.Error):
            async with asyncio.timeout(1.0):
                await connection.wait_closed()


async def _known_hosts(host: str, settings: dict[str, Any], seen: frozenset[str] = frozenset()) -> Any:
    """Whose keys are believed for this host, as its settings say; its jump hosts' settings are looked at as well.

    Raises:
        HostTrouble: anybody's are, or the settings cannot be used.
    """
    try:
        options = await asyncssh.SSHClientConnectionOptions.construct(host=host, **settings)
    except (ValueError, OSError) as error:
        what = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        raise HostTrouble(f"expected settings of ssh that can be used, got: {_short(what)}; mend them") from None
    if options.known_hosts is None:
        raise HostTrouble(f"expected a file of known host keys for {host}, got UserKnownHostsFile none; name one")
    jumps = options.tunnel.split(",") if isinstance(options.tunnel, str) else []
    own = {key: value for key, value in settings.items() if key == "config"}
    for jump in {jump.rpartition("@")[2].partition(":")[0] for jump in jumps}:
        if jump in seen:
            raise HostTrouble(f"expected a way to {jump}, got one that goes over itself; mend ssh's ProxyJump")
        await _known_hosts(jump, own, seen | {jump})
    return options.known_hosts


@asynccontextmanager
async def _within(timeout_s: float | None, what: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        raise HostTrouble(f"expected {what} within {timeout_s:g} s, got none; is it overloaded or cut off?") from None


class _told:  # noqa: N801 - reads as the statement that it is
    """Turns what asyncssh raises into one line."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None and (line := _line(self._name, error)) is not None:
            raise HostTrouble(line) from error


def _line(name: str, error: BaseException) -> str | None:
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        return (
            "expected the host's key in known_hosts, got none or another; compare its fingerprint, then "
            f"ssh {name} once (after ssh-keygen -R if it has a new one)"
        )
    if isinstance(error, asyncssh.PermissionDenied):
        return f"expected to be logged in with a key, got: {error.reason}; try ssh {name}"
    if isinstance(error, asyncssh.Error):
        return f"the connection broke: {_short(error.reason)}; try ssh {name}"
    if isinstance(error, OSError):
        return f"expected sshd to answer, got: {_short(error.strerror or str(error))}; try ssh {name}"
    return None


def _as_root(script: str) -> str:
    return AS_ROOT.format(script=quote(script))


def _text(output: object) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else str(output or "")


def _why(done: asyncssh.SSHCompletedProcess, *outputs: str) -> str:
    """Why a script has failed, in one line."""
    if done.exit_status is None and done.exit_signal is None:
        return "the connection broke; is it overloaded or cut off?"
    how = done.exit_signal[0] if done.exit_signal else f"exit code {done.exit_status}"
    return _last_line(*outputs) or f"ended with {how}, and no word why"


def _last_line(*outputs: object) -> str:
    """The last line that says something."""
    for output in outputs:
        lines = [line.strip() for line in _text(output).splitlines() if line.strip()]
        if lines:
            return _short(lines[-1].removeprefix("fedmq: "))
    return ""


def _short(text: str) -> str:
    return " ".join(text.split())[:LINE_MAX]
