"""What the services tell Prometheus: the page lists just that, and the numbers are those of a run.

`python tests/unit/test_metrics.py` writes the tables of the page.
"""

from __future__ import annotations

import re
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from metrics_scene import SERVICES, broker_metrics, rows, run_metrics, trainer_metrics, values

import aggregator.metrics
from aggregator.metrics import Tally
from fedmq.metrics import Metrics
from fedmq.testing.clock import VirtualClock
from fedmq.view import View

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "metrics.md"


@pytest.mark.parametrize("service", SERVICES)
def test_the_page_lists_what_a_service_tells_and_nothing_else(service: str) -> None:
    section = re.search(rf"^## fedmq {service}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert section is not None
    assert re.findall(r"^\| `.*$", section[1], re.MULTILINE) == rows(SERVICES[service]())


def test_an_aggregator_tells_what_has_happened_in_its_run() -> None:
    told = values(run_metrics())
    assert {name: told[f"fedmq_aggregator_{name}"] for name in EXPECTED} == EXPECTED


EXPECTED = {
    "rounds_total|complete": 0,
    "rounds_total|deadline": 1,
    "results_total": 2,
    "results_late_total": 1,
    "results_resent_total": 1,
    "rejected_total|values": 3,
    "rejected_total|epoch": 0,
    "received_bytes_total": 1000,
    "sent_bytes_total": 2000,
    "fitness|best": -1.0,
    "fitness|mean": -2.0,
    "fitness|worst": -3.0,
    "value": 0.5,
    "state|running": 1,
    "state|stalled": 0,
    "trainers|alive": 1,
    "trainers|gone": 1,
    "trainers|suspect": 0,
    "epoch": 2,
    "open_rounds": 1,
    "round_seconds_count": 1,
    "round_seconds_sum": 3.0,
    "round_seconds_bucket|5.0": 1,
    "answer_seconds_count": 1,  # how long the late one took is not known
    "answer_seconds_sum": 0.2,
    "broker_connected": 1,
    "broker_contacts_total": 2,
}


def test_before_a_round_is_closed_there_is_no_fitness() -> None:
    metrics = Metrics()
    aggregator.metrics.measure(MagicMock(), View(), Tally(), VirtualClock())(metrics)
    assert not [name for name in values(metrics) if "fitness" in name]


def test_a_broker_and_a_trainer_tell_what_they_have_counted() -> None:
    told = values(broker_metrics()) | values(trainer_metrics())
    assert told["fedmq_broker_connections|push"] == 2
    assert told["fedmq_broker_connections|join"] == 0
    assert told["fedmq_broker_refused_total|connection-key"] == 4
    assert told["fedmq_trainer_held_results"] == 2
    assert told["fedmq_trainer_train_seconds_sum"] == 0.5
    assert told["fedmq_trainer_rejected_total|epoch"] == 1
    assert told["fedmq_trainer_broker_connected"] == 0


def test_what_is_told_is_also_openmetrics() -> None:
    text, content_type = run_metrics().text("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")


if __name__ == "__main__":
    for service, make in SERVICES.items():
        print(f"## fedmq {service}\n\n| metric | type | labels | what it is |\n|---|---|---|---|")
        print("\n".join(rows(make())) + "\n")
