"""What a broker tells of itself to Prometheus; docs/reference/metrics.md lists it.

Knows nothing of how it is asked. All of it is counted anyway, and read from another thread: one value at a time.
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


def measure(broker: Broker, hub: BrokerSockets, access: KeyAccessControl | None) -> Callable[[Metrics], None]:
    """What puts the broker's metrics where they are asked for."""
    routing = broker.routing

    def connections() -> dict[str, float]:
        ports = Counter(one.port.name.lower() for one in hub.connections)
        return {port.name.lower(): ports[port.name.lower()] for port in hub.ports}

    def put(metrics: Metrics) -> None:
        metrics.info("fedmq_broker_info", "About this broker.", lambda: {"version": __version__})
        metrics.counter("fedmq_broker_messages_total", "Messages that came.", lambda: broker.taken)
        metrics.counter("fedmq_broker_received_bytes_total", "Bytes of the messages that came.", lambda: hub.bytes)
        metrics.counter(
            "fedmq_broker_dropped_total", "Messages with a topic that nobody may use.", lambda: routing.dropped
        )
        metrics.counter(
            "fedmq_broker_refused_total",
            "Connections and messages that the keys do not allow, by reason; none without keys.",
            lambda: {} if access is None else access.refused.copy(),
            "reason",
        )
        metrics.counter("fedmq_broker_cut_total", "Connections that were cut for what they sent.", lambda: hub.cuts)
        metrics.gauge("fedmq_broker_connections", "Connections, by the broker's port.", connections, "port")
        metrics.gauge("fedmq_broker_trainers", "Trainers that are here.", lambda: len(routing.inboxes))
        metrics.gauge("fedmq_broker_runs", "Runs whose newest round is kept.", lambda: len(routing.newest))

    return put
