"""A sandbox: a child process without files, network or children, in which the code of a task scores candidates.

`fedmq.trainer.code_policy` decides which code runs here. The code controls the process, so every answer is checked.
"""

import logging
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeVar

import msgspec
import numpy as np

from fedmq.errors import Rejected, WorkCancelled
from fedmq.models.arrays import Floats
from fedmq.models.genes import Population
from fedmq.models.losses import ROW_SQUARED_ERROR_MAX, Scores
from fedmq.runtime.malformed import MALFORMED
from fedmq.runtime.printable import printable
from fedmq.runtime.search_path import python_path
from fedmq.tasks.task import Rows
from fedmq.trainer.sandbox_protocol import (
    DETAIL_MAX,
    LENGTH_BYTES,
    Confined,
    FitnessReply,
    FromSandbox,
    Loaded,
    SandboxFailure,
    SandboxSetup,
    ScoreReply,
    ScoreRequest,
    ToSandbox,
    body_bytes,
    encode_message,
)

MEMORY_BYTES = 1 << 30  # of address space, plus four copies of the rows
ANSWER_S = 300.0  # for one population
ANSWER_BYTES_MAX = 4096  # in addition to the scores
POLL_S = 0.05  # between two checks for cancellation
CHUNK_BYTES = 1 << 16
ERRORS_BYTES = 2000  # of what the process last wrote to stderr

log = logging.getLogger(__name__)

Cancelled = Callable[[], bool]
Answered = TypeVar("Answered")


