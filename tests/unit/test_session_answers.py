"""Results of a session: losses in the declared units, and the digest of the round's model."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec import structs
from test_session import MODEL_DIGEST, ROUND, Scene, sent, started

from fedmq.protocol.codec import digest_of, pack
from fedmq.protocol.fixed_point import UNITS_MAX
from fedmq.protocol.messages import Result
from fedmq.trainer.machine import WorkDone


@pytest.mark.parametrize("at_work", [True, False])
def test_same_round_on_another_model_is_worked_on_again(at_work: bool) -> None:
    scene = Scene()
    scene.round(3)
    if not at_work:
        scene.worked(3)
    other = structs.replace(ROUND, term=2, round=3)
    effects = scene.hear(other, model=np.ones(3))
    assert (effects.cancel, started(effects), scene.held()) == (at_work, 3, [])
    assert effects.drops == ([] if at_work else [("run", 3)]), "no aggregator would accept it"
    (result,) = sent(scene.worked(3), Result)
    assert result.model_digest == digest_of(pack({"model": np.ones(3)}).infos) != MODEL_DIGEST


def test_losses_are_sent_in_the_declared_units() -> None:
    scene = Scene()
    scene.session.fraction_bits = 2
    scene.round(1)
    effects = scene.take(WorkDone("run", 1, {"losses": np.array([0.3, 1.0, np.nan])}, 0.1, 2))
    (outgoing,) = effects.sends
    assert outgoing.arrays is not None
    assert outgoing.arrays["losses"].tolist() == [1, 4, UNITS_MAX]
    assert effects.keeps[0].arrays["losses"] is outgoing.arrays["losses"], "what is kept is what is sent"
    assert (effects.keeps[0].fraction_bits, effects.keeps[0].model_digest) == (2, MODEL_DIGEST)
