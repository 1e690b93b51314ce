"""The sandbox as a real process: it scores, and every failure of the code is one line for the trainer."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import psutil
import pytest

from fedmq.errors import Rejected, WorkCancelled
from fedmq.tasks.task import Rows
from fedmq.trainer.sandbox import Sandbox

ROWS = Rows(np.arange(12.0).reshape(6, 2), np.array([0.0, 1.0, 0.0, 1.0, 0.0, 1.0]))
POPULATION = np.arange(8.0).reshape(4, 2)
Score = Callable[[Any, Any, Any], Any]


def never() -> bool:
    return False


def packed(score: Score) -> bytes:
    """Pack by value, like the functions of a FILE.py."""
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    try:
        code: bytes = cloudpickle.dumps(score)
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    return code


@pytest.fixture
def boxes() -> Iterator[list[Sandbox]]:
    made: list[Sandbox] = []
    yield made
    for box in made:
        box.close()


def failure_of(score: Score, boxes: list[Sandbox], **limits: Any) -> str:
    """Return the error line of a trainer when this code scores."""
    box = Sandbox(packed(score), ROWS, **limits)
    boxes.append(box)
    with pytest.raises(Rejected) as failure:
        box.score(POPULATION, never)
    assert failure.value.reason == "code"
    assert "\n" not in str(failure.value)
    return failure.value.detail


def good(population: Any, inputs: Any, targets: Any) -> Any:
    return (population.sum(axis=1) + inputs.sum() + targets.sum()), np.arange(len(population)) % 3


def test_code_scores_several_populations(boxes: list[Sandbox]) -> None:
    boxes.append(box := Sandbox(packed(good), ROWS))
    for population in (POPULATION, POPULATION[:1], np.zeros((0, 2))):
        losses, correct = box.score(population, never)
        np.testing.assert_array_equal(losses, population.sum(axis=1) + ROWS.inputs.sum() + 3.0)
        assert correct.tolist() == [index % 3 for index in range(len(population))]
        assert (losses.dtype, correct.dtype) == (np.float64, np.int64)


def test_prints_of_code_are_discarded(boxes: list[Sandbox], capfd: pytest.CaptureFixture[str]) -> None:
    def talkative(population: Any, inputs: Any, targets: Any) -> Any:
        print("hello" * 10_000)
        os.write(1, b"\x00" * 100)
        os.write(2, b"error")
        return np.zeros(len(population)), np.zeros(len(population))

    boxes.append(box := Sandbox(packed(talkative), ROWS))
    assert box.score(POPULATION, never).losses.tolist() == [0.0] * 4
    assert capfd.readouterr() == ("", "")


def raises(population: Any, inputs: Any, targets: Any) -> Any:
    raise KeyError("first line\nsecond line" + "x" * 10_000)


def ends(population: Any, inputs: Any, targets: Any) -> Any:
    os._exit(3)


def ends_with_a_word(population: Any, inputs: Any, targets: Any) -> Any:
    os.write(2, b"x" * 200_000 + b"\nlibtorch.so: failed to map segment\n")  # more than a pipe holds
    os._exit(2)


def asks_to_end(population: Any, inputs: Any, targets: Any) -> Any:
    raise SystemExit(0)


def dies(population: Any, inputs: Any, targets: Any) -> Any:
    import ctypes

    ctypes.string_at(0)


def allocates(population: Any, inputs: Any, targets: Any) -> Any:
    return np.empty(10 << 27), None  # 10 GiB, of which nothing is touched


def forks(population: Any, inputs: Any, targets: Any) -> Any:
    for _ in range(8):  # few enough to do no harm where nothing stops them
        if os.fork() == 0:
            os._exit(0)


def begins_threads(population: Any, inputs: Any, targets: Any) -> Any:
    threading.Thread(target=print).start()


def runs_a_program(population: Any, inputs: Any, targets: Any) -> Any:
    os.execv("/bin/sh", ["sh", "-c", "true"])  # noqa: S606


def signals_its_parent(population: Any, inputs: Any, targets: Any) -> Any:
    os.kill(os.getppid(), 0)  # no signal at all: only whether it might


def lifts_a_limit(population: Any, inputs: Any, targets: Any) -> Any:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))


def nonsense(population: Any, inputs: Any, targets: Any) -> Any:
    return "a good result"


def too_few(population: Any, inputs: Any, targets: Any) -> Any:
    return np.zeros(3), np.zeros(3)


def not_numbers(population: Any, inputs: Any, targets: Any) -> Any:
    return np.full(len(population), np.nan), np.zeros(len(population))


def negative(population: Any, inputs: Any, targets: Any) -> Any:
    return np.full(len(population), -1.0), np.zeros(len(population))


def huge(population: Any, inputs: Any, targets: Any) -> Any:
    return np.full(len(population), 1e300), np.zeros(len(population))


def more_than_rows(population: Any, inputs: Any, targets: Any) -> Any:
    return np.zeros(len(population)), np.full(len(population), 7)


def halves(population: Any, inputs: Any, targets: Any) -> Any:
    return np.zeros(len(population)), np.full(len(population), 0.5)


def changes_the_rows(population: Any, inputs: Any, targets: Any) -> Any:
    inputs[0, 0] = 1.0


def takes_the_pipe(population: Any, inputs: Any, targets: Any) -> Any:
    for descriptor in range(3, 10):
        with suppress(OSError):
            os.write(descriptor, b"\xff" * 5000)


def says_it_has_failed_with_garbage(population: Any, inputs: Any, targets: Any) -> Any:
    for descriptor in range(3, 10):
        with suppress(OSError):
            os.write(descriptor, (4).to_bytes(8, "little") + b"\xc1\xc1\xc1\xc1")


@pytest.mark.parametrize(
    ("score", "words"),
    [
        (raises, "failed: KeyError: 'first line"),
        (ends, "its process ended with exit code 3"),
        (ends_with_a_word, "its process ended with exit code 2: libtorch.so: failed to map segment"),
        (asks_to_end, "SystemExit: 0"),
        (dies, "its process ended with SIGSEGV"),
        (allocates, "MemoryError"),
        (forks, "Error: [Errno"),
        (begins_threads, "can't start new thread"),
        (runs_a_program, "Error: [Errno"),
        (signals_its_parent, "PermissionError: [Errno 1]"),
        (lifts_a_limit, "not allowed to raise maximum limit"),
        (nonsense, r"expected a pair (losses, correct), got str"),
        (too_few, "expected losses of shape (4,), got float64 of shape (3,)"),
        (not_numbers, "expected losses from 0 to 2.76701e+19, got nan"),
        (negative, "expected losses from 0 to 2.76701e+19, got -1"),
        (huge, "expected losses from 0 to 2.76701e+19, got 1e+300"),
        (more_than_rows, "expected from 0 to 6 correct rows"),
        (halves, "expected whole numbers of correct rows, got 0.5"),
        (changes_the_rows, "read-only"),
        (takes_the_pipe, "expected an answer of at most"),
        (says_it_has_failed_with_garbage, "invalid message"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_every_failure_of_code_is_one_line(score: Score, words: str, boxes: list[Sandbox]) -> None:
    assert words in failure_of(score, boxes)


def test_code_reaches_no_open_port(boxes: list[Sandbox]) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.setblocking(False)
        port = listening.getsockname()[1]

        def connects(population: Any, inputs: Any, targets: Any) -> Any:
            socket.create_connection(("127.0.0.1", port), timeout=2.0).sendall(inputs.tobytes())

        assert "Error: [Errno" in failure_of(connects, boxes)
        with pytest.raises(BlockingIOError):
            listening.accept()


def test_code_reads_and_writes_no_file(tmp_path: Path, boxes: list[Sandbox]) -> None:
    (tmp_path / "secret").write_text("rows of another user")
    new, secret = tmp_path / "new", tmp_path / "secret"

    def writes(population: Any, inputs: Any, targets: Any) -> Any:
        new.write_text("x")

    def removes(population: Any, inputs: Any, targets: Any) -> Any:
        secret.unlink()

    def empties(population: Any, inputs: Any, targets: Any) -> Any:
        os.truncate(secret, 0)

    def reads(population: Any, inputs: Any, targets: Any) -> Any:
        raise ValueError(secret.read_text())

    for score in (writes, removes, empties, reads):
        line = failure_of(score, boxes)
        assert "PermissionError" in line, line
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
    assert (tmp_path / "secret").read_text() == "rows of another user"


def test_code_reads_nothing_else_below_the_search_path(
    tmp_path: Path, boxes: list[Sandbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "keys" / "trainer.key"
    key.parent.mkdir()
    key.write_text("a secret")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.environ.get("PYTHONPATH", "."), str(tmp_path)]))

    def reads(population: Any, inputs: Any, targets: Any) -> Any:
        (folder,) = [one for one in sys.path if os.path.exists(f"{one}/keys/trainer.key")]  # noqa: PTH110
        raise ValueError(Path(folder, "keys", "trainer.key").read_text())

    line = failure_of(reads, boxes)
    assert "PermissionError" in line, line


def test_modules_of_fedmq_can_be_imported_late(boxes: list[Sandbox]) -> None:
    def loads(population: Any, inputs: Any, targets: Any) -> Any:
        import fedmq.algorithms.evolution.archive
        import fedmq.broker.routing

        assert fedmq.broker.routing
        assert fedmq.algorithms.evolution.archive
        return np.zeros(len(population)), np.zeros(len(population))

    boxes.append(box := Sandbox(packed(loads), ROWS))
    assert len(box.score(POPULATION, never).losses) == 4


def test_installed_modules_can_be_imported_late(boxes: list[Sandbox]) -> None:
    def loads(population: Any, inputs: Any, targets: Any) -> Any:
        import sqlite3  # an extension with a library of its own

        assert sqlite3.sqlite_version
        return np.random.default_rng().random(len(population)), np.zeros(len(population))

    boxes.append(box := Sandbox(packed(loads), ROWS))
    assert len(box.score(POPULATION, never).losses) == 4


def test_code_has_no_environment_variables(boxes: list[Sandbox], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMQ_SECRET", "secret")

    def looks(population: Any, inputs: Any, targets: Any) -> Any:
        assert set(os.environ) <= {
            "PYTHONPATH",
            "OPENBLAS_NUM_THREADS",
            "OMP_NUM_THREADS",
            "MKL_NUM_THREADS",
            "LC_CTYPE",
        }
        return np.zeros(len(population)), np.zeros(len(population))

    boxes.append(box := Sandbox(packed(looks), ROWS))
    box.score(POPULATION, never)


def loops(population: Any, inputs: Any, targets: Any) -> Any:
    while True:
        pass


def test_endless_code_is_stopped(boxes: list[Sandbox]) -> None:
    assert "expected an answer within 2 s, got none" in failure_of(loops, boxes, answer_s=2.0)


def test_cancelled_code_is_killed(boxes: list[Sandbox]) -> None:
    boxes.append(box := Sandbox(packed(loops), ROWS))
    before = psutil.Process().children()
    looks = iter(range(10))
    with pytest.raises(WorkCancelled):
        box.score(POPULATION, lambda: next(looks, None) is None)
    assert psutil.Process().children() == before


def test_failure_restarts_the_process(boxes: list[Sandbox]) -> None:
    def fails_with_one(population: Any, inputs: Any, targets: Any) -> Any:
        if len(population) == 1:
            raise ValueError
        return np.zeros(len(population)), np.zeros(len(population))

    boxes.append(box := Sandbox(packed(fails_with_one), ROWS))
    box.score(POPULATION, never)
    with pytest.raises(Rejected):
        box.score(POPULATION[:1], never)
    assert box.score(POPULATION, never).losses.tolist() == [0.0] * 4


def test_invalid_code_is_one_line(boxes: list[Sandbox]) -> None:
    boxes.append(box := Sandbox(b"no pickle", ROWS))
    with pytest.raises(Rejected, match="UnpicklingError"):
        box.score(POPULATION, never)


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def test_code_is_confined_while_it_is_unpickled(tmp_path: Path, boxes: list[Sandbox]) -> None:
    boxes.append(box := Sandbox(cloudpickle.dumps(Evil(tmp_path / "marker")), ROWS))
    with pytest.raises(Rejected, match="PermissionError"):
        box.score(POPULATION, never)
    assert not (tmp_path / "marker").exists()


def test_large_rows_and_populations_are_scored(boxes: list[Sandbox]) -> None:
    rows = Rows(np.ones((20_000, 20)), np.zeros(20_000))

    def counts(population: Any, inputs: Any, targets: Any) -> Any:
        return population.sum(axis=1), np.full(len(population), len(inputs))

    boxes.append(box := Sandbox(packed(counts), rows))
    scores = box.score(np.ones((2_000, 100)), never)
    assert scores.losses.tolist() == [100.0] * 2_000
    assert set(scores.correct.tolist()) == {20_000}


ALONE = """
import sys
import fedmq.trainer.confinement as confinement
setattr(confinement, sys.argv[1], lambda *_: None)
if sys.argv[1] == "_filter_calls":
    confinement._close_files = lambda *_: None
