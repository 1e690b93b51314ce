"""Which code a trainer runs: signature, pinned key and option, or a local copy; and how it declines a run."""

from __future__ import annotations

import logging
from hashlib import sha256
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from msgspec.structs import replace
from strategy_rounds import strategy_of

from fedmq.algorithms.averaging.learner import LEARNER
from fedmq.algorithms.averaging.query import EvolutionLearner, Train
from fedmq.algorithms.base import Assignment, encode_query
from fedmq.algorithms.evolution.query import Evolve
from fedmq.algorithms.registry import find_algorithm
from fedmq.errors import BadConfiguration, CodeRefused, Rejected
from fedmq.models.arrays import Floats
from fedmq.models.losses import Scores
from fedmq.models.networks import Code
from fedmq.protocol.codec import Packet, decode, encode
from fedmq.protocol.messages import Goodbye, Round
from fedmq.protocol.run_config import Limits
from fedmq.runs.store import Store
from fedmq.simulation import AGGREGATOR, Federation
from fedmq.tasks.shipping import Shipped, ship
from fedmq.tasks.task import Rows, Task
from fedmq.tasks.task_file import find_task, task_rows
from fedmq.testing import run_config
from fedmq.trainer.code_policy import CodePolicy
from fedmq.trainer.machine import WorkFailed
from fedmq.trainer.round_handler import on_rows
from fedmq.trainer.session import Session
from fedmq.transport.link import MessageReceived, Tick

CODE = b"bytes that are not read here"
TASK = Task(
    name="mine",
    model=Code(num_parameters=2, inputs=3, sha256=sha256(CODE).digest()),
    loss="own",
    metric="loss",
    target=0.0,
    trainers=1,
)
ROWS = Rows(np.zeros((4, 3)), np.zeros(4))
KEY = "SHA256:q1w2e3"


def round_of(task: Task = TASK, code: bytes | None = CODE, number: int = 1) -> Packet:
    message = Round(
        run="run", term=1, round=number, seed=1, deadline_s=1.0, task=task, query=encode_query(Evolve(elites=0))
    )
    arrays = {"ids": np.arange(1), "pool": np.zeros((1, 2))}
    if code is not None:
        arrays["code"] = np.frombuffer(code, np.uint8)
    return decode(encode("round/run", message, arrays))


def signed(_packet: Packet) -> str:
    return KEY


def test_code_of_a_pinned_key_runs_with_allow_code() -> None:
    assert CodePolicy(allowed=True, signer=signed).code(round_of()) == CODE


@pytest.mark.parametrize(
    ("policy", "expected", "offered"),
    [
        (
            CodePolicy(),
            "expected the signature of a pinned aggregator key, got none",
            ["fedmq trainer join", "--allow-code"],
        ),
        (
            CodePolicy(allowed=True),
            "expected the signature of a pinned aggregator key, got none",
            ["fedmq trainer join"],
        ),
        (CodePolicy(signer=signed), "expected --allow-code, got none", [KEY, "start this trainer with --allow-code"]),
    ],
    ids=["neither", "no key", "no flag"],
)
def test_refusal_names_the_key_and_the_option(policy: CodePolicy, expected: str, offered: list[str]) -> None:
    with pytest.raises(CodeRefused, match=r"^code: run run is scored by code, task mine") as refusal:
        policy.code(round_of())
    line = str(refusal.value)
    assert "\n" not in line
    assert all(words in line for words in [expected, *offered, "--score FILE.py"])


def test_refusal_without_a_key_does_not_name_a_given_option() -> None:
    with pytest.raises(CodeRefused) as refusal:
        CodePolicy(allowed=True).code(round_of())
    assert "--allow-code" not in str(refusal.value)


def test_missing_or_other_code_is_rejected() -> None:
    policy = CodePolicy(allowed=True, signer=signed)
    for code, reason in ((None, "arrays"), (CODE + b"!", "sha256")):
        with pytest.raises(Rejected) as refusal:
            policy.code(round_of(code=code))
        assert refusal.value.reason == reason


