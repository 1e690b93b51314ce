"""Only one module unpickles, no module imports it, and every other entrance treats pickles as bytes.

`tests/integration/test_sandbox.py` tests what the sandbox prevents.
"""

from __future__ import annotations

import ast
import os
import pickle
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from fedmq.algorithms.base import encode_query
from fedmq.algorithms.checkpoint import load
from fedmq.algorithms.evolution.query import Evolve
from fedmq.algorithms.registry import find_algorithm
from fedmq.cli.main import fedmq
from fedmq.data.readers import load_rows
from fedmq.errors import FedmqError, Rejected
from fedmq.models.networks import Code
from fedmq.models.trained_model import load_model
from fedmq.observe.event_log import read_run_state
from fedmq.protocol.codec import decode, encode
from fedmq.protocol.messages import ArrayInfo, Round
from fedmq.runs import store as stores
from fedmq.runs.blobs import Blobs
from fedmq.runs.maintenance import recover, replay_run
from fedmq.runs.records import Checkpoint, StoredResult
from fedmq.runs.replay import replay
from fedmq.runs.report import read_report
from fedmq.runs.status import status_text
from fedmq.runs.store import Store
from fedmq.runtime.clock import SystemClock
from fedmq.runtime.run_folder import EVENTS, REPORT, STORE
from fedmq.tasks.task import Task
from fedmq.tasks.task_file import find_task, task_rows
from fedmq.testing import run_config
from fedmq.trainer.code_policy import CodePolicy
from fedmq.trainer.round_handler import on_rows
from fedmq.trainer.spool import FileSpool
from fedmq.trainer.worker import perform

ROOT = Path(__file__).parents[2]
PACKAGES = ["fedmq", "broker", "aggregator", "trainer", "deploy"]
THE_ONE_PLACE = "trainer/sandbox_worker.py"
# Modules whose readers run what they read, some of them unasked.
UNPICKLERS = re.compile(r"_?pickle|cPickle|marshal|shelve|dill|joblib|jsonpickle|multiprocessing|logging\.config|yaml")


# They write a pipeline of scikit-learn, which is a pickle, and run it once from memory before it goes to a file.
EXPORTS = {"fedmq/models/exports/sklearn_pipeline.py", "fedmq/models/exports/verified.py"}

# The pipes to processes that a simulation has forked itself; no message of a network reaches them.
OWN_PROCESSES = {"fedmq/simulation/processes.py"}


@cache
def modules() -> dict[str, ast.Module]:
    """Return the syntax tree of each module of the product, by its path."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in paths}


def imported(tree: ast.AST) -> set[str]:
    """Return the full name of every imported module, and `module.name` of each name imported from one."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def importers(pattern: str | re.Pattern[str]) -> set[str]:
    return {path for path, tree in modules().items() if any(re.fullmatch(pattern, name) for name in imported(tree))}


def calls(path: str) -> Iterator[tuple[str, ast.Call]]:
    """Return each call of `something.name(...)` in a module, with its name."""
    for node in ast.walk(modules()[path]):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node.func.attr, node


def test_only_one_module_imports_pickle_and_exports_read_back_what_they_wrote() -> None:
    assert importers(UNPICKLERS) - EXPORTS - OWN_PROCESSES == {THE_ONE_PLACE}
    of_joblib = [name for path in EXPORTS for name, call in calls(path) if ast.unparse(call).startswith("joblib.")]
    assert sorted(of_joblib) == ["dump", "load"]
    users = {path for path in importers(r"fedmq\.models\.exports.*") if not path.startswith("fedmq/models/exports/")}
    assert users == {"fedmq/__init__.py", "fedmq/runs/model_commands.py"}, "no service comes near them"


def test_sandbox_worker_unpickles_in_one_line() -> None:
    assert [name for name, call in calls(THE_ONE_PLACE) if ast.unparse(call).startswith("pickle.")] == ["loads"]


def test_only_one_module_packs_code() -> None:
    assert importers("cloudpickle.*") == {"fedmq/tasks/shipping.py"}
    attributes = [node for node in ast.walk(modules()["fedmq/tasks/shipping.py"]) if isinstance(node, ast.Attribute)]
    used = {node.attr for node in attributes if ast.unparse(node.value) == "cloudpickle"}
    assert used == {"dumps", "register_pickle_by_value", "unregister_pickle_by_value"}


