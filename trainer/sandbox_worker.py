"""The process that runs the code of a task: `python -m fedmq.trainer.sandbox_worker MEMORY_BYTES`.

THE ONE PLACE OF FEDMQ THAT UNPICKLES. Nobody imports this module. It gives up all that it can before it reads a byte
of the code, and whoever starts it has seen signature, pin and flag: `fedmq.trainer.code_policy`.
"""

from __future__ import annotations

from fedmq.runtime.search_path import move_user_folders_last

move_user_folders_last()  # before any import that could find a file of the user, such as random.py

import os
import pickle
import sys
from collections.abc import Callable
from typing import BinaryIO

import msgspec
import numpy as np
import numpy.typing as npt

from fedmq.trainer.confinement import confine
from fedmq.trainer.sandbox_protocol import (
    DETAIL_MAX,
    LENGTH_BYTES,
    Ask,
    Confined,
    Failed,
    FromSandbox,
    Loaded,
    Scored,
    Setup,
    ToSandbox,
    body_bytes,
    pack,
)

Floats = npt.NDArray[np.float64]
Score = Callable[[Floats, Floats, Floats], object]


def main() -> None:
    """Serve the process at the other end of stdin and stdout until it closes them, or the code fails."""
    asked, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # the code may print as it likes
        os.dup2(nowhere, stream)
    os.close(nowhere)
    _say(answers, Confined(confine(int(sys.argv[1]))))
    try:
        _serve(asked, answers)
    except BaseException as error:  # noqa: BLE001  whatever the code raises, SystemExit too, is an answer
        _say(answers, Failed(f"{type(error).__name__}: {error}"[:DETAIL_MAX]))
    os._exit(0)  # nothing of what the code has left behind is run


def _serve(asked: BinaryIO, answers: BinaryIO) -> None:
    setup = _hear(asked)
    assert isinstance(setup, Setup)
    inputs = np.frombuffer(setup.inputs, "<f8").reshape(-1, setup.columns)  # read-only, like every frombuffer of bytes
    targets = np.frombuffer(setup.targets, "<f8")
    score: Score = pickle.loads(setup.code)  # noqa: S301  behind signature, pin and flag, in a process that has nothing
    _say(answers, Loaded())
    while (ask := _hear(asked)) is not None:
        assert isinstance(ask, Ask)
        population = np.frombuffer(ask.population, "<f8").reshape(-1, ask.genes).copy()
        _say(answers, _scored(score(population, inputs, targets), len(population)))


def _scored(returned: object, size: int) -> Scored:
    """What the code returned, if it is what it should be; the other side checks the numbers."""
    if not isinstance(returned, tuple | list) or len(returned) != 2:
        raise TypeError(f"expected a pair (losses, correct), got {type(returned).__name__}")
    columns = []
    for name, values, dtype in (("losses", returned[0], "<f8"), ("correct", returned[1], "<i8")):
        array = np.asarray(values)
        if array.shape != (size,) or array.dtype.kind not in "biuf":
            raise TypeError(f"expected {name} of shape ({size},), got {array.dtype} of shape {array.shape}")
        with np.errstate(invalid="ignore"):
            exact = array.astype(dtype)
        if dtype == "<i8" and (exact != array).any():
            raise ValueError(f"expected whole numbers of {name} rows, got {array[exact != array][0]:g}")
        columns.append(exact.tobytes())
    return Scored(*columns)


def _hear(asked: BinaryIO) -> ToSandbox | None:
    head = asked.read(LENGTH_BYTES)
    return msgspec.msgpack.decode(asked.read(body_bytes(head)), type=ToSandbox) if head else None


def _say(answers: BinaryIO, said: FromSandbox) -> None:
    answers.write(pack(said))
    answers.flush()


if __name__ == "__main__":
    main()
