"""Messages between a trainer and its sandbox: length-prefixed msgpack over two pipes.

Arrays are raw little-endian bytes in C order; the receiver knows their shapes and checks the sizes.
"""

import msgspec

LENGTH_BYTES = 8
DETAIL_MAX = 300  # characters


class SandboxSetup(msgspec.Struct, frozen=True, tag="setup"):
    """First message to the sandbox: the code, and the rows to score on."""

    code: bytes
    columns: int
    inputs: bytes  # (rows, columns) float64
    targets: bytes  # (rows,) float64
    objectives: int = 0  # numbers that the code, PyGAD's fitness function, returns for a candidate; 0: it is a score


class ScoreRequest(msgspec.Struct, frozen=True, tag="ask"):
    """To the sandbox: score these candidates."""

    genes: int
    population: bytes  # (population, genes) float64
    types: tuple[str, ...] = ()  # of the genes that a fitness function gets: one for all, or one for each


class Confined(msgspec.Struct, frozen=True, tag="confined"):
    """First message from the sandbox, before it reads code: restrictions that this kernel does not support, as text."""

    missing: tuple[str, ...]


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """From the sandbox: the code is loaded."""


class ScoreReply(msgspec.Struct, frozen=True, tag="scored"):
    """From the sandbox, in answer to ScoreRequest."""

    losses: bytes  # (population,) float64
    correct: bytes  # (population,) int64


class FitnessReply(msgspec.Struct, frozen=True, tag="fitness"):
    """From the sandbox, in answer to ScoreRequest if the code is a fitness function."""

    fitness: bytes  # (population, objectives) float64


class SandboxFailure(msgspec.Struct, frozen=True, tag="failed"):
    """From the sandbox, in answer to SandboxSetup or ScoreRequest."""

    detail: str


ToSandbox = SandboxSetup | ScoreRequest
FromSandbox = Confined | Loaded | ScoreReply | FitnessReply | SandboxFailure


def encode_message(message: ToSandbox | FromSandbox) -> bytes:
    """Return the bytes of a message, with their length first."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "little") + body


def body_bytes(head: bytes | bytearray) -> int:
    """Return the number of bytes that follow these first LENGTH_BYTES."""
    return int.from_bytes(head[:LENGTH_BYTES], "little")
