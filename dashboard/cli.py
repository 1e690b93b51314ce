"""The command `fedmq dashboard`."""

import ipaddress
import os
import re
import secrets
import socket
from contextlib import closing
from pathlib import Path

import click

from fedmq.cli.echo import echo_if_read
from fedmq.cli.options import FOLDER, broker_option, check_name, one_thread_for_arrays, option, require, service_options
from fedmq.errors import BadConfiguration
from fedmq.runtime.atomic_files import write_whole
from fedmq.runtime.journal import is_journal
from fedmq.runtime.run_folder import RUNS

DEFAULT_PORT = 8550
STDOUT = 1
HOST_PATTERN = r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}"


def _check_hosts(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if value and not all(re.fullmatch(HOST_PATTERN, one) for one in value.split(",")):
        raise click.BadParameter(f"expected host names separated by commas, such as fl.example.org, got {value!r}")
    return value


@click.command()
@option("--runs", "folder", type=FOLDER, default=RUNS, metavar="DIR", help="Also show the runs in this folder.")
@option(
    "--host", default="127.0.0.1", metavar="HOST", help="Address to listen on; if not loopback, the URL has a token."
)
@option("--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, metavar="PORT", help="0: any free port.")
@option(
    "--allowed-hosts",
    callback=_check_hosts,
    default="",
    metavar="NAME,...",
    help="Other host names of the page, as behind a proxy; with a token.",
)
@option("--control", is_flag=True, help="Let the page control runs, with the aggregator's key and a token in the URL.")
@option(
    "--until-over",
    metavar="RUN",
    callback=check_name,
    help="End when RUN is over and its last page is closed, or a minute after RUN if no page was open.",
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
    """Serve a page that shows live and finished runs.

    It shows the runs at the broker and in a folder of runs, and slows no round. By default it listens on this
    machine only and changes nothing. With --keys it uses observer.key, or else the aggregator's key. It prints its
    URL; a token in the URL gives access to the page. To open it from another machine:
    ssh -L 8550:127.0.0.1:8550 HOST.

    \b
    Examples:
      fedmq dashboard
      fedmq dashboard --runs /srv/runs --port 9000
      fedmq dashboard --keys keys --control
      fedmq dashboard --allowed-hosts fl.example.org
    """
    one_thread_for_arrays()
    for module in ("starlette", "uvicorn"):
        require(module, "dashboard")
    from fedmq.dashboard.controls import Controls
    from fedmq.dashboard.live_runs import open_live_runs
    from fedmq.dashboard.run_catalog import RunCatalog
    from fedmq.dashboard.run_folders import RunFolders
    from fedmq.dashboard.server import DashboardServer
    from fedmq.runtime.clock import SystemClock
    from fedmq.runtime.loop import serve

    clock = SystemClock()
    listener = _listen(host, port)
    controls = Controls(broker, keys) if control else None
    live_runs, link, address = open_live_runs(broker, keys, clock=clock)
    catalog = RunCatalog(live_runs, RunFolders(folder, clock=clock), address=address, clock=clock)
    allowed = allowed_hosts.lower().split(",") if allowed_hosts else []
    is_loopback = ipaddress.ip_address(listener.getsockname()[0]).is_loopback
    token = "" if is_loopback and not control and not allowed else secrets.token_urlsafe(32)
    server = DashboardServer(
        catalog,
        listener,
        host=host,
        allowed=allowed,
        token=token,
        controls=controls,
        until_over=until_over,
        wake=link.wake,
    )
    with closing(catalog), closing(link), closing(server):
        server.start()
        serve(live_runs, link, clock, ready=lambda: _announce(server.url))
        server.check()


def _announce(url: str) -> None:
    """Print the URL. If it has a token and stdout is the journal, write it to a file instead and print the path."""
    shown, _, token = url.partition("?")
    if not token or not is_journal(STDOUT):
        echo_if_read(f"dashboard on {url}")
        return
    folder = os.environ.get("RUNTIME_DIRECTORY")
    if not folder:
        raise BadConfiguration("expected RuntimeDirectory= in the unit, for the URL with its token, got none: add it")
    write_whole(Path(folder) / "url", f"{url}\n".encode())
    echo_if_read(f"dashboard on {shown}; the URL with its token is in {folder}/url")


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=128)
    except OSError as error:
        why = str(error.strerror or error).partition(" (while")[0]  # `create_server` repeats the address
        raise BadConfiguration(f"--host {host} --port {port}: cannot listen there ({why}); choose another") from error
