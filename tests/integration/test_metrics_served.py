"""Real services at `--metrics`: readiness follows the connection to the broker."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from services import Services, until

from fedmq.deploy.processes import free_port
from fedmq.transport.address import PORTS


def ask(port: int, path: str) -> tuple[int, str]:
    """Return the status and the text, or 0 while the port is closed."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()
    except urllib.error.URLError:
        return 0, ""


def value(port: int, name: str) -> float:
    families = text_string_to_metric_families(ask(port, "/metrics")[1])
    return next(one.value for family in families for one in family.samples if one.name == name)


def test_services_are_ready_only_with_a_broker(tmp_path: Path) -> None:
    with Services(tmp_path) as services:
        first = free_port()
        while abs(first - services.port) < PORTS:  # five ports each
            first = free_port()
        at = {name: first + place for place, name in enumerate(("broker", "aggregator", "alice"))}
        services.start("aggregator", "aggregator", "--task", "xor", "--out", "run", "--metrics", str(at["aggregator"]))
        services.start_trainer("alice", "xor:1/2", "--metrics", f"localhost:{at['alice']}")
        for name in ("aggregator", "alice"):
            until(lambda name=name: ask(at[name], "/healthz")[0] == 200, f"{name} to be well")
            status, text = ask(at[name], "/readyz")
            assert (status, text) == (503, f"the broker at {services.address} is not connected\n")
        for contacts in (1, 2):
            services.start("broker", "broker", "--metrics", str(at["broker"]))
            for name in at:
                until(lambda name=name: ask(at[name], "/readyz")[0] == 200, f"{name} to be ready")
            for name in ("aggregator", "trainer"):
                port = at["alice" if name == "trainer" else name]
                assert value(port, f"fedmq_{name}_broker_contacts_total") == contacts
            until(lambda: value(at["broker"], "fedmq_broker_trainers") == 1, "alice to be present")
            assert value(at["broker"], "fedmq_broker_received_bytes_total") > 0
            services.kill("broker")
            for name in ("aggregator", "alice"):
                until(lambda name=name: ask(at[name], "/readyz")[0] == 503, f"{name} to miss the broker")
                assert ask(at[name], "/healthz") == (200, "ok\n")
        services.start_broker()
        services.start_trainer("bob", "xor:2/2")
        assert services.wait("aggregator") == 0, services.err("aggregator")
        assert value(at["alice"], "fedmq_trainer_train_seconds_count") > 0
