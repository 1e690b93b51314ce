"""Maintenance of a run: replay, recovery and dropped rounds lead to the same model, or to an error."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest
from strategy_rounds import strategy_of

import fedmq.aggregator.service
from fedmq.algorithms.base import Evaluation
from fedmq.algorithms.registry import find_algorithm
from fedmq.errors import BadConfiguration, StoreError
from fedmq.models.trained_model import TrainedModel
from fedmq.protocol.run_config import Limits
from fedmq.runs.maintenance import ReplayOutcome, open_store, recover, replay_run
from fedmq.runs.records import Checkpoint
from fedmq.runs.replay import Replayed, replay
from fedmq.runs.store import Store
from fedmq.runtime.run_folder import STORE
from fedmq.simulation import AGGREGATOR, Federation
from fedmq.tasks.task_file import find_task, task_rows
from fedmq.testing import Faults, run_config

ROUNDS, EVERY = 9, 3  # rounds of the run, and rounds from checkpoint to checkpoint
TASKS = {"evolution": "xor", "averaging": "linear"}
UNEVEN = Faults(delay_s=(0.001, 0.3), reorder=True, duplicate=0.2)  # so that results come late
SEED = 3


def federation(strategy: str, store: Store, rounds: int) -> Federation:
    """A run that does not reach its target before its rounds are used up."""
    task = msgspec.structs.replace(find_task(TASKS[strategy]), metric="loss", target=0.0)
    rows = {name: task_rows(TASKS[strategy], part, 2) for part, name in enumerate(("alice", "bob"), start=1)}
    limits = Limits(rounds_max=rounds, min_trainers=2, deadline_s=0.2)
    return Federation(task, strategy_of(strategy), rows, seed=SEED, limits=limits, faults=UNEVEN, store=store)


@pytest.fixture(params=TASKS, scope="module")
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has ended, and has a checkpoint every few rounds."""
    folder = tmp_path_factory.mktemp(request.param)
    store = Store(folder / STORE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fedmq.aggregator.rounds, "CHECKPOINT_ROUNDS", EVERY)
        trained = federation(request.param, store, ROUNDS)
        model = trained.train()
    assert trained.finished
    assert model is not None
    (folder / "model.npz").write_bytes(model.to_bytes())
    store.close()
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return shutil.copytree(original, tmp_path / "run")


def model_sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "model.npz").read_bytes()).hexdigest()


def change(folder: Path, *statements: str) -> None:
    """Change the store behind its back."""
    connection = sqlite3.connect(folder / STORE)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def verify(folder: Path) -> list[str]:
    store = Store(folder / STORE)
    problems = store.verify()
    store.close()
    return problems


def resumed(folder: Path, *, from_start: bool = False) -> tuple[Replayed, Any]:
    """Where the run in the folder stands, and its standing as values that are equal only when each bit is."""
    store, config = open_store(folder)
    strategy = find_algorithm(config.algorithm, parameters=config.parameters)
    again = replay(store, config.task, strategy, config.seed, from_start=from_start)
    store.close()
    evaluation: Evaluation | None = strategy.evaluation(again.state)
    return again, None if evaluation is None else {**vars(evaluation), "parameters": evaluation.parameters.tobytes()}


def after(original: Path, rounds: int) -> str | None:
    """The SHA-256 of the model of the run as it was after so many rounds."""
    store, config = open_store(original)
    strategy = find_algorithm(config.algorithm, parameters=config.parameters)
    short = Store(":memory:")
    short.begin(config)
    for close in list(store.closes())[:rounds]:
        for result in store.results(close.round):
            short.save(result)
        short.save(close)
    evaluation = strategy.evaluation(replay(short, config.task, strategy, config.seed).state)
    store.close()
    if evaluation is None:
        return None
    return hashlib.sha256(
        TrainedModel(config.task.model, evaluation.parameters, config.task.name).to_bytes()
    ).hexdigest()


# Replay


def test_replay_computes_the_model_of_the_run(original: Path) -> None:
    store, _ = open_store(original)
    results = sum(len(list(store.results(number))) for number in range(1, ROUNDS + 1))
    store.close()
    assert replay_run(original) == ReplayOutcome(ROUNDS, results, model_sha256(original))


