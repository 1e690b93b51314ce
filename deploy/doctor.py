"""The command `fedmq doctor`: makes every check that can be made here, and prints what each found.

Knows nothing of how a check is made.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedmq.cli.options import broker_option, one_thread_for_arrays, option
from fedmq.transport.address import DEFAULT_ADDRESS, parse_address

if TYPE_CHECKING:
    from fedmq.deploy.check_result import Finding

COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}


@click.command()
@option("--data", metavar="SPEC", help="Rows to read, as for fedmq trainer.")
@option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@broker_option
def doctor(data: str | None, as_json: bool, broker: str | None, keys: Path | None) -> None:
    """Look for what usually goes wrong, and say what to do about each.

    Checks this machine, the way to the broker, whether it lets us in, and the rows, if there are any. Nothing is
    changed. Exit code 0 when nothing is a problem, else 1.

    \b
    Examples:
      fedmq doctor
      fedmq doctor --broker tcp://hub.example.org:5550 --keys keys
      fedmq doctor --data rows.csv --json
    """
    one_thread_for_arrays()
    findings = examine(broker, keys, data)
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(findings).decode())
    for finding in () if as_json else findings:
        click.secho(f"{finding.state:<8}", fg=COLOURS[finding.state], nl=False)
        click.echo(f" {finding.check:<7} {finding.found}")
        if finding.advice:
            click.echo(f"{'':17}{finding.advice}")
    if any(finding.state == "problem" for finding in findings):
        raise SystemExit(1)


def examine(broker: str | None, keys: Path | None, data: str | None) -> list[Finding]:
    """What all the checks found; where the broker is comes from the command line, the keys, or the defaults."""
    from fedmq.deploy.local_checks import (
        check_clock,
        check_data,
        check_files_limit,
        check_folder,
        check_keys,
        check_libzmq,
        check_python,
    )
    from fedmq.deploy.network_checks import check_door, check_ports, check_way

    findings = [check_python(), check_libzmq(), check_files_limit(), check_clock()]
    findings.append(check_folder(Path(os.environ.get("STATE_DIRECTORY", "."))))
    credentials = None
    if keys is not None:
        finding, credentials = check_keys(keys)
        findings.append(finding)
    at = None if credentials is None else credentials.federation.broker
    address = broker or at or DEFAULT_ADDRESS
    way = check_way(address, wanted=bool(broker or at))
    findings.append(way)
    door = check_door(address, credentials) if way.state == "ok" and (keys is None or credentials is not None) else []
    findings += door
    talks = bool(door) and door[0].state == "ok"
    if not talks and (ports := check_ports(*parse_address(address))) is not None:
        findings.append(ports)
    if data is not None:
        findings.append(check_data(data))
    return findings
