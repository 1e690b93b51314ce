"""What a trainer and its sandbox say to each other: length-prefixed msgpack over two pipes.

Knows nothing of processes or of what anything is for. Arrays are raw bytes, little-endian and in C order; whoever gets
them knows their shapes and checks the sizes.
"""

from __future__ import annotations

import msgspec

LENGTH_BYTES = 8
DETAIL_MAX = 300  # characters


class Setup(msgspec.Struct, frozen=True, tag="setup"):
    """To the sandbox, first: the code, and the rows to score on."""

    code: bytes
    columns: int
    inputs: bytes  # (rows, columns) float64
    targets: bytes  # (rows,) float64


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """To the sandbox: score these candidates."""

    genes: int
    population: bytes  # (population, genes) float64


class Confined(msgspec.Struct, frozen=True, tag="confined"):
    """From the sandbox, first, before it has seen any code: what the kernel did not let it give up, in words."""

    missing: tuple[str, ...]


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """From the sandbox: the code is ready to be asked."""


class Scored(msgspec.Struct, frozen=True, tag="scored"):
    """From the sandbox, in answer to Ask."""

    losses: bytes  # (population,) float64
    correct: bytes  # (population,) int64


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """From the sandbox, in answer to Setup or Ask."""

    detail: str


ToSandbox = Setup | Ask
FromSandbox = Confined | Loaded | Scored | Failed


def pack(said: ToSandbox | FromSandbox) -> bytes:
    """The bytes of a message."""
    body = msgspec.msgpack.encode(said)
    return len(body).to_bytes(LENGTH_BYTES, "little") + body


def body_bytes(head: bytes | bytearray) -> int:
    """How many bytes follow these first LENGTH_BYTES."""
    return int.from_bytes(head[:LENGTH_BYTES], "little")
