"""The pure core of private runs: exact noise, the account, clipped rows, and what one row adds to an answer."""

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from fedmq.algorithms.base import Assignment
from fedmq.algorithms.evaluation.private_query import PrivateFitted
from fedmq.algorithms.private.columns import preparation_arrays, preparation_of
from fedmq.algorithms.private.query import Noise, PrivateQuery, with_noise
from fedmq.algorithms.registry import PRIVATE, find_learner, private_algorithm
from fedmq.differential_privacy import discrete_gaussian as sampler
from fedmq.differential_privacy.accounting import epsilon_of, noise_multiplier, rho_for
from fedmq.differential_privacy.clipping import clipped_rows
from fedmq.models.networks import MLP, Linear
from fedmq.models.trees import Trees
from fedmq.tables.schema import Column, Schema, Target
from fedmq.tasks.task import Rows, Task

# z, answers, epsilon for delta 1e-5: `RdpAccountant` of dp-accounting 0.6.0, whose orders are coarser.
REFERENCE = [
    (4.0, 1, 1.0125506277526433),
    (1.5, 1, 2.98480004524568),
    (0.65, 1, 7.819790837805107),
    (10.0, 6, 0.9900506277526433),
    (3.6, 6, 3.053944306987231),
    (40.0, 100, 1.0125506277526433),
    (15.0, 100, 2.98480004524568),
    (6.4, 100, 7.9651484099204914),
    (128.0, 1000, 0.9993670340026433),
    (20.0, 1000, 8.079406222420491),
]
COLUMNS = (Column(name="age", bounds=(0.0, 100.0)), Column(name="kind", kind="category", categories=("a", "b", "c")))
CLASSES = Target(name="ill", kind="class", classes=("no", "yes"))
THREE = Target(name="ill", kind="class", classes=("no", "yes", "maybe"))
NUMBER = Target(name="dose", kind="number", bounds=(-1.0, 3.0))


def task_for(target: Target, algorithm: str) -> Task:
    classes = len(target.classes)
    schema, output = Schema(columns=COLUMNS, target=target), "softmax" if classes else "identity"
    model = {
        "boosting": Trees(2, classes or 1, output, trees=8, depth=4, categories=(0, 3)),
        "es": MLP((4, 3, classes or 1), output=output),
    }.get(algorithm, MLP((4, classes)) if classes else Linear(4))
    loss, metric = ("cross-entropy", "accuracy") if classes else ("squared-error", "loss")
    return Task(name="trial", model=model, loss=loss, metric=metric, schema=schema)


def question(algorithm: str, target: Target, rho: float = 0.1, trainers: int = 2) -> tuple[Task, PrivateQuery, dict]:
    task = task_for(target, algorithm)
    private, _ = private_algorithm(algorithm, task)
    plan = private.ask(private.init(task, 7, Noise(rho, trainers)))
    return task, plan.query, dict(plan.arrays)


def answered(task: Task, query: PrivateQuery, arrays: dict, rows: Rows) -> dict:
    preparation = preparation_of(task)
    inputs = rows.inputs if query.rows == "columns" else preparation.features(rows.inputs)
    work = Assignment(task, arrays, rows._replace(inputs=inputs), lambda _one: None, np.random.default_rng(0))
    with np.errstate(all="ignore"):
        return find_learner(query.kind).learn(query, work)


def wild_rows(target: Target) -> Rows:
    """Rows far beyond the declared bounds, and with gaps."""
    ages = np.array([50.0, 1e300, -1e300, np.nan, 0.0, 100.0, 1e9, 7.0])
    kinds = np.array([0.0, 1.0, 2.0, np.nan, 2.0, 1.0, 0.0, 0.0])
    classes = len(target.classes)
    targets = np.arange(8) % classes if classes else np.array([0.0, 1e300, -1e300, 3.0, -1.0, 1e5, 1.0, 2.0])
    return Rows(np.column_stack([ages, kinds]), targets)


