"""SIGHUP to real services: none ends; a trainer reads rows, keys and the federation file again."""

from __future__ import annotations

import signal
from pathlib import Path

import msgspec
from keyed import Keyed
from services import events_of, until

from fedmq.security.keyring import write_federation


def test_hangup_ends_no_service_and_a_trainer_follows_a_broker_that_moved(tmp_path: Path) -> None:
    keyed = Keyed(tmp_path, "alice")
    rows = tmp_path / "rows.csv"
    rows.write_text("0,0,0\n0,1,1\n")
    with keyed.running_broker():
        services = keyed.services
        services.start(
            "aggregator", "aggregator", "--keys", "keys", "--task", "xor", "--min-trainers", "9", "--out", "run"
        )
        trainer = ("trainer", "--keys", "alice", "--data", "rows.csv", "--min-rows", "1")
        services.start("alice", *trainer, FEDMQ_BROKER="")  # the federation's
        until(lambda: "trainer alice: 2 rows" in services.out("alice"), "alice to be ready")
        until(lambda: any(one["event"] == "trainer-joined" for one in events_of(tmp_path / "run")), "her to join")
        rows.write_text("0,0,0\n0,1,1\n1,0,1\n")
        for name in ("broker", "aggregator", "alice"):
            services.running[name].send_signal(signal.SIGHUP)
        until(lambda: "rows read again: 3 rows" in services.err("alice"), "the rows to be read again")
        for name in ("broker", "aggregator"):
            until(lambda name=name: "members are read as they change" in services.err(name), f"the {name}")  # type: ignore[misc]

        rows.unlink()
        services.running["alice"].send_signal(signal.SIGHUP)
        until(lambda: "no such file" in services.err("alice"), "the missing file to be reported")
        (tmp_path / "alice" / "federation.json").write_text("{")
        services.running["alice"].send_signal(signal.SIGHUP)
        until(lambda: "the keys are not read again" in services.err("alice"), "the damaged file to be reported")
        write_federation(tmp_path / "alice", msgspec.structs.replace(keyed.federation, broker="tcp://127.0.0.1:9"))
        services.running["alice"].send_signal(signal.SIGHUP)
        until(lambda: "127.0.0.1:9 is disconnected" in services.err("alice"), "alice to connect to the new address")
        write_federation(tmp_path / "alice", keyed.federation)
        services.running["alice"].send_signal(signal.SIGHUP)
        until(lambda: f"{keyed.port} is connected" in services.err("alice"), "alice to come back")
        for name in ("broker", "aggregator", "alice"):
            assert services.running[name].poll() is None
        services.terminate("alice")
        assert services.wait("alice") == 0
