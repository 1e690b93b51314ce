"""The query `clipped-products`: the products of shortened rows and targets, answered with noise."""

from typing import ClassVar

from fedmq.algorithms.newton.private_query import ClippedCurvature


class ClippedProducts(ClippedCurvature, frozen=True, tag="clipped-products", kw_only=True):
    """The sums of least squares: `clipped-curvature` with `squares`, at coefficients of 0."""

    sends: ClassVar[str] = "sums of products of each pair of columns of shortened rows, with noise"
