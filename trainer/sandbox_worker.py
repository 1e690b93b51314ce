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
from typing import BinaryIO, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from fedmq.models.genes import Population, from_floats
from fedmq.trainer.confinement import confine
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

Floats = npt.NDArray[np.float64]


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
    code: Callable[..., object] = pickle.loads(setup.code)  # noqa: S301  checked signature, pinned key and option, restricted process
    _send(replies, Loaded())
    while (request := _receive(requests)) is not None:
        assert isinstance(request, ScoreRequest)
        population = np.frombuffer(request.population, "<f8").reshape(-1, request.genes).copy()
        if setup.objectives:
            site = FitnessCall(inputs, targets, from_floats(population, request.types))
            _send(replies, FitnessReply(_fitness(code, site, setup.objectives).tobytes()))
        else:
            _send(replies, _scored(code(population, inputs, targets), len(population)))


class FitnessCall(NamedTuple):
    """What a fitness function gets as its first argument, where PyGAD alone passes the `pygad.GA`."""

    inputs: Floats  # (rows, columns): the rows of this trainer
    targets: Floats  # (rows,)
    population: Population


def _fitness(function: Callable[..., object], site: FitnessCall, objectives: int) -> Floats:
    """Return the fitness of each candidate, (population, objectives); the trainer checks the numbers."""
    fitness = np.zeros((len(site.population), objectives))
    for place, solution in enumerate(site.population):
        returned = np.asarray(function(site, solution.copy(), place))
        shapes = ((), (1,)) if objectives == 1 else ((objectives,),)
        if returned.dtype.kind not in "biuf" or returned.shape not in shapes:
            raise TypeError(
                f"expected {objectives} numbers from fitness_func, got {returned.dtype} of shape {returned.shape}"
            )
        fitness[place] = returned
    return fitness


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