def test_no_module_imports_the_sandbox_worker_and_one_starts_it() -> None:
    assert importers(r"fedmq\.trainer\.sandbox_worker.*") == set()
    naming = {path for path in modules() if re.search(r'"fedmq\.trainer\.sandbox_worker"', (ROOT / path).read_text())}
    assert naming == {"trainer/sandbox.py"}


def test_only_one_module_starts_a_sandbox_with_allowed_code() -> None:
    assert importers(r"fedmq\.trainer\.sandbox\.Sandbox") == {"trainer/round_handler.py"}
    text = (ROOT / "trainer" / "round_handler.py").read_text()
    assert text.count("policy.code(packet)") == 1
    assert re.findall(r"\bSandbox\((\w+)", text) == ["code"]
    assert re.findall(r"\bsandbox_of\((.*?)\)", text) == ["task, code, rows"]
    assert text.index("code = _code(packet, policy, own)") < text.index("sandbox_of(task, code, rows)")


def test_numpy_never_unpickles() -> None:
    for path in modules():
        assert "allow_pickle=True" not in (ROOT / path).read_text(), path
        for name, call in calls(path):
            if name in ("read_array",) or ast.unparse(call.func) in ("np.load", "numpy.load"):
                said = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
                assert said.get("allow_pickle") == "False", f"{path}:{call.lineno}"


