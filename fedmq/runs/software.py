"""The software that computes a run: with other versions, a replay may differ in the last bits of a number."""

import platform
from functools import cache

import msgspec
import numpy as np

from fedmq import __version__


class Software(msgspec.Struct, frozen=True):
    """Versions in one life of a run's aggregator; `cpu` names the instructions that numpy chooses its code by."""

    fedmq: str
    python: str
    numpy: str
    blas: str
    cpu: str


@cache
def software_here() -> Software:
    """Return the versions of this process."""
    built = np.show_config(mode="dicts")
    blas = built.get("Build Dependencies", {}).get("blas", {})
    extensions = built.get("SIMD Extensions", {}).get("found") or ["baseline"]
    return Software(
        fedmq=__version__,
        python=platform.python_version(),
        numpy=np.__version__,
        blas=f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip(),
        cpu=f"{platform.machine()} {extensions[-1]}",
    )


def differing_software(recorded: list[Software], here: Software) -> list[str]:
    """Return what differs between the lives of a run and this process, as text; none if nothing does."""
    return [
        f"{name} {' and '.join(sorted(others))} (here {mine})"
        for name, mine in msgspec.structs.asdict(here).items()
        if (others := {getattr(one, name) for one in recorded} - {mine})
    ]
