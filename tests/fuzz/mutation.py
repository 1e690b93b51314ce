"""Mutators of bytes and of msgpack or TOML values, from a seeded generator."""

from __future__ import annotations

from random import Random
from typing import Any

EDGES = (0, 1, -1, 2, 7, 8, 127, 128, 255, 256, 4096, 65_535, 2**31 - 1, 2**31, 2**53, 2**53 + 1, 2**63 - 1, 2**64 - 1)
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-300, 1e9, 1e300, float("inf"), float("-inf"), float("nan"))
TEXTS = ("", "a", "run", "alice", "xor", "../x", "a/b", "*", "%s", "é", "\ud7ff", "x" * 65, "x" * 300, "\n", "0", "nan")
BLOB_BYTES_MAX = 1 << 16  # insertions stop at this size


def changed(blob: bytes, draws: Random, others: list[bytes]) -> bytes:
    """Return `blob` after one to four random changes, some with slices of `others`."""
    content = bytearray(blob)
    for _ in range(draws.choice((1, 1, 1, 2, 4))):
        _change(content, draws, others)
    return bytes(content)


def _change(content: bytearray, draws: Random, others: list[bytes]) -> None:
    if not content:
        content += draws.randbytes(draws.randrange(1, 9))
        return
    kind, at = draws.randrange(8), draws.randrange(len(content))
    end = min(len(content), at + draws.choice((1, 2, 4, 8, 32, 256)))
    if kind <= 1:
        content[at] ^= 1 << draws.randrange(8)
    elif kind == 2:
        content[at] = draws.choice((0, 1, 0x7F, 0x80, 0xC0, 0xC1, 0xDF, 0xFF, draws.randrange(256)))
    elif kind == 3:
        del content[at:end]
    elif kind == 4:
        size = end - at
        number = draws.choice(EDGES) % (1 << 8 * min(size, 8))
        content[at:end] = number.to_bytes(size, draws.choice(("big", "little")))
    elif kind == 5 and len(content) < BLOB_BYTES_MAX:
        content[at:at] = content[at:end] if draws.random() < 0.5 else draws.randbytes(end - at)
    elif kind == 6 and others and len(content) < BLOB_BYTES_MAX:
        other = draws.choice(others)
        start = draws.randrange(len(other) + 1)
        content[at:end] = other[start : start + draws.choice((1, 4, 16, 64))]
    elif kind == 7:
        del content[at:]


def any_value(draws: Random, depth: int = 0) -> Any:
    """Draw a value of any msgpack type, small or at the limit of its type."""
    kind = draws.randrange(9 if depth < 2 else 7)
    if kind == 0:
        return draws.choice((None, True, False))
    if kind <= 2:
        return draws.choice(EDGES)
    if kind == 3:
        return draws.choice(FLOATS)
    if kind <= 5:
        return draws.choice(TEXTS)
    if kind == 6:
        return draws.randbytes(draws.choice((0, 1, 31, 32, 33, 300)))
    many = draws.choice((0, 1, 2, 3, 9))
    if kind == 7:
        return [any_value(draws, depth + 1) for _ in range(many)]
    return {draws.choice(TEXTS): any_value(draws, depth + 1) for _ in range(many)}


def changed_value(value: Any, draws: Random) -> Any:
    """Return `value` with one element replaced, removed or added."""
    if isinstance(value, dict) and value and draws.random() < 0.9:
        key = draws.choice(list(value))
        if draws.random() < 0.1:
            return {other: one for other, one in value.items() if other != key}
        if draws.random() < 0.1:
            return {**value, draws.choice(TEXTS): any_value(draws)}
        return {**value, key: changed_value(value[key], draws)}
    if isinstance(value, list | tuple) and value and draws.random() < 0.8:
        at = draws.randrange(len(value))
        middle = [changed_value(value[at], draws)] if draws.random() < 0.8 else draws.choice(([], [value[at]] * 3))
        return [*value[:at], *middle, *value[at + 1 :]]
    if isinstance(value, int) and not isinstance(value, bool) and draws.random() < 0.5:
        return value + draws.choice((-1, 1, 8, 2**32))
    return any_value(draws)
