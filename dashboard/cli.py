"""The command `fedmq dashboard`."""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
import socket
from pathlib import Path

import click

from fedmq.cli.options import broker_option, check_name, one_thread_for_arrays, option, service_options
from fedmq.errors import BadConfiguration
from fedmq.runtime.atomic_files import write_whole
from fedmq.runtime.journal import is_journal
from fedmq.runtime.run_folder import RUNS

DEFAULT_PORT = 8550
STDOUT = 1
HOST_PATTERN = r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}"


def _check_hosts(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if value and not all(re.fullmatch(HOST_PATTERN, one) for one in value.split(",")):
        raise click.BadParameter(f"expected names of hosts, such as fl.example.org, with commas between, got {value!r}")
    return value


@click.command()
@option(
    "--runs",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=RUNS,
    metavar="DIR",
    help="Show the runs in this folder, too.",
)
@option("--host", default="127.0.0.1", metavar="HOST", help="Address to listen on; beyond loopback with a token only.")
@option("--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, metavar="PORT", help="0: any that is free.")
@option(
    "--allowed-hosts",
    callback=_check_hosts,
    default="",
    metavar="NAME,...",
    help="Other names that the page is asked for by, as behind a proxy; with a token only.",
)
@option("--control", is_flag=True, help="Let the page pause and stop runs; with a token, and the aggregator's key.")
@option(
    "--until-over",
    metavar="RUN",
    callback=check_name,
    help="End once RUN is over and its last reader has gone, or a minute after it when nobody came.",
)
@broker_option
@service_options
def dashboard(
    folder: Path,
    host: str,
    port: int,
    allowed_hosts: str,
    control: bool,
    until_over: str | None,
    broker: str | None,
    keys: Path | None,
) -> None:
    """Serve a page on which runs are watched as they go on, and looked at when they are over.

    It shows what is told at the broker and what is in a folder of runs, and it slows no round. Without more it
    listens on this machine alone and changes nothing. With keys it takes observer.key, or else the aggregator's. The
    URL is printed; where it has a token, the token is the key to the page. To see it from elsewhere:
    ssh -L 8550:127.0.0.1:8550 HOST.

    \b
    Examples:
      fedmq dashboard
      fedmq dashboard --runs /srv/runs --port 9000
      fedmq dashboard --keys keys --control
      fedmq dashboard --allowed-hosts fl.example.org
    """
    one_thread_for_arrays()
    try:
        from fedmq.dashboard.server import Server
    except ModuleNotFoundError as error:
        raise BadConfiguration(
            f"fedmq dashboard needs {error.name}, which is not installed: pip install 'fedmq[dashboard]'"
        ) from error
    from fedmq.dashboard.controls import Controls
    from fedmq.dashboard.folders import Folders
    from fedmq.dashboard.live_runs import open_watching
    from fedmq.dashboard.run_catalog import RunCatalog
    from fedmq.runtime.clock import SystemClock
    from fedmq.runtime.loop import serve

    clock = SystemClock()
    listener = _listen(host, port)
    wide = not _is_loopback(listener)
    controls = Controls(broker, keys) if control else None
    watching, link, address = open_watching(broker, keys, clock=clock)
    gallery = RunCatalog(watching, Folders(folder, clock=clock), address=address, clock=clock)
    allowed = allowed_hosts.lower().split(",") if allowed_hosts else []
    token = secrets.token_urlsafe(32) if wide or control or allowed else ""
    server = Server(
        gallery,
        listener,
        host=host,
        allowed=allowed,
        token=token,
        controls=controls,
        until_over=until_over,
        wake=link.wake,
    )
    try:
        server.start()
        serve(gallery, link, clock, ready=lambda: _tell(server.url))
        server.check()
    finally:
        server.close()
        link.close()
        gallery.close()


def _tell(url: str) -> None:
    """Print the URL; where it has a token, and the output is the journal, only say where it is.

    Raises:
        BadConfiguration: there is no place for it.
    """
    shown, _, token = url.partition("?")
    if not token or not is_journal(STDOUT):
        click.echo(f"dashboard on {url}")
        return
    folder = os.environ.get("RUNTIME_DIRECTORY")
    if not folder:
        raise BadConfiguration("expected RuntimeDirectory= in the unit, for the URL with its token, got none: add it")
    write_whole(Path(folder) / "url", f"{url}\n".encode(), mode=0o600)
    click.echo(f"dashboard on {shown}; the URL with its token is in {folder}/url")


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        BadConfiguration: it cannot.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=128)
    except OSError as error:
        why = str(error.strerror or error).partition(" (while")[0]  # `create_server` says once more where it was
        raise BadConfiguration(f"--host {host} --port {port}: cannot listen there ({why}); choose another") from error


def _is_loopback(listener: socket.socket) -> bool:
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback
