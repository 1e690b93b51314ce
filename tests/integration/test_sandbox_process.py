"""The process of a sandbox: its resource limits, its replacement, and its end."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing, suppress
from hashlib import sha256
from typing import Any

import numpy as np
import psutil
from services import until
from test_sandbox import POPULATION, ROWS, good, never, packed

from fedmq.algorithms.base import encode_query
from fedmq.algorithms.evolution.query import Evolve
from fedmq.models.networks import Code
from fedmq.protocol.codec import decode, encode
from fedmq.protocol.messages import Round
from fedmq.tasks.task import Task
from fedmq.trainer.code_policy import CodePolicy
from fedmq.trainer.confinement import FILES_MAX
from fedmq.trainer.round_handler import on_rows
from fedmq.trainer.sandbox import Sandbox


def test_sandbox_process_has_resource_limits() -> None:
    before = set(psutil.Process().children())
    with closing(Sandbox(packed(good), ROWS)) as box:
        box.score(POPULATION, never)
        (process,) = set(psutil.Process().children()) - before
        none = (psutil.RLIMIT_CORE, psutil.RLIMIT_FSIZE, psutil.RLIMIT_MEMLOCK, psutil.RLIMIT_NPROC)
        assert [process.rlimit(limit) for limit in none] == [(0, 0)] * 4
        assert process.rlimit(psutil.RLIMIT_NOFILE) == (FILES_MAX, FILES_MAX)


def test_sandbox_of_a_new_task_replaces_the_old_one() -> None:
    answer, code = on_rows(ROWS, "bob", CodePolicy(allowed=True, signer=lambda _packet: "SHA256:key")), packed(good)
    before = set(psutil.Process().children())
    for genes in (2, 3):
        model = Code(num_parameters=genes, inputs=2, sha256=sha256(code).digest())
        task = Task(name="mine", model=model, loss="own", metric="loss", target=0.0)
        message = Round(
            run="run", term=1, round=1, seed=1, deadline_s=1.0, task=task, query=encode_query(Evolve(elites=0))
        )
        arrays = {"ids": np.arange(1), "pool": np.zeros((1, genes)), "code": np.frombuffer(code, np.uint8)}
        answer(decode(encode("round/run", message, arrays)), never)
        assert len(set(psutil.Process().children()) - before) == 1


TRAINER = """
import sys
import numpy as np
from fedmq.tasks.task import Rows
from fedmq.trainer.sandbox import Sandbox
box = Sandbox(sys.stdin.buffer.read(), Rows(np.ones((2, 2)), np.zeros(2)))
box.score(np.ones((2, 2)), lambda: False)
print("scored", flush=True)
box.score(np.ones((1, 2)), lambda: print("asked", flush=True))  # the second time the code has been asked
"""


def test_sandbox_ends_when_the_trainer_is_killed() -> None:
    def loops_over_one(population: Any, inputs: Any, targets: Any) -> Any:
        while len(population) == 1:
            pass
        return np.zeros(len(population)), np.zeros(len(population))

    with subprocess.Popen([sys.executable, "-c", TRAINER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as trainer:
        assert trainer.stdin is not None
        assert trainer.stdout is not None
        trainer.stdin.write(packed(loops_over_one))
        trainer.stdin.close()
        assert [trainer.stdout.readline() for _ in range(3)] == [b"scored\n", b"asked\n", b"asked\n"]
        (child,) = psutil.Process(trainer.pid).children()
        trainer.kill()
        try:
            until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "the code to end")
        finally:
            with suppress(psutil.NoSuchProcess):
                child.kill()
