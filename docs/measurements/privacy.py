"""Measure what differential privacy costs: accuracy against epsilon, for each algorithm that has a private form.

    pip install 'fedmq[simulate]'
    python docs/measurements/privacy.py [--seeds 10] [--out docs/pictures/privacy.svg]

Five trainers share the training rows at random; a fifth of the data set is held out by the script itself and never
reaches a trainer. Delta is 1e-5. All settings are defaults, chosen on seeds 0 to 11; a run of `es` has ROUNDS_OF_ES
rounds. Every trainer answers each round (`quorum=1`). Seeds begin at 200: each splits the rows and draws the noise.
The column "none" is the same algorithm without noise, whose model is that of the pooled rows. "pooled" is a model of
scikit-learn on the same rows: logistic regression, or linear regression. Lines are the mean, and the standard deviation
over seeds. Classes are measured by accuracy, numbers by R2.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: the products are too small for threads

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

import fedmq
from fedmq.simulation.datasets import load_dataset, with_bounds
from fedmq.tables.table import Table
from fedmq.tasks.table_task import task_of

DATASETS = ("breast_cancer", "digits", "diabetes")
ALGORITHMS = ("ridge", "newton", "boosting", "es")
EPSILONS = (0.5, 1.0, 3.0, 8.0, None)
FIRST_SEED, TRAINERS, ROUNDS_OF_ES = 200, 5, 41
TARGET = "target"


def taken(table: Table, rows: np.ndarray) -> Table:
    """Return some rows of a table."""
    columns = {name: column[rows] for name, column in table.columns.items()}
    return replace(table, columns=columns, num_rows=len(rows), lines=table.lines[rows])


def value_of(predicted: np.ndarray, targets: np.ndarray, *, classes: bool) -> float:
    """Return the accuracy, or R2."""
    if classes:
        return float(np.mean(predicted.astype(str) == targets.astype(str)))
    targets = targets.astype(np.float64)
    return float(1.0 - np.square(predicted - targets).sum() / np.square(targets - targets.mean()).sum())


def measured(dataset: str, algorithm: str, epsilon: float | None, seed: int) -> float:
    """Return the value of one run on the rows that are held out."""
    table, file = load_dataset(dataset)
    task = task_of(with_bounds(file, table) if epsilon is not None else file, algorithm).with_holdout(0.0)
    order = np.random.default_rng(seed).permutation(table.num_rows)
    held_out, training = np.split(order, [len(order) // 5])
    run = fedmq.simulate(
        task,
        taken(table, training),
        algorithm=algorithm,
        trainers=TRAINERS,
        split="iid",
        seed=seed,
        epsilon=epsilon,
        rounds=ROUNDS_OF_ES if algorithm == "es" else None,
        quorum=1.0,
        progress=False,
    )
    assert run.model is not None
    test = taken(table, held_out)
    return value_of(np.asarray(run.model.predict(test)), test.columns[TARGET], classes=file.target.kind == "class")


def pooled(dataset: str, seed: int) -> float:
    """Return the value of a model of scikit-learn on the same rows."""
    from sklearn.linear_model import LinearRegression, LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    table, file = load_dataset(dataset)
    classes = file.target.kind == "class"
    inputs, targets = np.column_stack([table.columns[name] for name in file.columns]), table.columns[TARGET]
    targets = targets.astype(str) if classes else targets.astype(np.float64)
    held_out, training = np.split(np.random.default_rng(seed).permutation(len(inputs)), [len(inputs) // 5])
    model = LogisticRegression(max_iter=5000) if classes else LinearRegression()
    fitted = make_pipeline(StandardScaler(), model).fit(inputs[training], targets[training])
    return value_of(fitted.predict(inputs[held_out]), targets[held_out], classes=classes)


def chart(found: dict[str, dict[str, dict[str, list[float]]]]) -> str:
    """Return an SVG with one panel for each data set: the mean against epsilon, on a logarithmic axis."""
    width, height, gap, colors = 250, 220, 60, ("#0b6e99", "#b3541e", "#3c7a3c", "#7a3c78")
    names = [str(one) for one in EPSILONS if one is not None] + ["none"]
    parts = []
    for panel, (dataset, rows) in enumerate(found.items()):
        left = 50 + panel * (width + gap)
        low = 0.0 if dataset == "diabetes" else 0.5
        place = {name: left + width * index / (len(names) - 1) for index, name in enumerate(names)}

        def high(value: float, low: float = low) -> float:
            return 40 + height * (1.0 - (min(1.0, max(low, value)) - low) / (1.0 - low))

        parts.append(f'<text x="{left}" y="24" font-weight="bold">{dataset}</text>')
        parts.append(f'<rect x="{left}" y="40" width="{width}" height="{height}" fill="none" stroke="#bbb"/>')
        for tick in np.linspace(low, 1.0, 6):
            parts.append(f'<text x="{left - 6}" y="{high(tick) + 4:.1f}" text-anchor="end">{tick:.1f}</text>')
        for name, x in place.items():
            parts.append(f'<text x="{x:.1f}" y="{56 + height}" text-anchor="middle">{name}</text>')
        reference = high(float(np.mean(rows["pooled"]["none"])))
        parts.append(
            f'<line x1="{left}" x2="{left + width}" y1="{reference:.1f}" y2="{reference:.1f}" stroke="#444" '
            'stroke-dasharray="5 4"/>'
        )
        for color, algorithm in zip(colors, ALGORITHMS, strict=True):
            points = [(place[name], high(float(np.mean(values)))) for name, values in rows[algorithm].items()]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in points]
    for index, (color, algorithm) in enumerate(zip(colors, ALGORITHMS, strict=True)):
        parts.append(f'<text x="{50 + 110 * index}" y="{88 + height}" fill="{color}">{algorithm}</text>')
    parts.append(f'<text x="500" y="{88 + height}">dashed: pooled, scikit-learn; below: epsilon</text>')
    total = 50 + len(found) * (width + gap)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {100 + height}" font-family="sans-serif" '
        f'font-size="12" fill="#222"><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def main() -> None:
    """Print a line for each data set and algorithm, and write the chart."""
    parser = argparse.ArgumentParser(description="Accuracy against epsilon.")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS))
    parser.add_argument("--algorithms", nargs="+", default=list(ALGORITHMS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", type=Path, help="also write all values")
    given = parser.parse_args()
    seeds = range(FIRST_SEED, FIRST_SEED + given.seeds)
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    print(f"{'data set':<14} {'algorithm':<9}", *(f"{'none' if one is None else f'{one:g}':>12}" for one in EPSILONS))
    for dataset in given.datasets:
        rows = found.setdefault(dataset, {})
        for algorithm in given.algorithms:
            of_epsilon = rows.setdefault(algorithm, {})
            for epsilon in EPSILONS:
                values = [measured(dataset, algorithm, epsilon, seed) for seed in seeds]
                of_epsilon["none" if epsilon is None else str(epsilon)] = values
            figures = (f"{np.mean(one):.3f} ±{np.std(one):.3f}" for one in of_epsilon.values())
            print(f"{dataset:<14} {algorithm:<9}", *(f"{one:>12}" for one in figures), flush=True)
        rows["pooled"] = {"none": [pooled(dataset, seed) for seed in seeds]}
        mean, spread = np.mean(rows["pooled"]["none"]), np.std(rows["pooled"]["none"])
        print(f"{dataset:<14} {'pooled':<9}", " " * 51, f"{mean:.3f} ±{spread:.3f}", flush=True)
    if given.json is not None:
        given.json.write_text(json.dumps(found))
    if given.out is not None:
        given.out.write_text(chart(found))


if __name__ == "__main__":
    sys.exit(main())
