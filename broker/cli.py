"""The command `fedmq broker`."""

from pathlib import Path

import click

from fedmq.cli.echo import echo_if_read
from fedmq.cli.options import keys_option, metrics_option, option, optional_metrics, service_options
from fedmq.transport.address import DEFAULT_PORT, PORTS, parse_address


def _check_bind(_ctx: click.Context, _param: click.Parameter, host: str | None) -> str | None:
    """Check the host of a broker's address."""
    if host is not None:
        parse_address(f"tcp://{host}:{DEFAULT_PORT}")
    return host


@click.command()
@option(
    "--bind",
    metavar="HOST",
    callback=_check_bind,
    help="Address to listen on; only loopback without keys. [default: 127.0.0.1; with keys the federation's]",
)
@option(
    "--port",
    type=click.IntRange(1, 65536 - PORTS),
    metavar="PORT",
    help=f"First of {PORTS} consecutive ports. [default: {DEFAULT_PORT}; with keys the federation's]",
)
@keys_option
@metrics_option
@service_options
def broker(bind: str | None, port: int | None, keys: Path | None, metrics: tuple[str, int] | None) -> None:
    """Run the broker until it is stopped.

    Forwards rounds to trainers and results to aggregators. It stores nothing, so it may be killed and restarted at any
    time. Without keys it listens on this machine only. With keys it accepts members only, and disconnects a revoked key
    within a second.

    \b
    Examples:
      fedmq broker
      fedmq broker --port 7000
      fedmq broker --keys keys --bind 0.0.0.0
      fedmq broker --metrics 9101
    """
    from fedmq.broker.access_control import KeyAccessControl
    from fedmq.broker.metrics import broker_metrics
    from fedmq.broker.service import Broker
    from fedmq.runtime.clock import SystemClock
    from fedmq.runtime.loop import serve
    from fedmq.security.admission import Admission
    from fedmq.security.keyring import Members, find_broker
    from fedmq.security.tokens import IssuedTokens
    from fedmq.transport.zeromq import BrokerSockets

    address, credentials = find_broker(None, keys, "broker")
    host, first = parse_address(address)
    host, first, clock = bind or host, port or first, SystemClock()
    access = admission = None
    if keys is not None and credentials is not None:
        members, tokens = Members(keys), IssuedTokens(keys)
        access = KeyAccessControl(credentials, members, clock, tokens)
        admission = Admission(keys, credentials.federation, members, tokens, clock)
    hub = BrokerSockets(host, first, access)
    last = first + PORTS - 1 - (access is None)  # the last port is for enrollment, with keys only
    where = f" --keys {keys}" if keys else "" if first == DEFAULT_PORT else f" --broker tcp://{host}:{first}"
    line = f"broker on tcp://{host}:{first} (ports {first} to {last}); next: fedmq aggregator --task xor{where}"
    service = Broker(hub, clock, access, admission)
    try:
        with optional_metrics(metrics, broker_metrics(service, hub, access), lambda: "") as pulse:
            serve(service, hub, clock, ready=lambda: echo_if_read(line), reload=service.reload, pulse=pulse)
    finally:
        hub.close()
