"""Models that are Python code, and the union of all models."""

from __future__ import annotations

import msgspec

from fedmq.errors import BadConfiguration
from fedmq.models.networks import LAYER_UNITS_MAX, PARAMETERS_MAX, Network


class Code(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="code", rename={"num_parameters": "genes"}):
    """A model that only its own Python function can score; the function travels with each round of the run.

    A candidate has `num_parameters` numbers, a row has `inputs` columns. The FILE.py of the task defines
    `score(population, inputs, targets)`. It takes (population, num_parameters), (rows, inputs) and (rows,), all
    float64. It returns the losses (population,), summed over the rows and not negative, and the number of correct rows
    (population,). `sha256` is of the code that travels; leave it empty in a FILE.py.

    Raises:
        BadConfiguration: a number out of bounds, or no SHA-256; also while decoding.
    """

    num_parameters: int  # "genes" in messages and model files
    inputs: int
    sha256: bytes = b""

    def __post_init__(self) -> None:
        for field, value, largest in (
            ("num_parameters", self.num_parameters, PARAMETERS_MAX),
            ("inputs", self.inputs, LAYER_UNITS_MAX),
        ):
            if type(value) is not int or not 1 <= value <= largest:
                raise BadConfiguration(f"{field}: expected an integer from 1 to {largest}, got {value!r}")
        if len(self.sha256) not in (0, 32):
            raise BadConfiguration(f"sha256: expected 32 bytes, got {len(self.sha256)}: leave it out in a file")


Model = Network | Code
