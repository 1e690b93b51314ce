"""The rate limit of warnings: one line for each kind and interval, with a count."""

from __future__ import annotations

import logging

import pytest
from test_spool_lives import Life

from fedmq.protocol.messages import Beacon, Refused
from fedmq.runtime.rate_limit import AGAIN_S, KINDS_MAX, RateLimited
from fedmq.testing import VirtualClock
from fedmq.trainer.session import RUNS_MAX
from fedmq.trainer.spool import MemorySpool
from fedmq.transport.link import Delivered

log = logging.getLogger("strangers")


def test_each_kind_is_logged_once_per_interval_with_a_count(caplog: pytest.LogCaptureFixture) -> None:
    clock = VirtualClock()
    limited = RateLimited(log, clock)
    for kind in ("frames", "header", "frames", "frames"):
        limited.warning(kind, "rejected: %s", kind, extra={"trainer": "bob"})
    assert caplog.messages == ["rejected: frames", "rejected: header"]
    assert caplog.records[0].trainer == "bob"  # type: ignore[attr-defined]
    clock.move_to(AGAIN_S - 0.01)
    limited.warning("frames", "rejected: %s", "frames")
    clock.move_to(AGAIN_S)
    limited.warning("header", "rejected: %s", "header")
    limited.warning("frames", "rejected: %s", "frames")
    assert caplog.messages[2:] == [
        "rejected: header",
        "rejected: frames (and 3 more like it since the last line)",
    ]


def test_kinds_over_the_limit_share_one(caplog: pytest.LogCaptureFixture) -> None:
    limited = RateLimited(log, VirtualClock())
    for number in range(3 * KINDS_MAX):
        limited.warning(f"kind-{number}", "rejected")
    assert len(caplog.messages) == KINDS_MAX + 1


def test_trainer_logs_floods_of_messages_in_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    life = Life(MemorySpool(), [])
    life.news(*[Delivered([b"topic", b"no header", b""])] * 1000)
    life.hear(Beacon(run="run", term=1, round=1, open=False))
    refused = Refused(run="run", term=1, trainer="bob", round=1, reason="round", detail="too old")
    for _ in range(1000):
        life.hear(refused)
    for number in [*range(RUNS_MAX + 1)] * 20:
        life.hear(Beacon(run=f"run-{number}", term=1, round=1, open=False))
    malformed, old, *ignored = caplog.messages
    assert "header" in malformed
    assert old == "the result of round 1 was refused: round: too old"
    assert [line.split(":")[0] for line in ignored] == [f"run run-{RUNS_MAX + i} is ignored" for i in (-1, 0)]
    life.later(AGAIN_S)
    life.hear(refused)
    assert caplog.messages[-1] == f"{old} (and 999 more like it since the last line)"
    assert life.trainer.session.rejections == {"header": 1000}, "all are counted"
