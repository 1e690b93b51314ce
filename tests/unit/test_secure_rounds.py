"""The rounds of a secure run: the totals of plain answers, whatever is lost or killed, and each question once."""

from __future__ import annotations

from secure_rounds_scene import Scene, plain_state

from fedmq.algorithms.checkpoint import dump


def test_run_gives_the_same_state_as_plain_answers() -> None:
    scene = Scene()
    scene.run()
    assert [(one.why, one.results, one.secure) for one in scene.closed()] == [("complete", 3, True)] * 4
    assert dump(scene.rounds.state) == dump(plain_state(scene, lambda _: sorted(scene.sites)))
