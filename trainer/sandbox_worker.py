"""The process that runs the code of a task: `python -m fedmq.trainer.sandbox_worker MEMORY_BYTES`.

THE ONLY MODULE OF FEDMQ THAT UNPICKLES. No module imports it. It restricts itself before it reads any code, and
`fedmq.trainer.code_policy` has checked signature, pinned key and option before it is started.
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
    Confined,
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

Floats = npt.NDArray[np.float64]
Score = Callable[[Floats, Floats, Floats], object]


def main() -> None:
    """Serve the trainer over stdin and stdout until it closes them, or the code fails."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):  # the code may print; the trainer reads the last line of stderr when the process ends
        os.dup2(nowhere, stream)
    os.close(nowhere)
    _send(replies, Confined(confine(int(sys.argv[1]))))
    try:
        _serve(requests, replies)
    except BaseException as error:  # noqa: BLE001  any exception of the code, SystemExit too, is an answer
        _send(replies, SandboxFailure(f"{type(error).__name__}: {error}"[:DETAIL_MAX]))
    os._exit(0)  # runs no exit handlers of the code


def _serve(requests: BinaryIO, replies: BinaryIO) -> None:
    setup = _receive(requests)
    assert isinstance(setup, SandboxSetup)
    inputs = np.frombuffer(setup.inputs, "<f8").reshape(-1, setup.columns)  # read-only, like every frombuffer of bytes
    targets = np.frombuffer(setup.targets, "<f8")
    score: Score = pickle.loads(setup.code)  # noqa: S301  checked signature, pinned key and option, restricted process
    _send(replies, Loaded())
    while (request := _receive(requests)) is not None:
        assert isinstance(request, ScoreRequest)
        population = np.frombuffer(request.population, "<f8").reshape(-1, request.genes).copy()
        _send(replies, _scored(score(population, inputs, targets), len(population)))


def _scored(returned: object, size: int) -> ScoreReply:
    """Check types and shapes of what the code returned; the trainer checks the numbers."""
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
    return ScoreReply(*columns)


def _receive(requests: BinaryIO) -> ToSandbox | None:
    head = requests.read(LENGTH_BYTES)
    return msgspec.msgpack.decode(requests.read(body_bytes(head)), type=ToSandbox) if head else None


def _send(replies: BinaryIO, message: FromSandbox) -> None:
    replies.write(encode_message(message))
    replies.flush()


if __name__ == "__main__":
    main()
