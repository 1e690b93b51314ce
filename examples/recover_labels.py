"""A curious aggregator: it reconstructs every label of a trainer from the sums that the trainer sends.

It follows the protocol. It knows the inputs of the rows, such as public features, and chooses the candidates that the
trainer scores; only the labels are secret. Three methods, each with the summed losses or the counts of correct rows:

    losses   the loss of row i under candidate k is known for either label, so that each sum is a linear equation in
             the labels: as many random candidates as there are rows, and one more, give all of them
    pointed  a network whose hidden units single out one row gives that row's label away in one sum, however coarse
    counts   the counts of correct rows are such equations, too, and are whole numbers: rounding losses hides nothing

In a secure sum of several sites, it receives masked answers and their total. The same attack then reads nothing. But
the total depends on the labels of all sites: a best guess is better than chance, and a candidate that is pointed at one
row more narrowly gives its label away, however many sites there are.

    python examples/recover_labels.py
"""

from __future__ import annotations

from collections import deque

import numpy as np

from fedmq import MLP, Rows, Task
from fedmq.algorithms.base import encode_query
from fedmq.algorithms.evolution.query import Evolve
from fedmq.models.losses import cross_entropy
from fedmq.protocol.codec import decode, encode
from fedmq.protocol.messages import Result, Round
from fedmq.runs.records import as_update
from fedmq.runtime.clock import SystemClock
from fedmq.secure_sums.aggregator import SumAggregator
from fedmq.secure_sums.ledger import Ledger
from fedmq.secure_sums.masks import SumName
from fedmq.secure_sums.messages import Cohort, Opening, Survivors
from fedmq.secure_sums.policy import SumPolicy
from fedmq.secure_sums.trainer import SumTrainer
from fedmq.security.keys import Identity
from fedmq.trainer.budget import Budget
from fedmq.trainer.round_handler import on_rows
from fedmq.trainer.session import BrokerConnected, MessageReceived, Outgoing, Session, WorkDone
from fedmq.trainer.worker import perform

FEATURES, HIDDEN = 6, 12
BITS = (30, 16, 8, 4, 0)
SURE = 0.1  # an estimate that is nearer than this to 0 or 1, with all the others, is no accident
POOL = 100  # candidates in a round, as usual
NARROW = 1e-6  # width of a peak over one row that no other row is in
STAND_INS = 300  # rows that show how inputs are distributed
TASK = Task(name="curious", model=MLP((FEATURES, HIDDEN, 2)), loss="cross-entropy", metric="accuracy", target=1.0)
Scores = tuple[np.ndarray, np.ndarray]


class Victim:
    """A trainer as it is shipped, without its sockets: rounds in, results out."""

    def __init__(self, rows: Rows, bits: int = 16, most: int | None = None) -> None:
        self.session = Session(
            "victim", len(rows.inputs), "", np.random.default_rng(0), fraction_bits=bits, budget=Budget(most)
        )
        self.session.step(BrokerConnected(), 0.0)
        self.learn, self.rounds = on_rows(rows, "victim"), 0

    def score(self, candidates: np.ndarray) -> Scores | None:
        """The sums that leave the trainer: losses and counts of correct rows; None when it takes no part any more."""
        parts = [self._round(candidates[start : start + POOL]) for start in range(0, len(candidates), POOL)]
        known = [part for part in parts if part is not None]
        return (np.concatenate([a for a, _ in known]), np.concatenate([b for _, b in known])) if known else None

    def _round(self, pool: np.ndarray) -> Scores | None:
        self.rounds += 1
        query = encode_query(Evolve(elites=0, generations=0, proposals=0))
        message = Round(run="r", term=1, round=self.rounds, seed=0, deadline_s=9.0, task=TASK, query=query)
        packet = decode(encode("round/r", message, {"ids": np.arange(len(pool)), "pool": pool}))
        if self.session.step(MessageReceived(packet), 0.0).start is None:
            return None
        done = perform(packet, self.learn, lambda: False, SystemClock())
        sends: list[Outgoing] = self.session.step(
            WorkDone("r", self.rounds, done.outcome, 0.0, self.session.num_examples), 0.0
        ).sends
        result = next(one for one in sends if isinstance(one.message, Result))
        arrays = as_update(result.message, result.arrays, self.rounds, additive=False).arrays
        return arrays["losses"], arrays["correct"]


def make_rows(count: int, seed: int) -> Rows:
    """Random inputs, which the aggregator knows, and random labels, which it does not."""
    draws = np.random.default_rng(seed)
    return TASK.fit(Rows(draws.normal(size=(count, FEATURES)), draws.integers(0, 2, count)))


