"""Robust losses: the bounds on the weight of one trainer in evolution."""

from __future__ import annotations

import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from strategy_rounds import LINEAR, XOR, shards, spoilt, trained

from fedmq.algorithms.evolution.archive import Archive
from fedmq.algorithms.evolution.robust_losses import (
    LOSS_PER_ROW_MAX,
    NORM_MAX,
    bounded_losses,
    medians,
    possible_losses,
    shortened,
    without_extremes,
)
from fedmq.algorithms.inbox import GENE_MAX
from fedmq.algorithms.registry import find_algorithm
from fedmq.models.losses import ROW_SQUARED_ERROR_MAX
from fedmq.models.networks import MLP

TWO, FIVE = np.array([2, 2]), np.full(5, 2)


def test_loss_is_at_most_what_its_rows_can_come_to() -> None:
    losses = np.array([[1.0, 1e300], [np.nan, 40.0]])
    np.testing.assert_array_equal(possible_losses(losses, TWO, XOR), [[1.0, 40.0], [np.nan, 40.0]])
    np.testing.assert_array_equal(
        possible_losses(losses, TWO, LINEAR), [[1.0, 2 * ROW_SQUARED_ERROR_MAX], [np.nan, 40.0]]
    )


def test_cross_entropy_counts_at_most_three_nats_a_row_for_two_classes() -> None:
    losses = np.array([[5.9, 40.0], [np.nan, 6.1]])
    bounded = bounded_losses(losses, ~np.isnan(losses), TWO, XOR)
    np.testing.assert_array_equal(bounded, [[5.9, 6.0], [np.nan, 6.0]])
    ten = msgspec.structs.replace(XOR, model=MLP((2, 4, 10)))
    bounded = bounded_losses(losses, ~np.isnan(losses), TWO, ten)
    assert bounded[0, 1] == 2 * LOSS_PER_ROW_MAX * math.log2(10)
    assert bounded[1, 1] == 6.1


def test_squared_errors_are_scaled_by_the_credible_median() -> None:
    usual = np.array([1.0, 2.0, 3.0, 4.0, 1000.0]) * 1e4
    losses = np.array([usual, usual, usual, usual, usual * 1e6])
    bounded = bounded_losses(losses, np.ones((5, 5), np.bool_), FIVE, LINEAR)
    np.testing.assert_array_equal(bounded[0], [1e4, 2e4, 3e4, 4e4, 9e4])  # three times the median
    np.testing.assert_allclose(bounded[4], np.array([1.0, 2.0, 3.0, 4.0, 9.0]) * 3e4)  # in its order, at most so large


def test_squared_errors_that_differ_threefold_are_not_changed() -> None:
    losses = np.array([[1.0, 2.0, 3.0], [2.9, 5.8, 8.7], [1.1, 2.1, 3.1]])
    bounded = bounded_losses(losses, np.ones((3, 3), np.bool_), np.array([1, 1, 1]), LINEAR)
    np.testing.assert_array_equal(bounded, losses)


def test_squared_errors_without_a_scale_are_not_changed() -> None:
    losses = np.array([[0.0, 0.0, 9.0], [0.0, 0.0, 8.0]])
    np.testing.assert_array_equal(bounded_losses(losses, np.ones((2, 3), np.bool_), TWO, LINEAR), losses)


def test_of_five_losses_the_extremes_do_not_count() -> None:
    honest = [[0.02, 2.0], [0.04, 2.0], [0.06, 0.2], [0.08, 0.2]]
    for lie in ([6.0, 0.0], [0.0, 6.0], [0.05, 0.05]):
        right, wrong = without_extremes(np.array([*honest, lie]), FIVE)
        assert right < 0.05 < wrong
    np.testing.assert_array_equal(without_extremes(np.array(honest), np.full(4, 2)), np.array(honest).sum(axis=0))


def test_proposal_is_shortened_to_three_times_the_longest_parent() -> None:
    parents = np.array([[0.3, 0.4], [3.0, 4.0]])
    proposals = np.array([[3e6, 4e6], [-1.0, 2.0], [0.0, 0.0]])
    np.testing.assert_allclose(shortened(proposals, parents, 0.1), [[9.0, 12.0], [-1.0, 2.0], [0.0, 0.0]])
    assert shortened(proposals, parents, 0.1)[1].tobytes() == proposals[1].tobytes()


def test_proposal_from_parents_of_zeros_may_be_as_long_as_a_step() -> None:
    np.testing.assert_allclose(
        shortened(np.array([[30.0, 40.0]]), np.zeros((1, 2)), 1.0), [[1.8 * 2**0.5, 2.4 * 2**0.5]]
    )


def test_offspring_of_the_longest_proposal_is_of_an_accepted_size() -> None:
    longest = np.full((1, 2), GENE_MAX)
    assert np.linalg.norm(shortened(longest, longest, 1.0)) == pytest.approx(NORM_MAX)
    assert NORM_MAX < GENE_MAX / 10


def test_median_ignores_missing_scores() -> None:
    table = np.array([[3.0, np.nan, 1.0], [np.nan, np.nan, np.nan], [5.0, 7.0, 0.0]])
    np.testing.assert_array_equal(medians(table, ~np.isnan(table)), [2.0, 0.0, 5.0])


def test_tie_made_by_a_byzantine_trainer_does_not_deploy_its_candidate() -> None:
    """Four honest trainers get 8 and 6 rows right, the Byzantine one claims 0 and 2."""
    archive = Archive.of(np.arange(2), np.zeros((2, 22)))
    archive = replace(
        archive,
        trainers=("a", "b", "c", "d", "liar"),
        num_examples=FIVE,
        losses=np.array([[0.1, 0.1], [0.1, 0.1], [0.1, 0.8], [0.1, 0.8], [1e9, 0.0]]),
        correct=np.array([[2, 2], [2, 2], [2, 1], [2, 1], [0, 2]]),
    )
    tally = archive.summary(archive.trainers, XOR)
    assert tally is not None
    assert tally.correct.tolist() == [8, 8]
    assert tally.deployed(by_correct=True) == 0


def test_proposal_is_not_deployed_before_trainers_score_it() -> None:
    """Its elites enter the next pool without a score."""
    strategy = find_algorithm("evolution")
    state = strategy.init(XOR, 1)
    plan, rows = strategy.ask(state), shards(XOR, 2)
    for name in rows:
        update = trained(XOR, plan, rows, name, 1)
        perfect = spoilt(update, "losses", np.zeros(100))
        state = strategy.tell(state, spoilt(perfect, "correct", np.full(100, 2)))
    state = strategy.close(state, rows)
    published, evaluation = strategy.ask(state).arrays, strategy.evaluation(state)
    places = [int(np.flatnonzero((published["pool"] == elite).all(axis=1))[0]) for elite in update.arrays["elites"]]
    of_elites = state.archive.places(published["ids"][places])
    assert np.isnan(state.archive.losses[:, of_elites]).all()
    assert evaluation is not None
    assert not (update.arrays["elites"] == evaluation.parameters).all(axis=1).any()