@pytest.mark.parametrize("variance", [Fraction(1, 4), Fraction(1), Fraction(10), Fraction(123457, 1000)])
def test_samples_have_the_distribution_of_the_discrete_gaussian(variance: Fraction) -> None:
    found = sampler.discrete_gaussian(variance, 40_000, sampler.words_of(np.random.default_rng(5)))
    reach = math.ceil(8 * math.sqrt(variance)) + 1
    places = np.arange(-reach, reach + 1)
    shares = np.exp(-(places**2) / (2.0 * float(variance)))
    expected = shares / shares.sum() * len(found)
    counts = np.array([(found == place).sum() for place in places])
    frequent = expected > 5
    chi_square = (np.square(counts - expected)[frequent] / expected[frequent]).sum()
    assert stats.chi2.sf(chi_square, frequent.sum() - 1) > 1e-3
    assert counts.sum() == len(found)


def test_samples_of_the_system_differ_and_have_the_deviation() -> None:
    one, other = (sampler.discrete_gaussian(Fraction(1 << 40), 2000) for _ in range(2))
    assert (one != other).mean() > 0.99
    assert 0.9 < np.concatenate([one, other]).std() / 2**20 < 1.1
    with pytest.raises(ValueError, match="variance above 0"):
        sampler.discrete_gaussian(Fraction(0), 1)


def test_a_coin_that_float64_cannot_decide_is_decided_exactly() -> None:
    exponent = Fraction(1, 3)
    low, high = sampler._exp_bounds(exponent, 117)  # 53 bits, and 64 further ones
    assert 0 < high - low < 1 << 8
    assert low / 2**117 == pytest.approx(math.exp(-1 / 3), rel=1e-15)
    first = low >> 64

    def words(rest: int) -> sampler.Words:
        return lambda count: np.full(count, rest, np.uint64)

    middle = low - (first << 64)
    assert sampler._exact_coin(first, exponent, words(max(0, middle - 1000)))
    assert not sampler._exact_coin(first, exponent, words(min((1 << 64) - 1, middle + 1000)))
    drawn = iter([np.array([first << 11], np.uint64), np.array([max(0, middle - 1000)], np.uint64)])
    assert sampler._coins(np.array([1 / 3]), lambda _place: exponent, lambda _count: next(drawn)).all()


def test_uniform_numbers_are_even_for_a_limit_that_is_no_power_of_two() -> None:
    found = sampler._below(6, 60_000, sampler.words_of(np.random.default_rng(1)))
    assert stats.chisquare(np.bincount(found, minlength=6)).pvalue > 1e-3
    whole = (1 << 64) // 3 * 3
    drawn = iter([np.array([whole], np.uint64), np.array([4], np.uint64)])
    assert sampler._below(3, 1, lambda _count: next(drawn)).tolist() == [1]  # the first word would favor 0


@pytest.mark.parametrize(("multiplier", "answers", "epsilon"), REFERENCE)
def test_epsilon_is_that_of_another_accountant(multiplier: float, answers: int, epsilon: float) -> None:
    assert epsilon_of(answers / (2 * multiplier**2), 1e-5) == pytest.approx(epsilon, rel=1e-3)


def test_reference_is_what_the_other_accountant_computes() -> None:
    """Skipped without the package: `pip install dp-accounting==0.6.0`."""
    dp_accounting = pytest.importorskip("dp_accounting")
    for multiplier, answers, epsilon in REFERENCE:
        accountant = dp_accounting.rdp.RdpAccountant()
        accountant.compose(dp_accounting.GaussianDpEvent(multiplier), answers)
        assert accountant.get_epsilon(1e-5) == pytest.approx(epsilon, rel=1e-12)


def test_rho_for_an_epsilon_has_that_epsilon_and_no_more() -> None:
    for epsilon in (1e-3, 0.5, 3.0, 50.0):
        rho = rho_for(epsilon, 1e-6)
        assert epsilon * 0.999 < epsilon_of(rho, 1e-6) <= epsilon
    assert epsilon_of(0.0, 1e-5) == 0.0
    assert noise_multiplier(rho_for(3.0, 1e-5)) == pytest.approx(1.493, abs=1e-3)


