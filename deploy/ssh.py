"""Hosts over SSH: a connection, scripts that run as root, and one line for each error.

The only module that imports asyncssh; its exceptions do not leave this module. Hosts, users, keys and jump hosts come
from ~/.ssh/config and the agent, as for ssh itself. A host's key must be in known_hosts: it is never accepted blindly.

Every failure is a HostError.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from shlex import quote
from typing import Any

import asyncssh

from fedmq.errors import FedmqError

CONNECT_S = 10.0  # including the login
KEEPALIVE_S, KEEPALIVE_COUNT = 5.0, 3
LINE_MAX = 300
# Becomes root, or fails with sudo's own error.
AS_ROOT = 'if [ "$(id -u)" = 0 ]; then exec sh -c {script}; else exec sudo -n sh -c {script}; fi'


class HostError(FedmqError):
    """A host is unreachable, or a script failed on it; the text is one line."""


class RemoteProcess:
    """A running script with lines of input and output."""

    def __init__(self, process: asyncssh.SSHClientProcess[str]) -> None:
        self._process = process

    def write(self, line: str) -> None:
        """Write the only line of its standard input."""
        self._process.stdin.write(line + "\n")
        self._process.stdin.write_eof()

    async def read_line(self) -> str:
        """Return its next line, "" at the end."""
        return (await self._process.stdout.readline()).rstrip("\n")

    async def lines(self) -> AsyncIterator[str]:
        async for line in self._process.stdout:
            yield line.rstrip("\n")

    async def end(self) -> None:
        """Wait for its end."""
        _output(await self._process.wait(check=False))


class Host:
    """A connection to a host; see `connect`."""

    def __init__(self, name: str, connection: asyncssh.SSHClientConnection) -> None:
        self.name = name
        self._connection = connection

    async def run(self, script: str, reads: bytes = b"", timeout_s: float = 30.0) -> str:
        """Run a shell script as root, with these bytes on its standard input; return its output."""
        with _translated(self.name):
            async with _within(timeout_s, "an answer"):
                done = await self._connection.run(_as_root(script), input=reads, encoding=None, check=False)
        return _output(done)

    @asynccontextmanager
    async def start(self, script: str, timeout_s: float | None) -> AsyncIterator[RemoteProcess]:
        """Start a shell script as root and exchange lines with it; a `timeout_s` of None sets no limit."""
        with _translated(self.name):
            async with _within(timeout_s, "an end"), self._connection.create_process(_as_root(script)) as process:
                yield RemoteProcess(process)


@asynccontextmanager
async def connect(name: str, config: Path | None, timeout_s: float = CONNECT_S) -> AsyncIterator[Host]:
    """Connect to `[USER@]HOST` as ssh does; `config` replaces ~/.ssh/config."""
    user, _, host = name.rpartition("@")
    more: dict[str, Any] = {"username": user} if user else {}
    if config is not None:
        more["config"] = [str(config)]
    with _translated(name):
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
            except ValueError as error:  # a UnicodeError: no host name
                raise HostError(f"expected a host's name or address, got {host} ({_short(str(error))})") from None
    try:
        yield Host(name, connection)
    finally:
        connection.abort()  # nothing is in flight, or the host does not answer
        with suppress(TimeoutError, OSError, asyncssh.Error):
            async with asyncio.timeout(1.0):
                await connection.wait_closed()


async def _known_hosts(host: str, settings: dict[str, Any], seen: frozenset[str] = frozenset()) -> Any:
    """Return the known host keys of this host from its settings; check its jump hosts' settings, too."""
    try:
        options = await asyncssh.SSHClientConnectionOptions.construct(host=host, **settings)
    except (ValueError, OSError) as error:
        what = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        raise HostError(f"expected valid ssh settings, got: {_short(what)}; fix them") from None
    if options.known_hosts is None:
        raise HostError(f"expected a file of known host keys for {host}, got UserKnownHostsFile none; name a file")
    jumps = options.tunnel.split(",") if isinstance(options.tunnel, str) else []
    own = {key: value for key, value in settings.items() if key == "config"}
    for jump in {jump.rpartition("@")[2].partition(":")[0] for jump in jumps}:
        if jump in seen:
            raise HostError(f"expected a way to {jump}, got a loop; fix ProxyJump in ssh's settings")
        await _known_hosts(jump, own, seen | {jump})
    return options.known_hosts


@asynccontextmanager
async def _within(timeout_s: float | None, what: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        raise HostError(
            f"expected {what} within {timeout_s:g} s, got none; check that the host is not overloaded or disconnected"
        ) from None


@contextmanager
def _translated(name: str) -> Iterator[None]:
    """Translate exceptions of asyncssh and of sockets into HostError."""
    try:
        yield
    except (asyncssh.Error, OSError) as error:
        raise HostError(_line(name, error)) from error


def _line(name: str, error: asyncssh.Error | OSError) -> str:
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        return (
            "expected the host's key in known_hosts, got none or another; compare its fingerprint, then "
            f"ssh {name} once (after ssh-keygen -R if it has a new one)"
        )
    if isinstance(error, asyncssh.PermissionDenied):
        return f"expected to be logged in with a key, got: {error.reason}; try ssh {name}"
    if isinstance(error, asyncssh.Error):
        return f"the connection broke: {_short(error.reason)}; try ssh {name}"
    return f"expected sshd to answer, got: {_short(error.strerror or str(error))}; try ssh {name}"


def _as_root(script: str) -> str:
    return AS_ROOT.format(script=quote(script))


def _text(output: object) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else str(output or "")


def _output(done: asyncssh.SSHCompletedProcess) -> str:
    """Return the output of a script; raise its last line, of its errors or else of its output, if it failed."""
    if done.exit_status == 0:
        return _text(done.stdout)
    if done.exit_status is None and done.exit_signal is None:
        raise HostError("the connection broke; check that the host is not overloaded or disconnected")
    for output in (done.stderr, done.stdout):
        if text := _text(output).strip():
            raise HostError(_short(text.splitlines()[-1].strip().removeprefix("fedmq: ")))
    how = done.exit_signal[0] if done.exit_signal else f"exit code {done.exit_status}"
    raise HostError(f"ended with {how} and printed no reason")


def _short(text: str) -> str:
    return " ".join(text.split())[:LINE_MAX]