class Sandbox:
    """The code of one task with one trainer's rows; the process starts with the first population.

    After a failure, the next population gets a new process. Use it from one thread only; the process ends with that
    thread, or with this object.
    """

    def __init__(
        self,
        code: bytes,
        rows: Rows,
        objectives: int = 0,
        *,
        memory_bytes: int = MEMORY_BYTES,
        answer_s: float = ANSWER_S,
    ) -> None:
        self._setup = SandboxSetup(code, rows.inputs.shape[1], _raw(rows.inputs), _raw(rows.targets), objectives)
        self._rows = len(rows.inputs)
        self._memory_bytes = memory_bytes + 4 * (rows.inputs.nbytes + rows.targets.nbytes)
        self._answer_s = answer_s
        self._process: subprocess.Popen[bytes] | None = None
        self._errors = b""

    def score(self, population: Floats, cancelled: Cancelled) -> Scores:
        """Return summed loss and number of correct rows of each candidate of (population, parameters).

        Raises:
            Rejected: with the reason `code`: it failed, exceeded time or memory, or returned impossible numbers.
            WorkCancelled: `cancelled()` became true.
        """
        request, size = ScoreRequest(population.shape[1], _raw(population)), len(population)
        return self._asked(request, 16 * size, cancelled, lambda answer: self._checked(answer, size))

    def fitness(self, population: Population, types: tuple[str, ...], cancelled: Cancelled) -> Floats:
        """Return what the fitness function of the code returns for each candidate, (population, objectives).

        `types` are those of the genes that the function gets. Raises as `score`.
        """
        shape = (len(population), self._setup.objectives)
        request = ScoreRequest(population.shape[1], _raw(population.astype(np.float64)), types)

        def checked(answer: FromSandbox) -> Floats:
            if isinstance(answer, SandboxFailure):
                self._refuse(answer.detail)
            if not isinstance(answer, FitnessReply) or len(answer.fitness) != 8 * shape[0] * shape[1]:
                self._refuse(f"expected the fitness of {shape[0]} candidates, got something else")
            fitness = np.frombuffer(answer.fitness, "<f8").reshape(shape)
            if not np.isfinite(fitness).all():
                self._refuse("expected a finite fitness, got NaN or infinity: return a very low number instead")
            return fitness

        return self._asked(request, 8 * shape[0] * shape[1], cancelled, checked)

    def _asked(
        self, request: ScoreRequest, size: int, cancelled: Cancelled, checked: Callable[[FromSandbox], Answered]
    ) -> Answered:
        """Return the checked answer, of at most `size` bytes of numbers; start the process if there is none."""
        try:
            if self._process is None:
                self._start(cancelled)
            return checked(self._exchange(request, size, cancelled))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._process is not None:
            self._process = None
            self._end()

    def _start(self, cancelled: Cancelled) -> None:
        environment = {
            "PYTHONPATH": os.pathsep.join(python_path()),
            **{f"{name}_NUM_THREADS": "1" for name in ("OPENBLAS", "OMP", "MKL")},
        }
        nowhere = tempfile.mkdtemp(prefix="fedmq-")
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "fedmq.trainer.sandbox_worker", str(self._memory_bytes)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=nowhere,
                env=environment,
                bufsize=0,
                start_new_session=True,
            )
        finally:
            Path(nowhere).rmdir()  # the process is in it; a removed folder accepts no files
        self._end = weakref.finalize(self, _end, self._process)
        self._errors = b""
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
        confined = self._exchange(None, 0, cancelled)
        if not isinstance(confined, Confined):
            self._refuse(f"expected a message about its confinement, got {confined}")
        if confined.missing:
            log.warning("this kernel does not support for code of tasks: %s", "; ".join(confined.missing))
        if not isinstance(loaded := self._exchange(self._setup, 0, cancelled), Loaded):
            self._refuse(loaded.detail if isinstance(loaded, SandboxFailure) else f"expected it to load, got {loaded}")

    def _checked(self, answer: FromSandbox, size: int) -> Scores:
        if isinstance(answer, SandboxFailure):
            self._refuse(answer.detail)
        if not isinstance(answer, ScoreReply) or len(answer.losses) != 8 * size or len(answer.correct) != 8 * size:
            self._refuse(f"expected scores of {size} candidates, got something else")
        losses, correct = np.frombuffer(answer.losses, "<f8"), np.frombuffer(answer.correct, "<i8")
        most = ROW_SQUARED_ERROR_MAX * self._rows
        wrong = losses[~((losses >= 0) & (losses <= most))]
        if wrong.size:
            self._refuse(f"expected losses from 0 to {most:g}, got {wrong[0]:g}")
        if not ((correct >= 0) & (correct <= self._rows)).all():
            self._refuse(f"expected from 0 to {self._rows} correct rows, got another number")
        return Scores(losses, correct)

    def _exchange(self, message: ToSandbox | None, answer_bytes: int, cancelled: Cancelled) -> FromSandbox:
        """Send a message; return the answer, of at most `answer_bytes` plus `ANSWER_BYTES_MAX`."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        left, got = memoryview(b"" if message is None else encode_message(message)), bytearray()
        most = answer_bytes + ANSWER_BYTES_MAX
        until = time.monotonic() + self._answer_s
        reply, errors, request = process.stdout.fileno(), process.stderr.fileno(), process.stdin.fileno()

        def receive() -> bool:
            got.extend(self._read(process, reply))
            if len(got) >= LENGTH_BYTES and max(body_bytes(got), len(got) - LENGTH_BYTES) > most:
                self._refuse(f"expected an answer of at most {most} bytes, got more")
            return True

        def send() -> bool:
            nonlocal left
            left = self._write(request, left)
            return bool(left)

        with selectors.DefaultSelector() as pipes:  # each with what to do; False: nothing more
            pipes.register(reply, selectors.EVENT_READ, receive)
            pipes.register(errors, selectors.EVENT_READ, partial(self._read_errors, errors))
            if left:
                pipes.register(request, selectors.EVENT_WRITE, send)
            while len(got) < LENGTH_BYTES or len(got) < LENGTH_BYTES + body_bytes(got):
                if cancelled():
                    raise WorkCancelled("the code was stopped: a newer round replaces its work")
                if time.monotonic() > until:
                    self._refuse(f"expected an answer within {self._answer_s:g} s, got none: killed")
                for key, _ in pipes.select(POLL_S):
                    if not key.data():
                        pipes.unregister(key.fileobj)
        return self._decoded(memoryview(got)[LENGTH_BYTES:])

    def _decoded(self, body: memoryview) -> FromSandbox:
        try:
            answer: FromSandbox = msgspec.msgpack.decode(body, type=FromSandbox)
            return answer
        except MALFORMED:
            self._refuse("expected scores, got an invalid message")

    def _read(self, process: subprocess.Popen[bytes], descriptor: int) -> bytes:
        chunk = os.read(descriptor, CHUNK_BYTES)
        if not chunk:
            code = process.wait(1.0)
            ending = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
            assert process.stderr is not None
            while self._read_errors(process.stderr.fileno()):
                pass
            last = self._errors.decode(errors="replace").strip().rpartition("\n")[2]
            self._refuse(f"expected an answer, but its process ended with {ending}{': ' * bool(last)}{last}")
        return chunk

    def _read_errors(self, descriptor: int) -> bool:
        """Read from stderr, and keep its end; return whether there may be more."""
        try:
            chunk = os.read(descriptor, CHUNK_BYTES)
        except BlockingIOError:
            return False
        self._errors = (self._errors + chunk)[-ERRORS_BYTES:]
        return bool(chunk)

    @staticmethod
    def _write(descriptor: int, left: memoryview) -> memoryview:
        try:
            return left[os.write(descriptor, left[:CHUNK_BYTES]) :]
        except BrokenPipeError:
            return left[:0]  # it has ended; its last message is still to be read

    @staticmethod
    def _refuse(detail: str) -> NoReturn:
        line = " ".join(printable(detail).split())
        raise Rejected("code", f"the code that scores this run failed: {line:.{DETAIL_MAX}}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        assert pipe is not None
        pipe.close()


def _raw(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array, dtype="<f8").tobytes()
