"""The rules by which an averaging strategy makes one model of many, of which some may come from liars.

Knows nothing of rounds or trainers' names: models are rows of an array, in an order that is always the same. All sums
are in float64, in that order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from fedmq.errors import BadConfiguration
from fedmq.models.arrays import Floats

LIARS_SHARE = 5  # one in so many is expected to lie; of three or four models, one

Rule = Callable[[Floats, Floats], Floats]  # models (n, genes), the one that they were made from (genes,) -> (genes,)


def clipped_mean(models: Floats, before: Floats) -> Floats:
    """The mean, after each model's change was shortened to the median length of the changes.

    Norm clipping after Sun et al. (2019), "Can you really backdoor federated learning?", with the median as the bound,
    so that there is nothing to choose.
    """
    changes = models - before
    norms = np.linalg.norm(changes, axis=1)
    kept = np.minimum(norms, np.median(norms))
    shares = np.divide(kept, norms, out=np.ones_like(norms), where=norms > 0.0)
    return before + _mean(changes * shares[:, None])


def trimmed_mean(models: Floats, _before: Floats) -> Floats:
    """Of each gene, the mean without as many of the largest and of the smallest values as liars are expected.

    After Yin et al. (2018), "Byzantine-robust distributed learning". Two models have no extremes: their mean.
    """
    liars = liars_among(len(models))
    ordered = np.sort(models, axis=0)[liars : len(models) - liars]
    mean: Floats = np.clip(_mean(ordered), ordered[0], ordered[-1])  # rounding may not lead out of what was said
    return mean


def median(models: Floats, _before: Floats) -> Floats:
    """Of each gene, the median. After Yin et al. (2018)."""
    middle: Floats = np.median(models, axis=0)
    return middle


def krum(models: Floats, _before: Floats) -> Floats:
    """The one model that is nearest to its nearest n - f - 2 neighbours, with f liars expected; the first of equals.

    After Blanchard et al. (2017), "Machine learning with adversaries: Byzantine tolerant gradient descent". Of two
    models nobody can say which is the honest one: their mean.
    """
    count = len(models)
    if count < 3:
        return _mean(models)
    distances = np.array([np.square(models - model).sum(axis=1) for model in models])
    neighbours = max(1, count - liars_among(count) - 2)
    nearest = np.sort(distances, axis=1)[:, 1 : 1 + neighbours]  # the first is its distance from itself
    best: Floats = models[np.argmin(nearest.sum(axis=1))].copy()
    return best


def liars_among(count: int) -> int:
    """How many of so many are expected to lie: one in five, of three or four one, of two nobody."""
    return max(count // LIARS_SHARE, int(count >= 3))


def _mean(models: Floats) -> Floats:
    mean: Floats = np.add.reduce(models) / len(models)
    return mean


RULES: Mapping[str, Rule] = {"clip": clipped_mean, "trimmed-mean": trimmed_mean, "median": median, "krum": krum}


def check_rule(name: str) -> str:
    """The name itself, `none` or one of RULES.

    Raises:
        BadConfiguration: there is no such rule; the message lists those there are.
    """
    if name != "none" and name not in RULES:
        raise BadConfiguration(f"robust: expected one of none, {', '.join(RULES)}, got {name!r}")
    return name
