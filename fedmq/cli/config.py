"""The command `fedmq config`: write a file of settings for a service, or check one."""

from pathlib import Path

import click

from fedmq.cli.echo import echo
from fedmq.cli.options import FILE, UserPath, read_text
from fedmq.cli.settings import template, values_of
from fedmq.errors import BadConfiguration
from fedmq.runtime.atomic_files import SHARED_FILE, write_whole, writing

SERVICES = ("broker", "aggregator", "trainer", "dashboard")
service_argument = click.argument("service", type=click.Choice(SERVICES))


@click.group()
def config() -> None:
    """Write a file of settings for a service, or check one."""


@config.command()
@service_argument
@click.option("--out", type=FILE, metavar="FILE", help="Write to this file. [default: stdout]")
def init(service: str, out: Path | None) -> None:
    """Print every setting of SERVICE with its help and its default, as a TOML file for --config.

    \b
    Examples:
      fedmq config init aggregator
      fedmq config init trainer --out trainer.toml
    """
    text = template(_command(service), service)
    if out is None:
        for line in text.splitlines():
            echo(line)
        return
    if out.exists():
        raise BadConfiguration(f"--out {out}: expected no such file: files are not overwritten; choose another")
    with writing(f"--out {out}"):
        write_whole(out, text.encode(), mode=SHARED_FILE)
    echo(f"{out}: edit it, then: fedmq config check {service} {out}")


@config.command()
@service_argument
@click.argument("file", type=UserPath(path_type=Path))
def check(service: str, file: Path) -> None:
    """List the faults of FILE as a --config of SERVICE, with lines; exit code 78 if there are any.

    \b
    Examples:
      fedmq config check trainer /etc/fedmq/trainer-north.toml
    """
    values, faults = values_of(_command(service), read_text(file))
    for fault in faults:
        echo(f"{file}, line {fault.line}: {fault.text}", err=True)
    if faults:
        raise SystemExit(BadConfiguration.exit_code)
    echo(f"{file}: {len(values)} settings, all valid for fedmq {service}")


def _command(service: str) -> click.Command:
    root = click.get_current_context().find_root()
    assert isinstance(root.command, click.Group)
    command = root.command.get_command(root, service)
    assert command is not None
    return command
