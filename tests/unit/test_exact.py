"""Exact arithmetic: products at the bound of float64, elementary functions, algebra, draws."""

from __future__ import annotations

from decimal import Decimal, getcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fedmq.errors import BadConfiguration
from fedmq.exact import elementary
from fedmq.exact.algebra import Cholesky, quadratic_form
from fedmq.exact.draws import hash_rows, normals, permutation, signs, words
from fedmq.exact.elementary import exp, linear_outputs, log, log_factorial, sigmoid, softmax, softplus
from fedmq.exact.fourier import COSINE_BITS, TURN_BITS, integer_cosines
from fedmq.exact.integers import (
    EXACT_BITS,
    columns_of,
    combine,
    gram,
    gram_of_parts,
    product,
    products_are_exact,
    rows_of_a_product,
    split,
    symmetric,
    to_fixed,
    to_floats,
    triangle_of,
)

getcontext().prec = 50
RNG = np.random.default_rng(1)


def integers(rows: int, columns: int, bits: int, seed: int) -> np.ndarray:
    """Integers up to ±2**bits, a third of them at the bound."""
    draws = np.random.default_rng(seed)
    drawn = draws.integers(-(2**bits), 2**bits + 1, (rows, columns))
    return np.where(draws.random((rows, columns)) < 1 / 3, draws.choice([-(2**bits), 2**bits], (rows, columns)), drawn)


@example(300, 26, 26, 0)
@example(300, 26, 26, 1)
@given(st.integers(1, 300), st.integers(1, 26), st.integers(1, 26), st.integers(0, 99))
def test_product_equals_that_of_int64_up_to_the_bound(rows: int, left_bits: int, right_bits: int, seed: int) -> None:
    left, right = integers(rows, 5, left_bits, seed), integers(rows, 3, right_bits, seed + 1)
    found = product(left.astype(float), left_bits, right.astype(float), right_bits)
    assert (found == left.T @ right).all()


def test_blocks_of_a_product_stay_within_the_bound() -> None:
    assert rows_of_a_product(20, 20) == 1 << (EXACT_BITS - 40)
    with pytest.raises(ValueError, match="27 and 27"):
        rows_of_a_product(27, 27)


def test_control_beyond_the_bound_is_wrong() -> None:
    wrong = 0
    for seed in range(10):
        odd = integers(200, 20, 25, seed) * 2 + 1
        wrong += bool(((odd.T.astype(float) @ odd.astype(float)).astype(np.int64) != odd.T @ odd).any())
    assert wrong == 10
    assert products_are_exact()


def test_blas_that_rounds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmq.exact.integers.products_are_exact", lambda: False)
    with pytest.raises(BadConfiguration, match="expected a BLAS"):
        product(np.ones((2, 1)), 1, np.ones((2, 1)), 1)


@pytest.mark.parametrize("block", [1, 7, 400])
def test_sums_of_products_equal_python_integers_for_any_blocks(block: int) -> None:
    table = RNG.normal(0.0, 5.0, (400, 6))
    table[0] = [np.inf, -np.inf, 0.0, -0.0, 1e9, -16.0]
    fixed = to_fixed(table, 36, 40)
    sums = sum(gram_of_parts(split(fixed[start : start + block], 20), 20) for start in range(0, 400, block))
    numbers = fixed.astype(np.int64).astype(object)
    assert (combine(sums, 20) == (numbers.T @ numbers)[np.triu_indices(6)]).all()


def test_one_part_needs_one_sum() -> None:
    fixed = to_fixed(RNG.normal(size=(50, 4)), 16, 20)
    products = fixed.astype(np.int64).T @ fixed.astype(np.int64)
    assert (symmetric(combine(gram(fixed, 20), 0).astype(float)) == products).all()
    assert [columns_of(triangle_of(one)) for one in (1, 2, 51, 2000)] == [1, 2, 51, 2000]


def test_fixed_point_is_bounded_and_keeps_nan() -> None:
    values = np.array([[0.5, 2.5, -1e300, np.inf, np.nan]])
    assert to_fixed(values, 0, 4)[0, :4].tolist() == [0.0, 2.0, -16.0, 16.0]
    assert np.isnan(to_fixed(values, 0, 4)[0, 4])
    assert to_fixed(np.ones((1, 2)), np.array([0, 3]), 8).tolist() == [[1.0, 8.0]]


def test_integers_become_the_nearest_floats() -> None:
    numerators = np.array([2**80 + 1, -3, 7], object)
    expected = [float(Fraction(2**80 + 1, 2**70)), -0.375, 7.0]
    assert to_floats(numerators, np.array([70, 3, 0])).tolist() == expected


def test_elementary_functions_are_accurate() -> None:
    values = RNG.normal(0.0, 8.0, 3000)
    exact = [Decimal(float(one)).exp() for one in values]
    relative = max(abs(Decimal(float(one)) / true - 1) for one, true in zip(exp(values), exact, strict=True))
    assert relative < Decimal("2.3e-16")
    positive = np.abs(values)
    for found, one in zip(log(positive), positive, strict=True):
        true = Decimal(float(one)).ln()
        assert abs(Decimal(float(found)) - true) < Decimal("5e-16") * max(1, abs(true))
    assert np.abs(sigmoid(values) - 1.0 / (1.0 + np.exp(-values))).max() < 3e-16
    assert np.abs(softplus(values) - np.logaddexp(0.0, values)).max() < 8e-15


