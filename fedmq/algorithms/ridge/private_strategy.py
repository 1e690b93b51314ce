"""Private `ridge`: least squares from one noisy sum of products.

The penalty is the size of the noise in the products: AdaSSP (Wang 2018, "Revisiting differentially private linear
regression", arXiv 1803.02596), without its estimate of the smallest eigenvalue.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from fedmq.algorithms.base import Plan, Total
from fedmq.algorithms.newton.private_query import Clip
from fedmq.algorithms.newton.private_strategy import CurvatureState, PrivateLinear, default_clip, stepped
from fedmq.algorithms.private.columns import target_unit
from fedmq.algorithms.ridge.private_query import ClippedProducts
from fedmq.tasks.task import Task


class PrivateRidgeParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The parameters of `ridge` in a private run."""

    penalty: Annotated[float, Meta(ge=0.0)] = 0.0  # for each row, beside that for the noise
    clip: Clip | None = None  # the length of a row, the constant 1 among its numbers; None: by the number of features


class PrivateRidge(PrivateLinear):
    """The strategy of private `ridge`: see `fedmq.algorithms.private.strategy.PrivateAlgorithm`."""

    name = "ridge"
    Parameters = PrivateRidgeParameters

    def __init__(self, parameters: PrivateRidgeParameters) -> None:
        self.parameters = parameters

    def questions(self, _task: Task, _rounds: int) -> int:
        return 1

    def ask(self, state: CurvatureState) -> Plan:
        center, unit = target_unit(state.task)
        clip = self.parameters.clip or default_clip(state.task)
        query = ClippedProducts(noise=state.noise, clip=clip, squares=True, center=center, unit=unit)
        return Plan(query, {"coefficients": np.zeros_like(state.coefficients)})

    def close(self, state: CurvatureState, total: Total, _late: Mapping[int, Total]) -> CurvatureState:
        query = self.ask(state).query
        assert isinstance(query, ClippedProducts)
        return stepped(state, query, total, 1.0, self.parameters.penalty * total.num_examples)
