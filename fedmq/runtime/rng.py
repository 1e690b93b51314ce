"""Random streams: every draw in a run comes from the run's seed by a path of names and numbers.

Knows nothing of who draws. Two parties that name the same path draw the same numbers, so a run can be repeated
bit for bit and a restarted part continues where it would have been.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive_rng(seed: int, *path: str | int) -> np.random.Generator:
    """The generator at `path` below `seed`; e.g. `stream(7, "trainer", "bob", 3)` for bob's round 3.

    The path is hashed (SHA-256), so that streams of neighbouring rounds and names are independent; numpy's
    SeedSequence then spreads the entropy (NEP 19).
    """
    digest = hashlib.sha256(repr((seed, *path)).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype="<u4"))
