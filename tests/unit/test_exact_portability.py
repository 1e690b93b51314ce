"""Exact arithmetic and models have the same bits under other BLAS kernels, SIMD widths and numbers of threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from exact_vectors import models, vectors

SCRIPT = Path(__file__).with_name("exact_vectors.py")
FEATURES = """
try:
    from numpy._core._multiarray_umath import __cpu_dispatch__
except ImportError:  # numpy 1
    from numpy.core._multiarray_umath import __cpu_dispatch__
print(*__cpu_dispatch__)
"""

# Of every machine. A change here is another result for every model that was trained before it.
EXPECTED = {
    "words, signs, normals, permutation": "93be41396c50d849",
    "hashes of rows": "b154cbb2d3c3c934",
    "exp, log": "3102438dd91a38e1",
    "sigmoid, softplus, softmax": "a9ef4320be16a3e6",
    "linear outputs": "ac5c5472e9980b75",
    "outputs of networks": "d21ffe4e10fd49a0",
    "cosines": "42f66f0f788a1cf2",
    "sums of products": "9ed34d11c6d97815",
    "combined sums": "dab4643fefe9173c",
    "Cholesky": "26bab391003018e9",
    "eigenvectors": "c2abfdc4ef5ce603",
    "statistics: values": "412d8f7ca2eb269d",
    "ridge: values": "c31db820fe4d13c0",
    "ridge: two classes by features": "a1a2d9f2bde67009",
    "newton: values": "1b61eeaae7997099",
    "newton: three classes": "552e411c215c9de1",
    "newton: counts": "07a5002871572e8e",
    "boosting: values": "f510eb48d3cc9e4c",
    "boosting: three classes": "9dffdbf13c002716",
    "boosting: counts": "8e021ab6698f38c9",
    "es: values": "3f6da0fa37597d70",
    "es: three classes, relu": "02c311a15a3bd372",
    "es: three classes, tanh": "e5d996a246607cdd",
    "es: counts": "6dad47047c749e0e",
    "statistics: table, diabetes": "ff40b4299828a74e",
    "ridge: table, diabetes": "02623bf7602d869e",
    "newton: table, diabetes": "33d4a8c17cc0ea71",
    "boosting: table, diabetes": "099fe4f72ce30d92",
    "statistics: table, ill": "697ecf438ef6e00b",
    "ridge: table, ill": "bf2491786499b4cf",
    "newton: table, ill": "6f7fcc2a94400ff9",
    "boosting: table, ill": "681c8c439c42d568",
    "statistics: table, wine": "a3e6e30bef135287",
    "ridge: table, wine": "5347439a4b6ff5a7",
    "newton: table, wine": "46104a874a651e97",
    "boosting: table, wine": "bbcceb3949176eae",
    "statistics: table, visits": "62d9fcab1389d3ee",
    "ridge: table, visits": "ceee0dab31320b66",
    "newton: table, visits": "8b694d25779e6142",
    "boosting: table, visits": "370ae4777bd1b9c2",
    "statistics: table, breast cancer": "0b3283beac026fae",
    "ridge: table, breast cancer": "6f660978704a4ca8",
    "newton: table, breast cancer": "76b062f10136eb29",
    "boosting: table, breast cancer": "1bb36fe121ace4c9",
}


def printed(*arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout


def test_vectors_on_this_machine() -> None:
    assert {**dict(vectors()), **dict(models())} == EXPECTED


def test_vectors_under_the_kernels_of_a_processor_with_wide_registers() -> None:
    assert json.loads(printed(str(SCRIPT), OPENBLAS_CORETYPE="Haswell")) == EXPECTED


def test_vectors_under_the_kernels_of_an_old_processor_and_with_two_threads() -> None:
    old = {"OPENBLAS_CORETYPE": "Nehalem", "NPY_DISABLE_CPU_FEATURES": printed("-c", FEATURES).strip()}
    assert json.loads(printed(str(SCRIPT), **old, OPENBLAS_NUM_THREADS="2")) == EXPECTED
