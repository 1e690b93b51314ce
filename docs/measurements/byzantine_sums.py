"""Measure Byzantine trainers behind sums: the total of all trainers, and a trimmed mean of the totals of small groups.

    python docs/measurements/byzantine_sums.py [--seeds 5] [--rounds 40]

Fifteen trainers have breast_cancer, a quarter of the rows is held out; accuracies are on it. Byzantine trainers stay
within the range that the query declares, so that no check of a total notices them:

    inverted  the largest loss less the true one; slopes with the other sign
    extreme   the largest loss for the better half of the candidates and 0 for others; slopes at their bound
    dark      the same with 0.1 of the range of all rows of the sum, as a masked answer has no range of its own

"groups" adds the answers of five groups of three, and takes, of each number, the mean over the groups for each row,
without the highest and the lowest group. "total" is the sum, as secure sums give it. The survey is always honest.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: the products are too small for threads

import argparse
import statistics
from dataclasses import replace
from typing import Any

import numpy as np

from fedmq.algorithms.base import Plan, Update
from fedmq.algorithms.baselines import measure_here
from fedmq.algorithms.registry import find_algorithm
from fedmq.algorithms.trial import answer
from fedmq.simulation.scenario import scenario
from fedmq.tasks.row_views import RowViews, count_rows
from fedmq.tasks.task import Task

TRAINERS, GROUP = 15, 3
DARK_SHARE = 0.1
ATTACKED = ("slopes", "score-pool")  # kinds of queries
CASES = (("none", 0), ("inverted", 1), ("inverted", 3), ("extreme", 1), ("extreme", 3), ("dark", 1))
FORMS: dict[str, dict[str, Any]] = {"evolution": {"additive": True}, "es": {}}


def attacked(update: Update, plan: Plan, task: Task, attack: str, rows: int) -> Update:
    """Return the answer of a Byzantine trainer to a sum of so many rows."""
    share = int(DARK_SHARE * rows) if attack == "dark" else update.num_examples
    bounds, arrays = plan.query.answer(task, plan.shapes, share), dict(update.arrays)
    for name, one in arrays.items():
        largest = int(bounds[name].largest)
        if name == "slopes":
            arrays[name] = -one if attack == "inverted" else np.where(one > 0, -largest, largest)
        elif attack == "inverted":
            arrays[name] = largest - one
        elif name == "correct":
            is_good = one >= np.median(one)
            arrays[name] = np.where(is_good, -largest, 0) if attack == "dark" else np.where(is_good, 0, largest)
        else:
            arrays[name] = np.where(one <= np.median(one), largest, 0)
    return replace(update, arrays=arrays)


def combined(updates: list[Update], in_groups: bool) -> Update:
    """Return one answer for all trainers: the sum, or the trimmed mean over groups times the rows."""
    rows = sum(one.num_examples for one in updates)
    arrays = {name: sum(one.arrays[name] for one in updates) for name in updates[0].arrays}
    if in_groups:
        groups = [updates[start : start + GROUP] for start in range(0, len(updates), GROUP)]
        sizes = [sum(one.num_examples for one in group) for group in groups]
        for name in arrays:
            sums = [sum(one.arrays[name] for one in group) for group in groups]
            means = np.sort([total / size for total, size in zip(sums, sizes, strict=True)], axis=0)
            arrays[name] = np.rint(means[1:-1].mean(axis=0) * rows).astype(np.int64)
    return replace(updates[0], trainer="all", num_examples=rows, arrays=arrays)


def accuracy(form: str, split: str, attack: str, byzantine: int, in_groups: bool, rounds: int, seed: int) -> float:
    """Return the accuracy on held-out rows after so many rounds."""
    found = scenario("breast_cancer", algorithm=form, trainers=TRAINERS, split=split, seed=seed, holdout=0.25)
    task = found.task
    views = {name: RowViews(task, data) for name, data in found.data.items()}
    names = sorted(views)
    np.random.default_rng(seed).shuffle(names)  # Byzantine trainers may share a group
    chosen = set(np.random.default_rng([seed, 1]).permutation(names)[:byzantine].tolist())
    strategy = find_algorithm(form, task, FORMS[form])
    state = strategy.init(task, seed)
    for number in range(1, rounds + 1):
        plan, updates = strategy.ask(state), []
        bare = Plan(plan.query, {name: plan.arrays[name] for name in plan.shapes})
        for name in names:
            update = answer(plan, task, views[name], number, seed, name)
            is_attacked = name in chosen and plan.query.kind in ATTACKED
            rows = sum(count_rows(found.data[one]) for one in names) // (TRAINERS // GROUP if in_groups else 1)
            updates.append(attacked(update, bare, task, attack, rows) if is_attacked else update)
        one = combined(updates, in_groups and plan.query.kind in ATTACKED)
        if attack == "dark" and plan.query.kind in ATTACKED:  # which takes care that its total is within the range
            bounds = plan.query.answer(task, bare.shapes, one.num_examples)
            arrays = {key: np.clip(array, *bounds[key][2:4]) for key, array in one.arrays.items()}
            one = replace(one, arrays=arrays)
        state = strategy.close(strategy.tell(state, one), ["all"])
    evaluation = strategy.evaluation(state)
    assert evaluation is not None
    measured = measure_here(task, evaluation, strategy.survey(state).moments, views)  # type: ignore[attr-defined]
    assert measured.accuracy is not None
    return 100.0 * measured.accuracy


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description="Byzantine trainers behind sums.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--splits", nargs="+", default=["iid", "classes:1"])
    parser.add_argument("--attacks", nargs="+", default=sorted({attack for attack, _ in CASES}))
    given = parser.parse_args()
    for split in given.splits:
        for form in FORMS:
            for attack, byzantine in (case for case in CASES if case[0] in given.attacks):
                cells = []
                for in_groups in (False, True):
                    values = [
                        accuracy(form, split, attack, byzantine, in_groups, given.rounds, seed)
                        for seed in range(given.seeds)
                    ]
                    cells.append(f"{statistics.mean(values):5.1f} % (least {min(values):5.1f})")
                print(
                    f"{split:<9} {form:<9} {attack:<8} {byzantine} of {TRAINERS}: total {cells[0]}, groups {cells[1]}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