def test_local_copy_replaces_received_code() -> None:
    own = Shipped(replace(TASK, model=Code(2, 3, sha256(b"own").digest())), b"own")
    policy = CodePolicy(own=own)
    assert policy.code(round_of()) == b"own"
    for changes in (
        {"name": "other"},
        {"model": replace(TASK.model, num_parameters=3)},
        {"model": replace(TASK.model, inputs=4)},
    ):
        with pytest.raises(CodeRefused):
            policy.code(round_of(replace(TASK, **changes)))


def test_code_with_a_task_without_code_is_rejected() -> None:
    xor = find_task("xor")
    with pytest.raises(Rejected, match="arrays: expected"):
        on_rows(task_rows("xor", 1, 2), "bob")(round_of(xor), lambda: False)


# --- a trainer that declines ------------------------------------------------------------------------------------


def session() -> Session:
    return Session("bob", 4, "test", np.random.default_rng(1))


def test_declined_run_gets_goodbye_and_no_more_work() -> None:
    one = session()
    assert one.step(MessageReceived(round_of()), 0.0).start is not None
    effects = one.step(WorkFailed("run", 1, CodeRefused("not signed")), 0.1)
    assert [type(outgoing.message) for outgoing in effects.sends] == [Goodbye]
    effects = one.step(MessageReceived(round_of(number=2)), 5.0)
    assert effects.start is None
    assert [type(outgoing.message) for outgoing in effects.sends] == [Goodbye], "and no Hello"
    assert one.step(Tick(), 9.0).sends == []


def test_refused_code_is_logged_once_and_other_runs_continue(caplog: pytest.LogCaptureFixture) -> None:
    """Alice has a local copy and continues alone after bob has declined."""

    def scores(population: Any, inputs: Any, targets: Any) -> Any:
        return np.abs(population - 1.0).sum(axis=1) + 1.0, np.zeros(len(population), dtype=np.int64)

    own = Shipped(TASK, cloudpickle.dumps(scores))
    policies = {"alice": CodePolicy(own=own), "bob": CodePolicy()}
    store = Store(":memory:")
    store.begin(run_config("run", TASK), own.code)
    federation = Federation(
        TASK,
        find_algorithm("evolution"),
        {"alice": ROWS, "bob": ROWS},
        seed=1,
        limits=Limits(rounds_max=5, min_trainers=1),
        learn=lambda rows, name: on_rows(rows, name, policies[name]),
        store=store,
    )
    with caplog.at_level(logging.WARNING):
        federation.train(limit_s=120.0)
    assert federation.finished
    assert sum("is scored by code" in record.message for record in caplog.records) == 1
    assert federation.aggregator is not None
    results = {one.name: one.results for one in federation.aggregator.rounds.roster.trainers}
    assert results["alice"] == 5
    assert results.get("bob", 0) == 0
    evaluation = federation.aggregator.rounds.evaluation
    assert evaluation is not None
    assert evaluation.loss < 2.0


