"""A trainer and the rounds that invite some of the trainers, or that let it finish older work first."""

from __future__ import annotations

from typing import Any

import numpy as np
from msgspec import structs
from test_session import ROUND, TASK, Scene, sent

from fedmq.protocol.messages import Hello, Refused, Welcome
from fedmq.trainer.machine import Output, WorkDone


def welcomed(index: int = 1) -> Scene:
    scene = Scene()
    scene.hear(structs.replace(ROUND, round=1, task=TASK, invited=b""))
    scene.hear(Welcome(run="run", term=1, trainer="bob", index=index))
    return scene


def round_of(scene: Scene, number: int, **fields: Any) -> Output:
    return scene.hear(structs.replace(ROUND, round=number, **fields), model=np.zeros(3))


def done(scene: Scene, number: int) -> Output:
    return scene.take(WorkDone("run", number, {"model": np.zeros(3)}, 0.1, 2))


def test_trainer_without_an_index_asks_for_it_before_it_works() -> None:
    scene = Scene()
    output = round_of(scene, 1, invited=b"\2")
    assert output.start is None
    assert [hello.round for hello in sent(output, Hello)] == [0], "so the round is sent again"
    scene.hear(Welcome(run="run", term=1, trainer="bob", index=1))
    assert round_of(scene, 1, invited=b"\2").start is not None


def test_uninvited_trainer_does_nothing_and_follows() -> None:
    scene = welcomed()
    output = round_of(scene, 1, invited=b"\5")
    assert (output.start, output.sends) == (None, [])
    assert scene.session.runs["run"].round == 1
    assert round_of(scene, 2, invited=b"\2").start is not None


def test_round_that_invites_more_trainers_is_new_for_them() -> None:
    scene = welcomed(index=9)
    assert round_of(scene, 1, invited=b"\1").start is None
    assert round_of(scene, 1, invited=b"\1\2").start is not None
    assert round_of(scene, 1, invited=b"\1\2").start is None, "once"


def test_uninvited_trainer_goes_on_with_older_work() -> None:
    scene = welcomed()
    round_of(scene, 1, invited=b"\2")
    assert not round_of(scene, 2, invited=b"\1").cancel
    assert len(done(scene, 1).keeps) == 1


def test_newer_round_waits_while_older_work_is_of_use() -> None:
    scene = welcomed()
    round_of(scene, 1, staleness=2)
    output = round_of(scene, 2, staleness=2)
    assert (output.cancel, output.start) == (False, None)
    round_of(scene, 3, staleness=2)
    output = done(scene, 1)
    assert [result.round for result in output.keeps] == [1]
    assert output.start is not None
    assert scene.session.working == ("run", 3), "the newest one"
    assert round_of(scene, 6, staleness=2).cancel, "too old to be of use"


def test_trainer_that_is_not_selected_says_so_once_an_hour() -> None:
    scene = Scene()
    round_of(scene, 1, invited=b"")
    refused = Refused(run="run", term=1, trainer="bob", round=0, reason="uninvited", detail="expected the labels eu")
    ((notice,), kind) = (scene.hear(refused).notices, {notice.kind for notice in scene.hear(refused).notices})
    assert notice.text == "takes no part in run run: expected the labels eu"
    assert (notice.warning, notice.again_s, kind) == (True, 3600.0, {notice.kind})
    assert sent(round_of(scene, 2, invited=b""), Hello) == [], "it asks again later"