def test_replay_without_results_has_no_model(tmp_path: Path) -> None:
    store = Store(tmp_path / STORE)
    store.begin(run_config("run", find_task("xor"), "evolution", seed=7, started=1e9))
    store.close()
    assert replay_run(tmp_path) == ReplayOutcome(0, 0, None)


def test_replay_uses_results_instead_of_checkpoints(folder: Path) -> None:
    store = Store(folder / STORE)
    store.save(Checkpoint(ROUNDS + 1, store.checkpoint(EVERY + 1)[1]))  # type: ignore[index]
    store.commit()
    store.close()
    assert replay_run(folder).model_sha256 == model_sha256(folder)


def test_replay_from_a_checkpoint_equals_replay_from_the_start(original: Path) -> None:
    store, _ = open_store(original)
    checkpoints = [checkpoint and checkpoint[0] for checkpoint in map(store.checkpoint, range(1, ROUNDS + 2))]
    store.close()
    assert checkpoints == [None] * EVERY + [4, 4, 4, 7, 7, 7, 10]
    (newest, evaluation), (oldest, the_same) = resumed(original), resumed(original, from_start=True)
    assert evaluation == the_same
    assert (newest.round, newest.closes, newest.trainers) == (oldest.round, oldest.closes, oldest.trainers)


@pytest.mark.parametrize("begun", [True, False])
def test_folder_without_a_run_is_refused(tmp_path: Path, begun: bool) -> None:
    if begun:
        Store(tmp_path / STORE).close()
    with pytest.raises(BadConfiguration, match=r"^[^\n]*(store is empty|runs ls lists them)[^\n]*$"):
        open_store(tmp_path)


# Dropping old rounds


@pytest.mark.parametrize("rounds", range(1, ROUNDS + 2))
def test_run_without_its_old_rounds_has_the_same_state(original: Path, folder: Path, rounds: int) -> None:
    store = Store(folder / STORE)
    dropped = store.keep_last(rounds)
    store.shrink()
    store.close()
    kept = ROUNDS - dropped
    assert rounds <= kept < rounds + EVERY or dropped == 0
    assert verify(folder) == []
    assert resumed(folder)[1] == resumed(original)[1]
    assert resumed(folder)[0].round == ROUNDS + 1
    again = replay_run(folder)
    assert (again.rounds, again.model_sha256) == (ROUNDS, model_sha256(original))


def test_run_without_its_old_rounds_can_be_continued(folder: Path) -> None:
    store = Store(folder / STORE)
    store.keep_last(1)
    config = store.config
    assert config is not None
    more = federation(config.algorithm, store, ROUNDS + 4)
    model = more.train()
    assert model is not None
    assert [close.round for close in store.closes()] == list(range(7, ROUNDS + 5))
    store.close()
    assert verify(folder) == []
    assert replay_run(folder).model_sha256 == hashlib.sha256(model.to_bytes()).hexdigest()


# Recovery


@pytest.mark.parametrize("last", range(ROUNDS + 2))
def test_run_is_recovered_to_the_requested_round(original: Path, folder: Path, last: int) -> None:
    kept = min(last, ROUNDS)
    assert recover(folder, last) == kept
    assert verify(folder) == []
    assert resumed(folder)[0].round == kept + 1, "at no later checkpoint"
    assert replay_run(folder)[::2] == (kept, after(original, kept))


def test_undamaged_run_is_recovered_completely(original: Path, folder: Path) -> None:
    assert recover(folder, None) == ROUNDS
    assert resumed(folder)[1] == resumed(original)[1]
    assert replay_run(folder) == replay_run(original)


@pytest.mark.parametrize(
    ("statement", "kept"),
    [
        ("UPDATE results SET frames = x'00' WHERE counted_in = 5", 4),
        ("UPDATE closes SET summary = x'00' WHERE round = 5", 4),
        ("DELETE FROM closes WHERE round = 5", 4),
        ("DELETE FROM results WHERE counted_in = 5", 4),
        ("UPDATE closes SET digest = x'00' WHERE round = 1", 0),
        ("UPDATE closes SET before = 'text' WHERE round = 8", 7),
        ("UPDATE checkpoints SET state = x'00' WHERE round = 10", ROUNDS),
        ("UPDATE checkpoints SET state = x'00'", ROUNDS),
        ("DELETE FROM checkpoints", ROUNDS),
    ],
)
def test_undamaged_rounds_are_recovered(original: Path, folder: Path, statement: str, kept: int) -> None:
    change(folder, statement)
    assert verify(folder) or "DELETE FROM checkpoints" in statement
    assert recover(folder, None) == kept
    assert verify(folder) == []
    assert resumed(folder)[0].round == kept + 1
    assert replay_run(folder)[::2] == (kept, after(original, kept))


