"""The trainer's half of the query `clipped-products`."""

from fedmq.algorithms.base import Learner
from fedmq.algorithms.newton.private_learner import sum_clipped_curvature
from fedmq.algorithms.ridge.private_query import ClippedProducts

LEARNER = Learner(ClippedProducts, sum_clipped_curvature)
