"""Robust aggregation: rules that make one model of many, of which some may come from Byzantine trainers.

Models are rows of an array, in the order of their trainers' names. All sums are in float64, in that order.
"""

from collections.abc import Callable, Mapping

import numpy as np

from fedmq.algorithms.base import BYZANTINE_SHARE
from fedmq.models.arrays import Floats

# Of models (n, parameters), and the model they were trained from (parameters,): the next model (parameters,).
Rule = Callable[[Floats, Floats], Floats]


def clipped_mean(models: Floats, before: Floats) -> Floats:
    """Return the mean, after shortening each model's change to the median length of the changes.

    Norm clipping after Sun et al. (2019), "Can you really backdoor federated learning?", with the median as the bound,
    so that there is nothing to choose.
    """
    changes = models - before
    norms = np.linalg.norm(changes, axis=1)
    kept = np.minimum(norms, np.median(norms))
    shares = np.divide(kept, norms, out=np.ones_like(norms), where=norms > 0.0)
    return before + _mean(changes * shares[:, None])


def trimmed_mean(models: Floats, _before: Floats) -> Floats:
    """Return the mean of each parameter without the f largest and f smallest values, f Byzantine models expected.

    After Yin et al. (2018), "Byzantine-robust distributed learning". Two models have no extremes: their mean.
    """
    byzantine = byzantine_among(len(models))
    ordered = np.sort(models, axis=0)[byzantine : len(models) - byzantine]
    mean: Floats = np.clip(_mean(ordered), ordered[0], ordered[-1])  # rounding must not leave the range of the values
    return mean


def median(models: Floats, _before: Floats) -> Floats:
    """Return the median of each parameter. After Yin et al. (2018)."""
    middle: Floats = np.median(models, axis=0)
    return middle


def krum(models: Floats, _before: Floats) -> Floats:
    """Return the model nearest to its nearest n - f - 2 neighbors, f Byzantine models expected; the first of equals.

    After Blanchard et al. (2017), "Machine learning with adversaries: Byzantine tolerant gradient descent". Two models
    have no majority: their mean.
    """
    count = len(models)
    if count < 3:
        return _mean(models)
    distances = np.array([np.square(models - model).sum(axis=1) for model in models])
    neighbors = max(1, count - byzantine_among(count) - 2)
    nearest = np.sort(distances, axis=1)[:, 1 : 1 + neighbors]  # the first is its distance from itself
    best: Floats = models[np.argmin(nearest.sum(axis=1))].copy()
    return best


def byzantine_among(count: int) -> int:
    """Return how many of `count` models may be Byzantine: one in five, one of three or four, none of two."""
    return max(count // BYZANTINE_SHARE, int(count >= 3))


def _mean(models: Floats) -> Floats:
    mean: Floats = np.add.reduce(models) / len(models)
    return mean


RULES: Mapping[str, Rule] = {"clip": clipped_mean, "trimmed-mean": trimmed_mean, "median": median, "krum": krum}
