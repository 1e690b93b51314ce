"""Warnings that anybody may cause: each kind is said once, then once in a while with how many came."""

from __future__ import annotations

import logging

import pytest

from fedmq.rate_limit import AGAIN_S, KINDS_MAX, RateLimited
from fedmq.testing import VirtualClock

log = logging.getLogger("strangers")


def test_each_kind_is_said_at_once_and_again_after_a_while_with_how_many_came(caplog: pytest.LogCaptureFixture) -> None:
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


def test_kinds_without_an_end_are_one_kind_from_some_point_on(caplog: pytest.LogCaptureFixture) -> None:
    limited = RateLimited(log, VirtualClock())
    for number in range(3 * KINDS_MAX):
        limited.warning(f"kind-{number}", "rejected")
    assert len(caplog.messages) == KINDS_MAX + 1
