"""The model digest of a result must be that of its round: in time, late and after a restart."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from rounds_scene import Scene, kept, opened, sent
from strategy_rounds import strategy_of

from fedmq.algorithms.averaging.query import GradientLearner, Train
from fedmq.algorithms.base import encode_query
from fedmq.protocol.codec import decode, digest_of, encode, pack
from fedmq.protocol.messages import Accepted, Refused, Result, Round
from fedmq.protocol.run_config import Limits
from fedmq.simulation import AGGREGATOR, Federation
from fedmq.tasks.task_file import find_task, task_rows

OTHER = bytes([255] * 32)


def reasons(output: Any) -> list[str]:
    return [message.reason for _, message in sent(output, Refused)]


def test_model_digest_covers_the_arrays_in_their_order_only() -> None:
    one, two = {"a": np.arange(3), "b": np.zeros(2)}, {"b": np.zeros(2), "a": np.arange(3)}
    model_digests = {digest_of(pack(arrays).infos) for arrays in (one, two, {"a": np.arange(3)}, {})}
    assert len(model_digests) == 4
    assert digest_of(pack({"x": np.arange(3)}).infos) == digest_of(pack({"a": np.arange(3)}).infos), (
        "names are the header's"
    )


def test_both_sides_compute_the_same_model_digest() -> None:
    arrays = {"ids": np.arange(4), "pool": np.linspace(-1, 1, 8).reshape(4, 2)}
    work = Train(GradientLearner())
    message = Round(
        run="r", term=1, round=1, seed=0, deadline_s=1.0, task=find_task("linear"), query=encode_query(work)
    )
    assert digest_of(decode(encode("t", message, arrays)).message.arrays) == digest_of(pack(arrays).infos)


def test_result_on_another_model_is_refused_and_may_be_sent_again() -> None:
    scene = opened("bob", "alice")
    output = scene.hear(scene.result_of("bob", 1, model_digest=OTHER), 1.0)
    assert (output.records, reasons(output)) == ([], ["model-digest"])
    assert scene.rounds.rejections == {"model-digest": 1}
    assert kept(scene.result("bob", 1)) == [(1, "bob", 1)]


def test_late_result_must_name_the_model_of_its_own_round() -> None:
    scene = opened("bob", "alice", deadline_s=2.0, quorum=0.5)
    scene.result("bob", 1, 5.0)
    scene.now = 2.5
    scene.result("bob", 1, 5.0)  # a repeated one; time goes on with it
    assert scene.rounds.round == 2
    assert scene.model_digest(1) != scene.model_digest(2), "the guess has moved"
    assert reasons(scene.hear(scene.result_of("alice", 1, model_digest=scene.model_digest(2)), 1.0)) == ["model-digest"]
    assert kept(scene.result("alice", 1)) == [(1, "alice", 2)]


def test_repeated_result_is_acknowledged_with_any_model_digest() -> None:
    """It is on disk; a refusal would be a lie."""
    scene = opened("bob", "alice")
    scene.result("bob", 1)
    assert len(sent(scene.hear(scene.result_of("bob", 1, model_digest=OTHER), 1.0), Accepted)) == 1


def test_restarted_aggregator_knows_the_model_digest_before_the_round_opens() -> None:
    scene = Scene(round=3, accepted={(2, "bob")}, away=("bob", "alice"), min_trainers=3)
    assert kept(scene.result("bob", 3)) == [(3, "bob", 3)]
    assert reasons(scene.hear(scene.result_of("alice", 3, model_digest=OTHER), 1.0)) == ["model-digest"]
    assert kept(scene.result("alice", 2)) == [(2, "alice", 3)]
    assert reasons(scene.hear(scene.result_of("dave", 1, model_digest=OTHER), 1.0)) == ["model-digest"]


def test_result_of_a_dropped_round_matches_no_model_digest() -> None:
    scene = Scene(round=3, accepted={(2, "bob")}, away=("bob", "alice"), min_trainers=3)
    scene.rounds._published.digests.pop(1)
    assert reasons(scene.result("alice", 1)) == ["model-digest"]


def test_model_digests_of_old_rounds_are_dropped() -> None:
    scene = opened("bob", staleness=1)
    for number in range(1, 8):
        scene.result("bob", number, float(number))
        assert len(scene.rounds._published.digests) <= 3


@pytest.mark.parametrize("strategy", ["evolution", "fedavg"])
def test_restarted_aggregator_knows_the_model_digests_of_late_rounds(strategy: str) -> None:
    task = msgspec.structs.replace(find_task("xor"), metric="loss", target=0.0)
    rows = {name: task_rows("xor", part, 2) for part, name in enumerate(("alice", "bob"), start=1)}
    limits = Limits(rounds_max=6, min_trainers=2, staleness=2)
    federation = Federation(task, strategy_of(strategy), rows, limits=limits)
    federation.start()
    federation.simulation.run(lambda: len(list(federation.store.closes())) >= 4, 60.0)
    assert federation.aggregator is not None
    before = dict(federation.aggregator.rounds._published.digests)
    federation.simulation.crash(AGGREGATOR)
    federation.simulation.start(AGGREGATOR)
    after = federation.aggregator.rounds
    assert after.round >= 4
    wanted = {
        number: model_digest for number, model_digest in before.items() if after.round - 2 <= number < after.round
    }
    assert len(wanted) == 2
    assert wanted.items() <= after._published.digests.items()
    results = [decode(one.frames).message for number in range(1, 5) for one in federation.store.results(number)]
    assert all(
        isinstance(one, Result) and before.get(one.round, one.model_digest) == one.model_digest for one in results
    )