def test_log_factorials_are_accurate() -> None:
    counts = np.array([0.0, 1.0, 2.0, 5.0, 22.0, 31.0, 32.0, 33.0, 100.0, 12345.0])
    exact = np.array([float(sum((Decimal(k).ln() for k in range(2, int(one) + 1)), Decimal(0))) for one in counts])
    assert log_factorial(counts) == pytest.approx(exact, rel=1e-14, abs=1e-15)


def test_tables_are_correctly_rounded() -> None:
    tables, log2 = elementary._tables(), Decimal(2).ln()
    for cell in range(0, elementary.CELLS, 97):
        middle = 1 + (Decimal(cell) + Decimal("0.5")) / elementary.CELLS
        assert tables.powers[cell] == float((log2 * cell / elementary.CELLS).exp())
        assert tables.logs[cell] == float(middle.ln())


def test_functions_are_bounded_at_the_ends() -> None:
    assert exp(np.array([-np.inf, -1e9, 1e9])).tolist() == [exp(np.array([-700.0]))[0]] * 2 + [
        exp(np.array([700.0]))[0]
    ]
    assert sigmoid(np.array([-1e3, 0.0, 1e3])).tolist() == pytest.approx([0.0, 0.5, 1.0])
    assert softplus(np.array([-1e3, 1e3])).tolist() == pytest.approx([0.0, 1e3])


def test_a_row_has_the_same_numbers_alone_and_among_others() -> None:
    table, weights = RNG.normal(0.0, 5.0, (9, 20_000)), RNG.normal(size=9)
    together = [linear_outputs(table, weights), *softmax(table)[0], softmax(table)[1], *map(exp, table)]
    for row in (0, 1, 8191, 8192, 19_999):
        one = np.ascontiguousarray(table[:, row : row + 1])
        alone = [linear_outputs(one, weights), *softmax(one)[0], softmax(one)[1], *map(exp, one)]
        assert [array[0] for array in alone] == [array[row] for array in together]


def test_cholesky_solves_and_inverts() -> None:
    root = RNG.normal(size=(80, 30))
    matrix, right = root.T @ root, RNG.normal(size=(30, 4))
    factor = Cholesky.of(matrix)
    assert np.abs(factor.solve(right) - np.linalg.solve(matrix, right)).max() < 1e-13
    assert np.abs(factor.inverse() - np.linalg.inv(matrix)).max() < 1e-14
    assert np.abs(factor.leading(7).solve(right[:7]) - np.linalg.solve(matrix[:7, :7], right[:7])).max() < 1e-13
    assert quadratic_form(matrix, right) == pytest.approx(np.diag(right.T @ matrix @ right))


def test_cholesky_drops_columns_that_depend_on_those_before() -> None:
    root = RNG.normal(size=(80, 5))
    root[:, 2] = root[:, 0] * 2.0 - root[:, 1]
    root[:, 4] = 0.0
    factor = Cholesky.of(root.T @ root)
    assert factor.kept.tolist() == [True, True, False, True, False]
    solution = factor.solve(root.T @ root[:, 3])
    assert solution == pytest.approx([0.0, 0.0, 0.0, 1.0, 0.0], abs=1e-12)
    assert factor.leading(3).kept.tolist() == [True, True, False]


def test_draws_depend_on_seed_and_path_only() -> None:
    assert words(5, 1, "a").tolist() == words(9, 1, "a")[:5].tolist()
    assert len({int(one) for one in [*words(500, 1, "a"), *words(500, 1, "b"), *words(500, 2, "a")]}) == 1500
    drawn = normals(100_000, 3, "n")
    assert [drawn.mean(), drawn.std(), (drawn**4).mean()] == pytest.approx([0.0, 1.0, 3.0], abs=0.05)
    assert abs(signs(100_000, 3, "s").mean()) < 0.01
    assert sorted(permutation(100, 1).tolist()) == list(range(100))


def test_equal_rows_have_equal_hashes() -> None:
    table = RNG.normal(size=(3, 1000))
    table[:, 1] = table[:, 0]
    table[0, 2:4], table[1:, 3] = (0.0, -0.0), table[1:, 2]
    hashed = hash_rows(table)
    assert hashed[0] == hashed[1]
    assert hashed[2] == hashed[3]
    assert len(set(hashed.tolist())) == 998
    shares = np.array([np.mean(hash_rows(RNG.normal(size=(2, 2000))) < np.uint64(2**64 // 5)) for _ in range(5)])
    assert np.abs(shares - 0.2).max() < 0.04


def test_no_cosine_is_near_a_tie_of_rounding() -> None:
    exact = np.ldexp(np.cos(np.arange(1 << TURN_BITS) * (2.0 * np.pi / (1 << TURN_BITS))), COSINE_BITS)
    assert np.abs(np.abs(exact - np.floor(exact)) - 0.5).min() > 1e-6
    found = integer_cosines(np.array([0, 1 << 14, 1 << 15, 3 << 14, 1 << 16, -(1 << 15)])).tolist()
    assert found == [2.0**19, 0.0, -(2.0**19), 0.0, 2.0**19, -(2.0**19)]
