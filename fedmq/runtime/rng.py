"""Random streams: every draw of a run comes from the run's seed and a path of names and numbers.

The same path gives the same numbers everywhere, so a run can be repeated bit for bit, and a restarted process
continues with the same draws.
"""

import hashlib

import numpy as np


def derive_rng(seed: int, *path: str | int) -> np.random.Generator:
    """Return the generator of `path` and `seed`; e.g. `derive_rng(7, "trainer", "bob", 3)` for bob's round 3.

    The path is hashed (SHA-256), so that the streams of neighboring rounds and names are independent. Then numpy's
    SeedSequence spreads the entropy (NEP 19).
    """
    digest = hashlib.sha256(repr((seed, *path)).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype="<u4"))
