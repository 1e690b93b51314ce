"""The broker's metrics for Prometheus; docs/reference/metrics.md lists them.

They are read from another thread, one value at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from fedmq import __version__
from fedmq.broker.access_control import KeyAccessControl
from fedmq.broker.service import Broker
from fedmq.transport.zeromq import BrokerSockets

if TYPE_CHECKING:
    from fedmq.observe.metrics import Metrics


def broker_metrics(broker: Broker, hub: BrokerSockets, access: KeyAccessControl | None) -> Callable[[Metrics], None]:
    """Return a function that registers the broker's metrics."""
    routing = broker.routing

    def connections() -> dict[str, float]:
        ports = Counter(one.port.name.lower() for one in hub.connections)
        return {port.name.lower(): ports[port.name.lower()] for port in hub.ports}

    def put(metrics: Metrics) -> None:
        metrics.info("fedmq_broker_info", "About this broker.", lambda: {"version": __version__})
        metrics.counter("fedmq_broker_messages_total", "Received messages.", lambda: broker.received)
        metrics.counter("fedmq_broker_received_bytes_total", "Bytes of received messages.", lambda: hub.bytes)
        metrics.counter(
            "fedmq_broker_dropped_total",
            "Messages dropped for too many frames or an unknown topic.",
            lambda: routing.dropped,
        )
        metrics.counter(
            "fedmq_broker_refused_total",
            "Connections and messages refused by access control, by reason; none without keys.",
            lambda: {} if access is None else access.refused.copy(),
            "reason",
        )
        metrics.counter(
            "fedmq_broker_cut_total", "Connections that the broker closed: violations, and too many.", lambda: hub.cuts
        )
        metrics.gauge("fedmq_broker_connections", "Connections, by port of the broker.", connections, "port")
        metrics.gauge("fedmq_broker_trainers", "Connected trainers.", lambda: len(routing.inboxes))
        metrics.gauge("fedmq_broker_runs", "Runs of which the newest round is stored.", lambda: len(routing.newest))

    return put