def test_no_module_evaluates_text() -> None:
    for path, tree in modules().items():
        names = {
            node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not names & {"eval", "exec", "__import__"}, path


# --- every other entrance ---------------------------------------------------------------------------------------


class Evil:
    """Creates a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """A path that must not exist at the end of a test."""
    marker = tmp_path / "marker"
    yield marker
    assert not marker.exists()


@pytest.fixture(params=range(pickle.HIGHEST_PROTOCOL + 1), ids=lambda protocol: f"protocol-{protocol}")
def evil(request: pytest.FixtureRequest, marker: Path) -> bytes:
    return pickle.dumps(Evil(marker), request.param)


def test_the_trap_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Evil(tmp_path / "sprung")))  # noqa: S301
    assert (tmp_path / "sprung").exists()


def refused(function: Callable[..., object], *arguments: Any) -> None:
    """Call a function that may raise FedmqError, and no other exception."""
    with suppress(FedmqError):
        function(*arguments)


TASK = Task(name="mine", model=Code(num_parameters=2, inputs=2), loss="own", metric="loss", target=0.0)


def code_round(code: bytes, task: Task = TASK, *, name: bytes | None = None) -> Any:
    if isinstance(task.model, Code):
        task = replace(task, model=replace(task.model, sha256=sha256(code).digest() if name is None else name))
    message = Round(run="run", term=1, round=1, seed=1, deadline_s=1.0, task=task, query=encode_query(Evolve(elites=0)))
    arrays = {
        "ids": np.arange(1),
        "pool": np.zeros((1, task.model.num_parameters)),
        "code": np.frombuffer(code, np.uint8),
    }
    return decode(encode("round/run", message, arrays))


def test_frames_of_the_network(evil: bytes) -> None:
    whole = list(code_round(evil).frames)
    for position in range(len(whole)):
        refused(decode, [*whole[:position], evil, *whole[position + 1 :]])
    for name, dtype in (("code", "|O"), ("pool", "|O8"), ("pool", "|u1"), ("code", "<f8"), ("model", "|u1")):
        info = ArrayInfo(name, dtype, (len(evil),), len(evil), sha256(evil).digest())
        message = msgspec.structs.replace(code_round(evil).message, arrays=(info,))
        with pytest.raises(Rejected, match=r"dtype|nbytes"):
            decode([b"round/run", msgspec.msgpack.encode(message), b"", evil])


def test_code_frame_is_at_most_a_mebibyte_of_bytes() -> None:
    large = bytes((1 << 20) + 1)
    info = ArrayInfo("code", "|u1", (len(large),), len(large), sha256(large).digest())
    message = msgspec.structs.replace(code_round(b"x").message, arrays=(info,))
    with pytest.raises(Rejected, match="nbytes"):
        decode([b"round/run", msgspec.msgpack.encode(message), b"", large])
    with pytest.raises(FedmqError, match="cannot be sent"):
        code_round(large)


@pytest.mark.parametrize(
    "policy",
    [CodePolicy(), CodePolicy(allowed=True), CodePolicy(signer=lambda _packet: "SHA256:key")],
    ids=["neither", "without a pin", "without the flag"],
)
def test_a_round_with_code_at_a_trainer_that_does_not_run_it(evil: bytes, policy: CodePolicy) -> None:
    done = perform(code_round(evil), on_rows(task_rows("xor", 1, 2), "bob", policy), lambda: False, SystemClock())
    assert done is not None
    assert isinstance(done.outcome, Rejected)
    assert done.outcome.reason == "code"


def test_code_with_a_wrong_digest_at_a_trainer_that_runs_code(evil: bytes) -> None:
    learn = on_rows(task_rows("xor", 1, 2), "bob", CodePolicy(allowed=True, signer=lambda _packet: "SHA256:key"))
    for packet in (code_round(evil, name=b"\0" * 32), code_round(evil, find_task("xor"))):
        done = perform(packet, learn, lambda: False, SystemClock())
        assert done is not None
        assert isinstance(done.outcome, Rejected)


def begun(folder: Path, config: bytes | None = None) -> Path:
    """Return a store with this content and valid digests."""
    folder.mkdir()
    store = Store(folder / STORE)
    store.begin(run_config("run", find_task("xor"), "evolution", seed=1, started=0.0))
    store.close()
    if config is not None:
        with closing(sqlite3.connect(folder / STORE)) as connection:
            digest = stores._digest(config, b"", 0, msgspec.msgpack.encode([]))
            connection.execute("UPDATE run SET config = ?, digest = ?", (config, digest))
            connection.commit()
    return folder / STORE


def test_the_configuration_in_a_store(tmp_path: Path, evil: bytes) -> None:
    store = Store(begun(tmp_path / "run", evil))
    refused(lambda: store.config)
    store.close()
    refused(replay_run, tmp_path / "run")


def test_the_results_checkpoints_and_blobs_of_a_store(tmp_path: Path, evil: bytes) -> None:
    store = Store(begun(tmp_path / "run"))
    store.save(StoredResult(1, "bob", 1, [evil, evil, evil, evil]))
    store.save(Checkpoint(1, evil))
    store.commit()
    store.close()
    store = Store(tmp_path / "run" / STORE)
    refused(replay, store, find_task("xor"), find_algorithm("evolution"), 1)
    refused(lambda: list(store.closes()))
    refused(store.verify)
    store.close()
    refused(recover, tmp_path / "run", None)
    refused(load, evil, int)
    padded = evil + bytes(1 << 20)
    blobs = Blobs(tmp_path / "blobs")
    blobs.keep([padded])
    assert blobs.read(sha256(padded).digest()) == padded


def test_the_files_of_a_run(tmp_path: Path, evil: bytes) -> None:
    path = begun(tmp_path / "run")
    for name in (EVENTS, REPORT, "store.commit_marker", "model.npz"):
        (path.parent / name).write_bytes(evil)
    refused(read_report, path.parent)
    refused(status_text, path.parent, 0.0)
    assert read_run_state(path.parent / EVENTS).seq == 0
    refused(lambda: Store(path).close())
    refused(load_model, path.parent / "model.npz")
    for command in ("ls", "show", "verify", "replay"):
        with suppress(FedmqError):
            CliRunner().invoke(fedmq, ["runs", command, str(path.parent if command != "ls" else tmp_path)])


def test_the_spool_of_a_trainer(tmp_path: Path, evil: bytes) -> None:
    enveloped = msgspec.msgpack.encode([evil, evil, evil, evil])
    for name, content in {
        "bare": evil,
        "whole": sha256(evil).digest() + evil,
        "frames": sha256(enveloped).digest() + enveloped,
    }.items():
        (tmp_path / f"{name}.1.result").write_bytes(content)
    assert FileSpool(tmp_path).load("bob", 2) == []


def test_files_with_rows_and_models(tmp_path: Path, evil: bytes, marker: Path) -> None:
    objects = np.array([Evil(marker), Evil(marker)], dtype=object)
    np.save(tmp_path / "objects.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "objects.npz", inputs=objects, targets=objects, genes=objects, description=objects)
    for name in ("evil.npy", "evil.npz", "evil.csv", "evil.parquet"):
        (tmp_path / name).write_bytes(evil)
    for path in tmp_path.iterdir():
        refused(load_rows, str(path))
        refused(load_model, path)


def test_the_configuration(tmp_path: Path, evil: bytes) -> None:
    (tmp_path / "evil.toml").write_bytes(evil)
    for command in ("broker", "aggregator", "trainer", "demo"):
        CliRunner().invoke(fedmq, [command, "--config", str(tmp_path / "evil.toml")])