def random_candidates(count: int, seed: int) -> np.ndarray:
    """Networks that disagree about the rows."""
    return np.random.default_rng([seed, 1]).normal(0.0, 1.0, (count, TASK.model.num_parameters))


def pointed_candidates(inputs: np.ndarray, seed: int, narrow: float | None = None) -> np.ndarray:
    """Return for each row a network that is sure of that row's class and undecided about all others.

    Along a random direction each row has a place of its own. Three ReLU units make a peak over it, as narrow as the gap
    to its neighbors or `narrow`: relu(t - p + w) - 2 relu(t - p) + relu(t - p - w), which is w at p and 0 from w on.
    """
    direction = np.random.default_rng([seed, 2]).normal(size=FEATURES)
    places = inputs @ direction
    candidates = np.zeros((len(inputs), TASK.model.num_parameters))
    for candidate, place in zip(candidates, places, strict=True):
        width = narrow or (np.partition(np.abs(places - place), 1)[1] if len(places) > 1 else 1.0)
        weights, rest = candidate[: FEATURES * HIDDEN].reshape(FEATURES, HIDDEN), candidate[FEATURES * HIDDEN :]
        weights[:, :3] = direction[:, None]
        rest[:3] = width - place, -place, -width - place
        rest[HIDDEN : HIDDEN + 6].reshape(3, 2)[:, 1] = np.array([1.0, -2.0, 1.0]) * 30.0 / width
    return candidates