def test_recovered_run_can_be_continued(folder: Path) -> None:
    change(folder, "DELETE FROM closes WHERE round = 5")
    recover(folder, None)
    store = Store(folder / STORE)
    config, before = store.config, store.term
    assert config is not None
    more = federation(config.algorithm, store, ROUNDS)
    model = more.train()
    assert model is not None
    assert [close.round for close in store.closes()] == list(range(1, ROUNDS + 1))
    assert store.term > before, "trainers that have seen the first life heed the second one"
    store.close()
    assert verify(folder) == []
    assert replay_run(folder).model_sha256 == hashlib.sha256(model.to_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("statement", "kept"),
    [
        ("UPDATE closes SET summary = x'00' WHERE round = 9", 8),
        ("UPDATE checkpoints SET state = x'00' WHERE round = 4", ROUNDS),
        ("UPDATE checkpoints SET state = x'00'", 0),
    ],
)
def test_run_without_its_old_rounds_is_recovered_from_a_checkpoint(folder: Path, statement: str, kept: int) -> None:
    store = Store(folder / STORE)
    assert store.keep_last(4) == EVERY
    store.close()
    change(folder, statement)
    assert recover(folder, None) == kept
    assert verify(folder) == []
    assert resumed(folder)[0].round == kept + 1


def test_damaged_store_stays_beside_the_recovered_one(folder: Path) -> None:
    damaged = (folder / STORE).read_bytes()
    recover(folder, 6)
    recover(folder, 2)
    assert (folder / f"{STORE}.damaged").read_bytes() == damaged
    assert sorted(path.name for path in folder.iterdir()) == [
        "model.npz.damaged",
        "store.commit-marker",
        "store.commit-marker.damaged",
        "store.commit-marker.damaged-2",
        "store.sqlite3",
        "store.sqlite3.damaged",
        "store.sqlite3.damaged-2",
    ]
    (folder / f"{STORE}.damaged-2").replace(folder / STORE)
    assert replay_run(folder).rounds == 6


def test_files_of_a_crashed_recovery_are_replaced(folder: Path) -> None:
    (folder / f"recovered-{STORE}").write_bytes(b"half")
    (folder / f"recovered-{STORE}-wal").write_bytes(b"half")
    assert recover(folder, None) == ROUNDS
    assert verify(folder) == []
    assert not list(folder.glob("recovered-*"))


def test_run_without_its_log_is_recovered_up_to_its_loss(folder: Path) -> None:
    store = Store(folder / STORE)
    config = store.config
    assert config is not None
    more = federation(config.algorithm, store, ROUNDS + 3)
    more.start()
    more.simulation.run(lambda: len(list(store.closes())) == ROUNDS + 2, 60.0)
    more.simulation.crash(AGGREGATOR)
    store.abandon()
    crashed = shutil.copytree(folder, folder.with_name("crashed"))
    store.close()
    for name in (f"{STORE}-wal", f"{STORE}-shm"):
        (crashed / name).unlink()
    assert "write-ahead log" in verify(crashed)[0]
    assert recover(crashed, None) == ROUNDS
    assert verify(crashed) == []


def test_live_run_is_not_recovered(folder: Path) -> None:
    running = Store(folder / STORE)
    running.next_term(0.0)
    with pytest.raises(StoreError, match="no other process"):
        recover(folder, None)
    assert list(running.closes())
    running.close()
    assert not list(folder.glob("*.damaged"))


def test_failed_recovery_leaves_the_store_unchanged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_store: Store) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(Store, "commit", full)
    with pytest.raises(StoreError, match="the disk is full"):
        recover(folder, None)
    monkeypatch.undo()
    assert not list(folder.glob("*.damaged"))
    assert verify(folder) == []


def test_store_with_a_damaged_configuration_is_refused(folder: Path) -> None:
    change(folder, "UPDATE run SET config = x'00'")
    with pytest.raises(StoreError, match=r"^[^\n]*the configuration of the run is not as it was written[^\n]*$"):
        recover(folder, None)
    assert not list(folder.glob("*.damaged"))
