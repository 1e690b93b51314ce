"""What a later life of a run may change, and what is fixed; the same configuration is announced and reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fedmq.aggregator.cli import _continue
from fedmq.algorithms.registry import find_algorithm
from fedmq.errors import StoreError
from fedmq.models.networks import Linear
from fedmq.models.trained_model import TrainedModel
from fedmq.observe import events
from fedmq.protocol.run_config import Limits, RunConfig
from fedmq.runs.store import Store
from fedmq.simulation.federation import Federation
from fedmq.tasks.task_file import find_task, task_rows
from fedmq.testing import run_config


def continued(limits: dict[str, Any] | None = None, **fixed: Any) -> RunConfig:
    """The stored configuration of a run that is continued with these options."""
    nothing = dict.fromkeys(("task", "code", "algorithm", "seed", "earlier"))
    given: dict[str, Any] = {**nothing, "parameters": {}, **fixed}
    with Store(":memory:") as store:
        store.begin(run_config("run", parameters={"population": 100}, seed=7, quorum=0.7))
        assert store.config is not None
        _continue(store, store.config, Path("runs/run"), limits=limits or {}, **given)
        config = store.config
        assert config is not None
        return config


def test_limits_of_a_continued_run_are_kept_unless_others_are_given() -> None:
    assert continued().limits.quorum == 0.7
    limits = continued({"rounds_max": 9}).limits
    assert (limits.rounds_max, limits.quorum) == (9, 0.7)


@pytest.mark.parametrize(
    ("option", "fixed"),
    [
        ("--task", {"task": find_task("linear")}),
        ("--algorithm", {"algorithm": "averaging"}),
        ("--param population", {"parameters": {"population": 50}}),
        ("--seed", {"seed": 8}),
        ("--from nothing", {"earlier": TrainedModel(Linear(1), np.zeros(2), "xor")}),
    ],
)
def test_other_value_of_what_is_fixed_is_refused(option: str, fixed: dict[str, Any]) -> None:
    with pytest.raises(StoreError, match=option):
        continued(**fixed)


def test_run_config_survives_msgpack_and_json_bit_for_bit() -> None:
    config = run_config("run", parameters={"mutation": (-1.5, 0.3), "population": 100}, started=1.25, quorum=1.0)
    config = msgspec.msgpack.decode(msgspec.msgpack.encode(config), type=RunConfig)
    assert msgspec.json.decode(msgspec.json.encode(config), type=RunConfig) == config


@pytest.mark.parametrize("limits", [{"quorum": 1.5}, {"staleness": 16}, {"rounds_max": 0}, {"deadline_s": 0.0}])
def test_stored_limits_out_of_range_are_refused(limits: dict[str, Any]) -> None:
    blob = msgspec.msgpack.encode(run_config("run", **limits))
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(blob, type=RunConfig)


def test_run_announces_the_configuration_that_is_stored() -> None:
    rows = {name: task_rows("linear", part, 2) for part, name in enumerate(("alice", "bob"), start=1)}
    limits = Limits(rounds_max=2, min_trainers=2, quorum=1.0)
    federation = Federation(
        find_task("linear"), find_algorithm("averaging", parameters={"standardize": False}), rows, limits=limits
    )
    federation.train()
    (started,) = [event for event in federation.events if isinstance(event, events.RunStarted)]
    assert started.config == federation.store.config
    assert started.config.limits == limits
    assert started.config.parameters, "the defaults are in it too"