def equations_of_each(candidates: np.ndarray, inputs: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    """What each row adds to the sum of candidate k with label 0, and what label 1 changes of it, (candidates, rows)."""
    of_label = []
    for label in (0, 1):
        parts = []
        for row in inputs:
            outputs, target = TASK.model.forward(candidates, row[None]), np.array([label])
            parts.append(cross_entropy(outputs, target) if what != "counts" else outputs.argmax(axis=2)[:, 0] == label)
        of_label.append(np.array(parts, dtype=np.float64).T)
    return of_label[0], of_label[1] - of_label[0]


def equations(candidates: np.ndarray, inputs: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    """What candidate k adds up to when all labels are 0 (candidates,), and what each label changes of it."""
    zero, change = equations_of_each(candidates, inputs, what)
    return zero.sum(axis=1), change


def estimated(sums: np.ndarray, zero: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Return the labels that explain the sums best, by least squares: near 0 or 1 once the sums suffice."""
    estimate: np.ndarray = np.linalg.lstsq(change, sums - zero, rcond=None)[0]
    return estimate


def scores_needed(count: int, bits: int, way: str, seed: int) -> int:
    """Return the number of scores until the aggregator is sure of every label of `count` rows, tried one by one."""
    rows = make_rows(count, seed)
    candidates = pointed_candidates(rows.inputs, seed) if way == "pointed" else random_candidates(6 * count, seed)
    scores = Victim(rows, bits).score(candidates)
    assert scores is not None
    sums = scores[1].astype(np.float64) if way == "counts" else scores[0]
    zero, change = equations(candidates, rows.inputs, way)
    for number in range(count, len(candidates) + 1):
        labels = estimated(sums[:number], zero[:number], change[:number])
        if np.abs(labels - labels.round()).max() < SURE:
            assert (labels.round() == rows.targets).all(), "a sure estimate is right"
            return number
    raise AssertionError(f"{len(candidates)} scores did not give every label")


def recovered(count: int, most: int | None, seed: int) -> int:
    """How many labels a pointed aggregator reads from a trainer that scores `most` candidates at the most."""
    rows = make_rows(count, seed)
    candidates, victim = pointed_candidates(rows.inputs, seed), Victim(rows, 0, most)
    found = 0
    for row, candidate in enumerate(candidates):  # a round for each, to use the budget to its end
        scores = victim.score(candidate[None])
        if scores is not None:
            zero, change = equations(candidate[None], rows.inputs, "pointed")
            label = estimated(scores[0], zero, change)[row].round()
            found += int(label == rows.targets[row])
    return found


def secure_sum(answers: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the first answer as the aggregator receives it, and the total: int64, by the code of trainers as shipped.

    `--min-members 2` permits two sites.
    """
    name = SumName(b"federation", "r", 1, 1)
    sites = [Identity.new("trainer", f"site-{number:02d}") for number in range(len(answers))]
    values = {site.name: answer for site, answer in zip(sites, answers, strict=True)}
    trainers = {site.name: SumTrainer(name, site, SumPolicy(members_min=2), Ledger()) for site in sites}
    aggregator = SumAggregator(name)
    for site in sites:
        aggregator.join(site.public, trainers[site.name].advertise())
    queue, masked = deque(aggregator.fix_cohort().send), {}
    while aggregator.total is None:
        if not queue:
            queue += aggregator.open(bytes(32), len(answers[0])).send
        member, message = queue.popleft()
        match message:
            case Cohort():
                reply = trainers[member].deal(message)
            case Opening():
                reply = masked[member] = trainers[member].answer(message, values[member]).send
            case Survivors():
                reply = trainers[member].sign(message).send
            case _:
                reply = trainers[member].reveal(message).send
        queue += aggregator.receive(member, reply).send
    return np.frombuffer(masked[sites[0].name].values, np.int64), np.frombuffer(aggregator.total.values, np.int64)


def guessed(total: np.ndarray, known: np.ndarray, strangers: int, candidates: np.ndarray, way: str) -> np.ndarray:
    """Return the best linear guess, above 0 for label 1, of the labels of rows with known inputs, from a total.

    Of the other rows, `strangers`, the aggregator knows the distribution: what they add is noise with a covariance.
    """
    zero, change = equations(candidates, known, way)
    drawn, drawn_change = equations_of_each(candidates, make_rows(STAND_INS, seed=2**32).inputs, way)
    noise = np.cov(np.hstack([drawn, drawn + drawn_change])) * strangers
    expected = zero + change.sum(axis=1) / 2 + strangers * (drawn + drawn_change / 2).mean(axis=1)
    signal = change / 2
    solved = np.linalg.solve(signal @ signal.T + noise + 1e-6 * np.eye(len(candidates)), total - expected)
    guess: np.ndarray = signal.T @ solved
    return guess


def read_from_secure_sums(sites: int, way: str, seed: int, count: int = 90, most: int = POOL) -> tuple[float, ...]:
    """Return the shares of the first site's labels that the aggregator reads from the scores of `most` candidates.

    By the attack on a single answer: from that site's masked answer, and from the total. By the best guess: from the
    total with the inputs of that site known, and with those of all sites.
    """
    rows = [make_rows(count, 1000 * seed + site) for site in range(sites)]
    if way == "pointed":
        candidates = pointed_candidates(rows[0].inputs, seed, narrow=NARROW)[:most]
    else:
        candidates = random_candidates(most, seed)
    answers = []
    for one in rows:
        scores = Victim(one, bits=16).score(candidates)
        assert scores is not None
        answers.append(scores[1] if way == "counts" else np.rint(scores[0] * 2**16).astype(np.int64))
    unit = 1.0 if way == "counts" else 2.0**-16
    masked, total = (unit * one for one in secure_sum(answers))
    zero, change = equations(candidates, rows[0].inputs, way)
    everything = np.concatenate([one.inputs for one in rows])
    guesses = (
        estimated(masked, zero, change) - 0.5,
        estimated(total, zero, change) - 0.5,
        guessed(total, rows[0].inputs, count * (sites - 1), candidates, way),
        guessed(total, everything, 0, candidates, way)[:count],
    )
    return tuple(float(np.mean((one > 0) == rows[0].targets)) for one in guesses)


if __name__ == "__main__":
    print("scores that give every label for certain, median of 5 trainers, at so many --score-bits")
    print("rows  way      " + "".join(f"{bits:>6}" for bits in BITS))
    for count in (10, 30, 90):
        for way in ("losses", "pointed", "counts"):
            needed = [np.median([scores_needed(count, bits, way, seed) for seed in range(5)]) for bits in BITS]
            print(f"{count:4}  {way:7}  " + "".join(f"{number:6g}" for number in needed))
    print("labels that a pointed aggregator reads of 90 rows at 0 bits, with --max-evaluations")
    for most in (10, 30, None):
        print(f"{most or 'any':>4}  {recovered(90, most, seed=0):4}")
    print("labels of the first of several sites with 90 rows each, in %, read from one round with secure sums;")
    print("by the attack above from the masked answer and from the total; by the best guess from the total, with the")
    print("inputs of the first site known, and with those of all; mean of 5 trainers")
    print("sites  way      masked  total  guess, first known  guess, all known")
    for sites in (2, 3, 10, 30):
        for way in ("losses", "pointed", "counts"):
            read = 100 * np.mean([read_from_secure_sums(sites, way, seed) for seed in range(5)], axis=0)
            print(f"{sites:5}  {way:7}  {read[0]:6.0f}  {read[1]:5.0f}  {read[2]:18.0f}  {read[3]:16.0f}", flush=True)
