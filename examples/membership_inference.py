"""Was this row used for training? Two attacks on models of three sites, without noise and with differential privacy.

A pool of rows is given. Each model is trained on a half of it, by `ridge` over three sites: a random half, then the
other one, so that each row is in half of the models. The attacker has a model and a row, and guesses whether the row
was in that half:

    loss   a row with a small error was in it (Yeom et al. 2018, "Privacy risk in machine learning")
    ratio  the likelihood ratio of the row's error under models with and without the row, which the attacker has trained
           on other halves of the pool (LiRA: Carlini et al. 2022, "Membership inference attacks from first principles")

The figure is the area under the ROC curve, 0.5 for a guess, with an interval of 95 % over the halves by bootstrap.

    python examples/membership_inference.py
"""

from __future__ import annotations

import numpy as np
from scipy.stats import norm, rankdata

import fedmq
from fedmq.models.networks import Linear
from fedmq.tables.schema import Column, Schema, Target
from fedmq.tables.table import Table
from fedmq.tasks.task import Task

FEATURES, POOL, MODELS, RESAMPLED = 20, 80, 64, 1000
EPSILONS = (None, 8.0, 1.0)
NAMES = tuple(f"x{place}" for place in range(FEATURES))
TASK = Task(
    name="membership",
    model=Linear(FEATURES),
    loss="squared-error",
    metric="loss",
    trainers=3,
    schema=Schema(
        columns=tuple(Column(name=name, bounds=(-3.0, 3.0)) for name in NAMES),
        target=Target(name="y", bounds=(-8.0, 8.0)),
    ),
)


def make_pool(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose targets are half noise, so that a model without noise fits some of it."""
    draws = np.random.default_rng(seed)
    inputs = draws.normal(size=(POOL, FEATURES))
    return inputs, inputs @ draws.normal(size=FEATURES) / 3.0 + draws.normal(size=POOL)


def errors_of(
    inputs: np.ndarray, targets: np.ndarray, used: np.ndarray, epsilon: float | None, seed: int
) -> np.ndarray:
    """Train on the rows in `used`; return the error of each row of the pool."""
    columns = {name: inputs[used, place] for place, name in enumerate(NAMES)}
    count = int(used.sum())
    table = Table("pool", (*NAMES, "y"), {**columns, "y": targets[used]}, count, np.arange(1, count + 1))
    run = fedmq.simulate(
        TASK,
        table,
        algorithm="ridge",
        parameters={"penalty": 0.0},
        epsilon=epsilon,
        seed=seed,
        progress=False,
    )
    return run.model.predict(dict(zip(NAMES, inputs.T, strict=True))) - targets


def area(scores: np.ndarray, members: np.ndarray) -> float:
    """Return the area under the ROC curve of scores that are higher for members."""
    ranks, count = rankdata(scores), int(members.sum())
    return float((ranks[members].sum() - count * (count + 1) / 2) / (count * (len(members) - count)))


def likelihood_ratios(errors: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Return the log likelihood ratio (models, rows) of each error, by normal distributions from all other models."""
    scores = np.empty_like(errors)
    for model in range(len(errors)):
        others = np.arange(len(errors)) // 2 != model // 2
        fitted = []
        for member in (True, False):
            known = np.where(used[others] == member, errors[others], np.nan)
            fitted.append(norm.logpdf(errors[model], np.nanmean(known, axis=0), np.nanstd(known, axis=0) + 1e-9))
        scores[model] = fitted[0] - fitted[1]
    return scores


def interval(scores: np.ndarray, used: np.ndarray) -> tuple[float, float, float]:
    """Return the area, and the bounds of its interval over pairs of halves."""
    pairs = np.random.default_rng(0).integers(0, len(scores) // 2, (RESAMPLED, len(scores) // 2))
    chosen = np.concatenate([2 * pairs, 2 * pairs + 1], axis=1)
    areas = [area(scores[one].ravel(), used[one].ravel()) for one in chosen]
    low, high = np.quantile(areas, [0.025, 0.975])
    return area(scores.ravel(), used.ravel()), float(low), float(high)


def attacks(epsilon: float | None, models: int, seed: int = 100) -> dict[str, tuple[float, float, float]]:
    """Return the figures of both attacks."""
    inputs, targets = make_pool(seed)
    draws = np.random.default_rng(seed + 1)
    halves = [draws.permutation(POOL) < POOL // 2 for _ in range(models // 2)]
    used = np.stack([one for half in halves for one in (half, ~half)])
    errors = np.stack([errors_of(inputs, targets, one, epsilon, seed + number) for number, one in enumerate(used)])
    return {"loss": interval(-np.abs(errors), used), "ratio": interval(likelihood_ratios(errors, used), used)}


def main(models: int = MODELS) -> None:
    print("epsilon  loss attack           likelihood ratio")
    for epsilon in EPSILONS:
        found = attacks(epsilon, models)
        texts = [f"{middle:.3f} ({low:.3f} to {high:.3f})" for middle, low, high in found.values()]
        print(f"{'none' if epsilon is None else f'{epsilon:g}':<7}  {texts[0]}  {texts[1]}")


if __name__ == "__main__":
    main()