def test_restarted_aggregator_sends_the_code_of_the_run(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.sqlite3")
    store.begin(run_config("run", TASK), CODE)
    store.close()
    store = Store(tmp_path / "store.sqlite3")
    seen: list[bytes] = []

    def watching(rows: Rows, name: str) -> Any:
        def answer(packet: Packet, _cancelled: Any) -> Any:
            seen.append(packet.arrays["code"].tobytes())
            size = len(packet.arrays["pool"])
            return {"losses": np.ones(size), "correct": np.zeros(size, dtype=np.int64), "elites": np.empty((0, 2))}

        return answer

    limits = Limits(rounds_max=3, min_trainers=1)
    federation = Federation(
        TASK, find_algorithm("evolution"), {"bob": ROWS}, limits=limits, learn=watching, store=store
    )
    federation.start()
    federation.simulation.run(lambda: len(seen) == 1, 60.0)
    federation.simulation.crash(AGGREGATOR)
    federation.simulation.start(AGGREGATOR)
    federation.simulation.run(lambda: federation.finished, 600.0)
    assert federation.finished
    assert set(seen) == {CODE}
    store.close()


# --- what a file becomes ----------------------------------------------------------------------------------------

FILE = """
import numpy as np
from fedmq import Code, Task
import steps_beside

task = Task(name="mine", model=Code(num_parameters=2, inputs=3), loss="own", metric="loss", target=0.0)
FACTOR = 3.0


def score(population, inputs, targets):
    return steps_beside.twice(population.sum(axis=1)) * FACTOR, np.zeros(len(population))
"""


def written(tmp_path: Path, text: str = FILE) -> str:
    (tmp_path / "steps_beside.py").write_text("def twice(values):\n    return 2 * values\n")
    (tmp_path / "mine.py").write_text(text)
    return str(tmp_path / "mine.py")


def test_code_is_packed_with_the_modules_beside_its_file(tmp_path: Path) -> None:
    task, code, _ = ship(written(tmp_path))
    assert code is not None
    assert isinstance(task.model, Code)
    assert task.model.sha256 == sha256(code).digest()
    (tmp_path / "mine.py").unlink()
    (tmp_path / "steps_beside.py").unlink()
    policy = CodePolicy(own=Shipped(task, code))
    answer = on_rows(ROWS, "bob", policy)(round_of(task, code), lambda: False)  # in a process that has seen neither
    assert answer["losses"].tolist() == [0.0]


def test_tasks_without_code_send_no_code(tmp_path: Path) -> None:
    assert ship("xor") == Shipped(find_task("xor"), None)
    data = FILE.replace("Code(num_parameters=2, inputs=3)", "Linear(3)").replace('"own"', '"squared-error"')
    assert ship(written(tmp_path, data.replace("import Code", "import Linear"))).code is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (FILE.replace("def score", "def scores"), r"expected a function score\(population, inputs, targets\)"),
        (FILE.replace("def score", "def fitness_func"), r"expected Code\(objectives=1\) or more with fitness_func"),
        (FILE.replace("FACTOR = 3.0", "FACTOR = (x for x in [])"), r"expected a score\(\) that can be packed, got "),
        (FILE.replace("FACTOR = 3.0", "FACTOR = np.random.default_rng(1).random(200_000)"), "at most 1048576 bytes"),
        (FILE.replace('"own"', '"squared-error"'), 'expected "own" for a Code model'),
        (FILE.replace("num_parameters=2", "num_parameters=0"), "num_parameters: expected an integer from 1"),
        (FILE.replace("inputs=3", "inputs='3'"), "inputs: expected an integer from 1"),
        (FILE.replace("inputs=3", "inputs=3, sha256=b'1'"), "sha256: expected 32 bytes, got 1"),
    ],
)
def test_file_that_cannot_be_packed_is_an_error(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(BadConfiguration, match=words) as refusal:
        ship(written(tmp_path, text))
    assert "\n" not in str(refusal.value)


def test_only_the_sandbox_runs_code() -> None:
    with pytest.raises(BadConfiguration, match="scored by code"):
        TASK.score(np.zeros((1, 2)), ROWS)


@pytest.mark.parametrize("strategy", ["fedavg", "evolution"])
def test_strategies_without_gradients_accept_code(strategy: str) -> None:
    chosen = strategy_of(strategy)
    assert chosen.ask(chosen.init(TASK, 1)).arrays


def test_local_evolution_around_a_model_uses_the_same_function() -> None:
    def scores(population: Floats) -> Scores:
        return Scores(np.abs(population - 1.0).sum(axis=1), np.zeros(len(population), dtype=np.int64))

    work = Assignment(TASK, {"model": np.zeros(2)}, ROWS, scores, np.random.default_rng(1))
    answer = LEARNER.learn(Train(EvolutionLearner()), work)
    assert answer["losses"].tolist() == [2.0]
    assert scores(answer["model"][None]).losses[0] < 0.5


def test_strategy_with_gradients_rejects_code() -> None:
    with pytest.raises(BadConfiguration, match="learner=gradient, got Code of task mine"):
        find_algorithm("averaging").init(TASK, 1)
