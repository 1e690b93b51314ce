"""A session with more runs than it can follow: which run is replaced, and which one is ignored."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec import structs
from test_session import ROUND, Scene, holding, sent, started

from fedmq.errors import CodeRefused
from fedmq.protocol.messages import Accepted, Beacon, Finished, Hello, Message, Refused, Result, Welcome
from fedmq.trainer.followed_run import PENDING_SILENT_S, SILENT_S
from fedmq.trainer.machine import Output, WorkFailed
from fedmq.trainer.session import IGNORED_AGAIN_S, RUNS_MAX
from fedmq.transport.link import BrokerConnected, BrokerDisconnected, Tick

MANY = 64  # runs whose newest message a broker keeps, and sends to each new subscriber


def beacon(scene: Scene, run: str, at: float | None = None) -> Output:
    return scene.hear(Beacon(run=run, term=1, round=1, open=False), at)


def ignored(output: Output) -> list[str | None]:
    return [notice.run for notice in output.notices if notice.again_s == IGNORED_AGAIN_S]


def crowd(scene: Scene, at: float | None = None) -> None:
    """Follow as many further runs as possible."""
    for number in range(RUNS_MAX - len(scene.session.runs)):
        beacon(scene, f"run-{number}", at)
    assert len(scene.session.runs) == RUNS_MAX


def test_finished_runs_replace_no_run_and_drop_no_result() -> None:
    scene = holding()
    scene.take(BrokerDisconnected())
    scene.take(BrokerConnected(), at=1000.0)
    for number in range(MANY):
        effects = scene.hear(Finished(run=f"old-{number}", term=1, rounds=9, solved=True))
        assert (effects.drops, effects.marks, ignored(effects)) == ([], [], [])
    assert (list(scene.session.runs), scene.held()) == (["run"], [1])
    assert len(sent(scene.take(Tick(), at=1000.2), Result)) == 1


def test_kept_rounds_of_dead_runs_drop_no_result() -> None:
    scene = holding()
    scene.take(BrokerDisconnected())
    scene.take(BrokerConnected(), at=1000.0)
    for number in range(MANY):
        scene.round(1, run=f"old-{number}")
    assert scene.held() == [1], "the time without a broker does not count as silence"


def test_dead_runs_known_from_kept_rounds_are_replaced() -> None:
    scene = Scene()
    for number in range(MANY):
        message = structs.replace(ROUND, run=f"dead-{number}", term=1, round=1)
        scene.hear(message, topic="to/bob/", model=np.zeros(3))
        scene.worked(1, run=f"dead-{number}")
    assert len(scene.session.runs) == RUNS_MAX
    assert len(sent(beacon(scene, "live"), Hello)) == 1


def test_declined_run_is_replaced_at_once() -> None:
    scene = Scene()
    scene.round(1)
    scene.take(WorkFailed("run", 1, CodeRefused("not signed")))
    crowd(scene)
    assert ignored(beacon(scene, "new")) == []
    assert "run" not in scene.session.runs


@pytest.mark.parametrize(
    "message",
    [
        Finished(run="new", term=1, rounds=9, solved=True),
        Welcome(run="new", term=1, trainer="bob", index=0),
        Accepted(run="new", term=1, trainer="bob", round=1),
        Refused(run="new", term=1, trainer="bob", round=1, reason="round", detail="too old"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_only_rounds_and_beacons_make_a_run_followed(message: Message) -> None:
    scene = Scene()
    assert scene.hear(message) == Output()
    assert not scene.session.runs


def test_run_over_the_limit_is_ignored_and_logged() -> None:
    scene = Scene()
    assert started(scene.round(1)) == 1
    crowd(scene)
    for tick in range(40):
        at = tick * SILENT_S / 20
        for run in list(scene.session.runs):
            beacon(scene, run, at=at)
        effects = beacon(scene, "new")
        assert (ignored(effects), effects.cancel, effects.sends, effects.marks) == (["new"], False, [], [])
        assert ignored(scene.round(1, run="other-new")) == ["other-new"]
    assert scene.session.working == ("run", 1)


def test_run_with_the_oldest_message_is_replaced() -> None:
    scene = Scene()
    crowd(scene)
    for number in range(2, RUNS_MAX):
        beacon(scene, f"run-{number}", at=1.0)
    beacon(scene, "run-0", at=0.5)
    assert ignored(beacon(scene, "new", at=SILENT_S - 0.01)) == ["new"]
    assert len(sent(beacon(scene, "new", at=SILENT_S), Hello)) == 1
    assert "run-1" not in scene.session.runs
    assert "run-0" in scene.session.runs


def test_finished_run_is_replaced_at_once() -> None:
    scene = holding()
    crowd(scene)
    scene.hear(Finished(run="run", term=1, rounds=1, solved=True))
    assert ignored(beacon(scene, "new")) == []
    assert "run" not in scene.session.runs


def test_run_in_work_is_never_replaced() -> None:
    scene = Scene()
    scene.round(1)
    crowd(scene)
    for number in range(RUNS_MAX):
        assert not beacon(scene, f"new-{number}", at=2 * PENDING_SILENT_S).cancel
    assert "run" in scene.session.runs
    assert "new-0" in scene.session.runs


def test_silent_run_with_a_pending_result_is_replaced_late() -> None:
    scene = holding()
    for number in range(1, RUNS_MAX):
        scene.round(1, run=f"run-{number}")
        scene.worked(1, run=f"run-{number}", at=1.0)
    assert ignored(beacon(scene, "new", at=PENDING_SILENT_S - 0.01)) == ["new"]
    effects = beacon(scene, "new", at=PENDING_SILENT_S)
    assert (ignored(effects), effects.drops) == ([], [("run", 1)])
    scene.hear(Finished(run="new", term=1, rounds=1, solved=True))
    assert started(scene.round(1)) == 1, "its result was dropped"
