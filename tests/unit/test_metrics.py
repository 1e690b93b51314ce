"""The metrics of the services: docs/reference/metrics.md lists them, and their values are right.

`python tests/unit/test_metrics.py` writes the tables of the page.
"""

from __future__ import annotations

import re
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from metrics_scene import CLOSED, SERVICES, counted, rows, run_metrics, values

import fedmq.aggregator.metrics
from fedmq.aggregator.metrics import Tally
from fedmq.observe.metrics import Metrics
from fedmq.observe.run_state import RunState
from fedmq.simulation.clock import VirtualClock

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "metrics.md"


@pytest.mark.parametrize("service", SERVICES)
def test_page_lists_exactly_the_metrics_of_a_service(service: str) -> None:
    section = re.search(rf"^## fedmq {service}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert section is not None
    assert re.findall(r"^\| `.*$", section[1], re.MULTILINE) == rows(SERVICES[service]())


COUNTED = {
    "aggregator": {
        "held_out|value": 0.5,
        "held_out|auc": 0.75,
        "rounds_total|complete": 1,
        "rounds_total|deadline": 2,
        "results_total": 6,
        "results_late_total": 4,
        "results_resent_total": 7,
        "stalls_total": 8,
        "rejected_total|values": 13,
        "rejected_total|model-digest": 14,
        "received_bytes_total": 1000,
        "sent_bytes_total": 2000,
        "broker_contacts_total": 12,
        "broker_connected": 1,
        "fitness|best": -1.0,
        "fitness|mean": -2.0,
        "fitness|worst": -3.0,
        "value": 0.5,
        "state|running": 1,
        "trainers|alive": 6,
        "trainers|suspect": 1,
        "trainers|gone": 2,
        "term": 15,
        "epoch": 15,
        "round": 4,
        "trainers_needed": 2,
        "invited": 9,
        "rounds_max": 16,
        "open_rounds": 1,
        "progress_timestamp_seconds": VirtualClock().wall(),
        "round_seconds_count": 3,
        "round_seconds_sum": 15.5,
        "round_seconds_bucket|5.0": 2,
        "answer_seconds_count": 2,  # the time of late results is unknown
        "answer_seconds_sum": 0.5,
        "answer_seconds_bucket|5.0": 2,
    },
    "broker": {
        "messages_total": 7,
        "received_bytes_total": 5000,
        "dropped_total": 2,
        "refused_total|connection-key": 3,
        "refused_total|connection-rate": 4,
        "refused_total|message-key": 5,
        "refused_total|message-rate": 6,
        "cut_total": 1,
        "connections|publish": 8,
        "connections|subscribe": 9,
        "connections|push": 10,
        "connections|collect": 11,
        "connections|join": 12,
        "trainers": 13,
        "runs": 14,
    },
    "trainer": {
        "rejected_total|term": 5,
        "refused_total|round": 6,
        "rows": 7,
        "broker_contacts_total": 8,  # and it is not connected
        "working": 1,
        "held_results": 4,
        "runs": 3,
        "train_seconds_count": 2,
        "train_seconds_sum": 6.5,
        "train_seconds_bucket|5.0": 1,
    },
}


@pytest.mark.parametrize("service", SERVICES)
def test_metrics_equal_the_counts_of_a_service(service: str) -> None:
    assert counted(SERVICES[service](), service) == COUNTED[service]


def test_no_round_is_open_between_two_rounds() -> None:
    found = counted(run_metrics(CLOSED), "aggregator")
    assert "open_rounds" not in found
    assert found["state|running"] == 1


def test_no_fitness_before_the_first_close() -> None:
    metrics = Metrics()
    fedmq.aggregator.metrics.aggregator_metrics(MagicMock(), RunState(), Tally(), VirtualClock())(metrics)
    assert not [name for name in values(metrics) if "fitness" in name]


def test_metrics_are_served_as_openmetrics() -> None:
    text, content_type = run_metrics().text("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")


if __name__ == "__main__":
    for service, make in SERVICES.items():
        print(f"## fedmq {service}\n\n| metric | type | labels | what it is |\n|---|---|---|---|")
        print("\n".join(rows(make())) + "\n")