def test_clipped_rows_are_never_longer_than_the_limit() -> None:
    generator = np.random.default_rng(3)
    rows = np.rint(generator.normal(size=(400, 7)) * 2.0 ** generator.uniform(0, 20, (400, 1)))
    found = clipped_rows(rows, 1001)
    squares = [sum(int(one) ** 2 for one in row) for row in found]
    assert max(squares) <= 1001**2
    assert max(squares) > 990**2
    short = np.square(rows).sum(axis=1) <= 1001**2
    assert np.array_equal(found[short], rows[short])
    limits = generator.integers(0, 2000, 400).astype(np.float64)
    assert (np.square(clipped_rows(rows, limits)).sum(axis=1) <= limits**2).all()
    with pytest.raises(ValueError, match="2\\*\\*53"):
        clipped_rows(np.array([[2.0**30]]), 1)


@pytest.mark.parametrize("target", [CLASSES, THREE, NUMBER], ids=["two", "three", "number"])
@pytest.mark.parametrize("scale", [1.0, 1e300])  # of the numbers that an aggregator sends
@pytest.mark.parametrize("algorithm", [*PRIVATE, "figures"])
def test_one_row_adds_at_most_the_sensitivity(algorithm: str, scale: float, target: Target) -> None:
    if algorithm == "figures":
        task = task_for(target, "ridge")
        query = PrivateFitted(noise=Noise(0.1, 1), center=1.0)
        arrays = {"parameters": np.full(task.model.num_parameters, 3.0 * scale)}
    else:
        task, query, arrays = question(algorithm, target)
        for name, array in arrays.items():
            if array.size:
                arrays[name] = array + scale * np.random.default_rng(0).normal(size=array.shape)
        if algorithm == "boosting":
            arrays["leaves"] = np.random.default_rng(0).normal(size=(2, arrays["leaves"].shape[1])) * scale
    shapes = {name: array.shape for name, array in arrays.items()}
    query.check(task, shapes)
    rows, norms = wild_rows(target), query.sensitivities(task, shapes)
    alone = [
        answered(task, query, arrays, Rows(rows.inputs[place : place + 1], rows.targets[place : place + 1]))
        for place in range(8)
    ]
    everything = answered(task, query, arrays, rows)
    assert everything.keys() == norms.keys()
    for name, one in norms.items():
        lengths = [math.sqrt(sum(int(number) ** 2 for number in each[name].ravel())) for each in alone]
        assert max(lengths) <= one.norm
        assert np.array_equal(sum(each[name] for each in alone), everything[name])
    assert sum(one.share for one in norms.values()) <= 1


def test_noise_of_all_trainers_has_the_variance_of_the_question() -> None:
    task, query, arrays = question("ridge", CLASSES, rho=0.05, trainers=4)
    shapes = {name: array.shape for name, array in arrays.items()}
    nothing = {name: np.zeros(one.shape, np.int64) for name, one in query.answer(task, shapes, 1).items()}
    words = sampler.words_of(np.random.default_rng(2))
    totals = [
        sum(with_noise(query, task, shapes, nothing, 10, words)["products"] for _trainer in range(4))
        for _time in range(300)
    ]
    norm, share = query.sensitivities(task, shapes)["products"]
    assert np.std(totals) == pytest.approx(norm / math.sqrt(2 * 0.05 * float(share)), rel=0.05)
    assert query.deviations(task, shapes, 4)["products"] == pytest.approx(np.std(totals), rel=0.05)


def test_columns_are_prepared_by_their_bounds_alone() -> None:
    preparation = preparation_of(task_for(NUMBER, "ridge"))
    assert preparation.features(np.array([[0.0, 0.0], [100.0, 2.0], [np.nan, np.nan]])).tolist() == [
        [-2.0, 0.0, 0.0, 0.0],
        [2.0, 0.0, 1.0, 0.0],
        [0.0, 0.0, 0.0, 1.0],
    ]
    assert preparation_arrays(preparation)["column_fill"].tolist()[0] == 50.0