else:
    confinement._NEW_NETWORK = confinement._NEW_USER = 0
print(confinement.confine(1 << 30))
import socket
import subprocess
import sys
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[2])), timeout=2.0)
except OSError as error:
    print("cut off:", error.strerror)
"""


@pytest.mark.parametrize("left_out", ["_filter_calls", "_close_files"])
def test_network_is_blocked_in_two_ways(left_out: str) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        done = subprocess.run(
            [sys.executable, "-c", ALONE, left_out, str(listening.getsockname()[1])],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
    if "network" in done.stdout.splitlines()[0]:
        pytest.skip(f"there is no network of one's own here: {done.stdout.splitlines()[0]}")
    assert "cut off:" in done.stdout, done


def test_fitness_function_gets_typed_solutions_and_the_rows(boxes: list[Sandbox]) -> None:
    def fitness_func(ga_instance: Any, solution: Any, solution_idx: int) -> list[float]:
        assert [type(value) for value in solution] == [int, float]
        assert (ga_instance.population[solution_idx] == solution).all()
        return [float(ga_instance.inputs[:, solution[0]].sum()), solution[1] - len(ga_instance.targets)]

    boxes.append(Sandbox(packed(fitness_func), ROWS, 2))
    fitness = boxes[-1].fitness(np.array([[0.0, 0.5], [1.0, 2.0]]), ("int", "float"), never)
    assert fitness.tolist() == [[30.0, -5.5], [36.0, -4.0]]


@pytest.mark.parametrize(
    ("returned", "problem"), [([1.0], "2 numbers"), ([1.0, float("nan")], "finite"), (None, "2 numbers"), ("x", "2")]
)
def test_fitness_that_is_no_line_of_finite_numbers_is_an_error(
    returned: Any, problem: str, boxes: list[Sandbox]
) -> None:
    boxes.append(Sandbox(packed(lambda _ga, _solution, _place: returned), ROWS, 2))
    with pytest.raises(Rejected, match=problem):
        boxes[-1].fitness(POPULATION, ("float",), never)
