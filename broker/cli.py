"""The command `fedmq broker`."""

from __future__ import annotations

import click

from fedmq.address import DEFAULT_PORT, PORTS
from fedmq.options import option, service_options


@click.command()
@option("--bind", default="127.0.0.1", metavar="HOST", help="Address to listen on; without keys only loopback.")
@option(
    "--port",
    type=click.IntRange(1, 65536 - PORTS),
    default=DEFAULT_PORT,
    metavar="PORT",
    help="The first of four consecutive ports.",
)
@service_options
def broker(bind: str, port: int) -> None:
    """Run the broker until it is stopped.

    Everything meets here: it forwards rounds to trainers and results to aggregators. It keeps nothing that matters,
    so it can be killed and started again at any moment. Without keys it listens on this machine alone.

    \b
    Examples:
      fedmq broker
      fedmq broker --port 7000
    """
    from broker.service import Broker
    from fedmq.clock import SystemClock
    from fedmq.loop import serve
    from fedmq.sockets import BrokerSockets

    line = (
        f"broker on tcp://{bind}:{port} (ports {port} to {port + PORTS - 1}); "
        f"next: fedmq aggregator --task xor{'' if port == DEFAULT_PORT else f' --broker tcp://{bind}:{port}'}"
    )
    hub = BrokerSockets(bind, port)
    try:
        serve(Broker(hub), hub, SystemClock(), ready=lambda: click.echo(line))
    finally:
        hub.close()
