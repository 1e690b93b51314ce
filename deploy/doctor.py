"""The command `fedmq doctor`: run all checks that apply here, and print the result of each."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedmq.cli.echo import echo, echo_json
from fedmq.cli.options import NAME_OR_PATH, broker_option, one_thread_for_arrays, option
from fedmq.transport.address import DEFAULT_ADDRESS, parse_address

if TYPE_CHECKING:
    from fedmq.deploy.local_checks import CheckResult

COLORS = {"ok": "green", "warning": "yellow", "problem": "red"}


@click.command()
@option("--data", type=NAME_OR_PATH, metavar="SPEC", help="Rows to read, as for fedmq trainer.")
@option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@broker_option
def doctor(data: str | None, as_json: bool, broker: str | None, keys: Path | None) -> None:
    """Check this machine and the connection to the broker, and advise on each problem.

    Checks Python, libzmq, limits and folders; then the network, access to the broker, and the rows of --data. Nothing
    is changed. Exit code 0 if there is no problem, else 1.

    \b
    Examples:
      fedmq doctor
      fedmq doctor --broker tcp://hub.example.org:5550 --keys keys
      fedmq doctor --data rows.csv --json
    """
    one_thread_for_arrays()
    results = run_checks(broker, keys, data)
    if as_json:
        echo_json(results)
    for result in () if as_json else results:
        click.secho(f"{result.state:<8}", fg=COLORS[result.state], nl=False)
        echo(f" {result.check:<7} {result.found}")
        if result.advice:
            echo(f"{'':17}{result.advice}")
    if any(result.state == "problem" for result in results):
        raise SystemExit(1)


def run_checks(broker: str | None, keys: Path | None, data: str | None) -> list[CheckResult]:
    """Run all checks; the broker's address comes from the command line, the keys, or the default."""
    from fedmq.deploy import local_checks as local
    from fedmq.deploy.network_checks import check_access, check_ports, check_reachable

    results = [local.check_python(), local.check_libzmq(), local.check_files_limit(), local.check_clock()]
    results.append(local.check_folder(Path(os.environ.get("STATE_DIRECTORY", "."))))
    credentials = None
    if keys is not None:
        result, credentials = local.check_keys(keys)
        results.append(result)
    at = None if credentials is None else credentials.federation.broker
    address = broker or at or DEFAULT_ADDRESS
    network = check_reachable(address, wanted=bool(broker or at))
    results.append(network)
    can_connect = network.state == "ok" and (keys is None or credentials is not None)
    access = check_access(address, credentials) if can_connect else []
    results += access
    connected = bool(access) and access[0].state == "ok"
    if not connected and (ports := check_ports(*parse_address(address))) is not None:
        results.append(ports)
    if data is not None:
        results.append(local.check_data(data))
    return results
