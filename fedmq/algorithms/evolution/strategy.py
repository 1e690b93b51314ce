"""The default algorithm: federated evolution, in which every trainer scores every candidate.

A round publishes a pool of candidates. Each trainer scores all of them on its own rows, so the sums over trainers are
the exact losses on the union of the data, however it is split. It also sends elites of its own; the next pool carries
them and every trainer scores them, so no trainer's own claim counts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from fedmq.algorithms.base import CANDIDATES_MAX, Candidates, Evaluation, Generations, Mutation, Plan, Update
from fedmq.algorithms.evolution.archive import Archive, ScoreSummary
from fedmq.algorithms.evolution.keywords import FederatedKeywords, types_of
from fedmq.algorithms.evolution.query import Evolve
from fedmq.algorithms.evolution.robust_losses import shortened
from fedmq.algorithms.evolution.variation import crossover, fresh, mutate
from fedmq.algorithms.inbox import ROUNDS_REMEMBERED, Inbox, check_answer, check_round
from fedmq.errors import BadConfiguration
from fedmq.models.arrays import Floats, Integers
from fedmq.models.genes import integer_genes
from fedmq.models.trained_model import TrainedModel
from fedmq.runtime.rng import derive_rng
from fedmq.tasks.task import ROUNDS_MAX, Task

ELITES_SHARE = 10  # one in so many of a pool is kept as it is
PARENTS_SHARE = 4  # one in so many breeds
PROPOSALS_SHARE = 4  # one in so many of a pool may come from the trainers
ARCHIVE_POOLS = 2  # the best candidates that are kept, in sizes of a pool
PROGRESS = 1e-3  # a loss lower by less than this share is no progress

Initial = Annotated[float, Meta(ge=-1e6, le=1e6)]
Breeding = Annotated[int, Meta(ge=4, le=CANDIDATES_MAX)]


class EvolutionParameters(FederatedKeywords, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The parameters of `evolution`; the defaults solved split XOR in 1,000 of 1,000 runs.

    With any of PyGAD's keywords, PyGAD itself evolves the population: see `fedmq.algorithms.evolution.genetic`.

    Raises:
        BadConfiguration: settings that do not go together.
    """

    population: Breeding = 100  # candidates in a round's pool
    generations: Generations = 5  # of the trainers' local search; 0: score only
    local_population: Breeding = 20  # candidates of the local search
    proposals: Candidates = 3  # the most elites that a trainer sends back
    immigrants: Annotated[float, Meta(ge=0, le=1)] = 0.1  # share of each pool that is random
    restart_after: Annotated[int, Meta(ge=0, le=ROUNDS_MAX)] = 15  # rounds without progress before a restart; 0: never
    initial: tuple[Initial, Initial] = (-2.0, 2.0)  # random genes are uniform in between
    mutation: Mutation = (-1.5, 0.3)
    additive: bool = False  # rank by totals, and breed at the aggregator alone: what secure sums need

    def __post_init__(self) -> None:
        integer_genes(types_of(self.given), 1)
        if self.additive:
            self._check_additive()
        if self.proposals > self.local_population:
            raise BadConfiguration(
                f"parameter proposals: expected a number from 0 to local_population, {self.local_population}, "
                f"got {self.proposals}"
            )
        for name, (low, high) in (("initial", self.initial), ("mutation", self.mutation)):
            if not low <= high:
                raise BadConfiguration(f"parameter {name}: expected [low, high], got {[low, high]}")

    def _check_additive(self) -> None:
        """Check that totals are enough for the keywords.

        Raises:
            BadConfiguration: one needs the answer of each trainer, or totals of two rounds.
        """
        for keyword, is_given, why in (
            ("local_generations", bool(self.local_generations), "its candidates come from single trainers"),
            ("fitness_over_trainers=mean", self.fitness_over_trainers == "mean", "it weighs single answers"),
            ("mutation_type=adaptive", self.mutation_type == "adaptive", "it compares the totals of two rounds"),
        ):
            if is_given:
                raise BadConfiguration(f"parameter additive: expected no {keyword}, as {why}: leave one of them out")


@dataclass(frozen=True, eq=False)
class Stagnation:
    """The least loss per row since the last restart, and for how many rounds it has not improved."""

    best: float = np.inf
    stagnant: int = 0

    def after(self, loss: float) -> Stagnation:
        """Return the value after a round whose best candidate has this loss per row."""
        if loss < self.best * (1.0 - PROGRESS):
            return Stagnation(best=loss)
        return replace(self, stagnant=self.stagnant + 1)


@dataclass(frozen=True, eq=False)
class EvolutionState:
    """The state while round `round` is open."""

    task: Task
    seed: int
    round: int
    archive: Archive
    pools: Mapping[int, Integers]  # the candidate ids of the rounds that are remembered, the elites first
    elites: int  # how many of the open round's pool
    next_id: int
    champion: int | None = None  # a candidate from before a restart that is still the best to deploy
    restarted: int = 0  # the round that published the newest random pool after a restart; 0: none
    progress: Stagnation = field(default_factory=Stagnation)
    inbox: Inbox = field(default_factory=Inbox)
    evaluation: Evaluation | None = None


class Evolution:
    """The strategy of `evolution`: see `fedmq.algorithms.base.Strategy` for each method.

    Not additive: the archive keeps each trainer's scores, and bounds how much one of them can weigh.
    """

    name = "evolution"
    additive = False
    Parameters = EvolutionParameters

    def __init__(self, parameters: EvolutionParameters | None = None) -> None:
        self.parameters = search = parameters or EvolutionParameters()
        self._query = Evolve(
            elites=0,
            generations=search.generations,
            population=search.local_population,
            proposals=search.proposals,
            mutation=search.mutation,
        )

    def init(self, task: Task, seed: int) -> EvolutionState:
        """Return a pool of random candidates."""
        ids = np.arange(self.parameters.population)
        genes = fresh(len(ids), task.model.num_parameters, self.parameters.initial, derive_rng(seed, "evolution", 0))
        return EvolutionState(task, seed, 1, Archive.of(ids, genes), {1: ids}, elites=0, next_id=len(ids))

    def starting_at(self, state: EvolutionState, trained: TrainedModel) -> EvolutionState:
        """Return the state of round 1 with an earlier model in its pool; half of the others are mutations of it."""
        ids, parameters = state.pools[1], trained.parameters
        genes, half = state.archive.genes.copy(), len(ids) // 2
        generator = derive_rng(state.seed, "evolution", "start")
        genes[:half] = mutate(np.repeat(parameters[None], half, axis=0), self.parameters.mutation, generator)
        genes[0] = parameters
        return replace(state, archive=Archive.of(ids, genes))

    def ask(self, state: EvolutionState) -> Plan:
        """Publish the pool: score it, and search from it."""
        ids = state.pools[state.round]
        query = msgspec.structs.replace(self._query, elites=state.elites)
        return Plan(query, {"ids": ids, "pool": state.archive.genes[state.archive.places(ids)]})

    def tell(self, state: EvolutionState, update: Update) -> EvolutionState:
        check_round(update, state.round)
        if state.inbox.knows(update):
            return state
        shapes = {"pool": (len(state.pools[update.round]), state.task.model.num_parameters)}
        check_answer(update, self._query.answer(state.task, shapes, update.num_examples))
        return replace(state, inbox=state.inbox.add(update))

    def close(self, state: EvolutionState, members: Collection[str]) -> EvolutionState:
        """Merges the scores, ranks the candidates and breeds the next pool; without scores the pool stays."""
        members, updates = frozenset(members), state.inbox.updates()
        state = replace(state, round=state.round + 1, inbox=state.inbox.emptied(state.round))
        archive = state.archive.scored(updates, state.pools)
        summary = archive.summary(members, state.task)
        if summary is None:
            known = state.evaluation and replace(state.evaluation, restarted=False)
            return _same_pool(replace(state, archive=archive, evaluation=known))
        chosen = summary.deployed(by_correct=state.task.metric == "accuracy")
        restarted = state.restarted == state.round - 1
        progress = state.progress.after(float(summary.loss[chosen]) / summary.rows_known) if updates else state.progress
        evaluation = _evaluation(archive, summary, chosen, restarted)
        state = replace(state, archive=archive, evaluation=evaluation, progress=progress)
        if not updates:
            return _same_pool(state)
        deployed = int(summary.places[chosen])
        patience = self.parameters.restart_after
        if patience and state.progress.stagnant >= patience:
            return _restarted(state, self.parameters, deployed, members)
        return _bred(state, self.parameters, summary, deployed, updates, members)

    def evaluation(self, state: EvolutionState) -> Evaluation | None:
        """The best candidate at the last close."""
        return state.evaluation


def _evaluation(archive: Archive, summary: ScoreSummary, chosen: int, restarted: bool) -> Evaluation:
    fitness = -summary.loss / summary.rows_known
    return Evaluation(
        parameters=archive.genes[summary.places[chosen]],
        loss=float(summary.loss_scored[chosen]),
        correct=int(summary.correct[chosen]),
        rows=int(summary.rows[chosen]),
        coverage=float(summary.rows[chosen] / summary.rows_expected),
        fitness_best=float(fitness.max()),
        fitness_mean=float(fitness.mean()),
        fitness_worst=float(fitness.min()),
        diversity=float(archive.genes[summary.places].std(axis=0).mean()),
        restarted=restarted,
    )


def _restarted(
    state: EvolutionState, search: EvolutionParameters, deployed: int, members: Collection[str]
) -> EvolutionState:
    """A pool of random candidates once more: the search stood still. The best one stays, but takes no part in it."""
    archive = state.archive.reduced(np.array([deployed]), members)
    generator = derive_rng(state.seed, "evolution", state.round)
    genes = fresh(search.population, state.task.model.num_parameters, search.initial, generator)
    champion = int(state.archive.ids[deployed])
    state = replace(state, archive=archive, champion=champion, progress=Stagnation(), restarted=state.round)
    return _with_new(state, np.arange(0), genes)


def _bred(
    state: EvolutionState,
    search: EvolutionParameters,
    summary: ScoreSummary,
    deployed: int,
    updates: Sequence[Update],
    members: Collection[str],
) -> EvolutionState:
    """The next pool: elites, children of the best, what the trainers found, and random immigrants."""
    archive = state.archive
    generator = derive_rng(state.seed, "evolution", state.round)
    ranked = summary.places[np.argsort(summary.loss, kind="stable")]
    champion = state.champion if state.champion == archive.ids[deployed] else None
    if champion is not None:
        ranked = ranked[ranked != deployed]
    if not len(ranked):  # only late results, for candidates from before the restart
        return _same_pool(state)
    elites = ranked[: max(1, search.population // ELITES_SHARE)]
    parents = archive.genes[ranked[: max(2, search.population // PARENTS_SHARE)]]
    newcomers = np.concatenate(
        [
            _proposals(updates, search.population // PROPOSALS_SHARE, parents, 10.0 ** search.mutation[1], generator),
            fresh(
                int(search.immigrants * search.population), state.task.model.num_parameters, search.initial, generator
            ),
        ]
    )[: search.population - len(elites)]
    children = crossover(parents, search.population - len(elites) - len(newcomers), generator)
    genes = np.concatenate([mutate(children, search.mutation, generator), newcomers])
    closed = archive.places(state.pools[state.round - 1])  # its results may still come
    best = ranked[: ARCHIVE_POOLS * search.population]
    kept = archive.reduced(np.concatenate([best, closed[closed >= 0], [deployed]]), members)
    return _with_new(replace(state, archive=kept, champion=champion), archive.ids[elites], genes)


def _proposals(
    updates: Sequence[Update], most: int, parents: Floats, step: float, generator: np.random.Generator
) -> Floats:
    """What the trainers found, `(most or fewer, genes)`: their elites, and the sample-weighted mean of their bests.

    Each trainer has the same share of the places; with more trainers than places, chance decides who has one. None
    may be much longer than the parents are: else one trainer alone would decide the mean.
    """
    found = [update for update in updates if len(update.arrays["elites"])]
    if not found or not most:
        return np.empty((0, parents.shape[1]))
    lucky = found
    if len(found) > most:
        lucky = [found[index] for index in np.sort(generator.permutation(len(found))[:most])]
    each = max(1, most // len(found))
    proposals = [shortened(update.arrays["elites"][:each], parents, step) for update in lucky]
    if len(found) > 1:
        bests = shortened(np.array([update.arrays["elites"][0] for update in found]), parents, step)
        weights = np.array([update.num_examples for update in found], dtype=np.float64)
        proposals.insert(0, np.add.reduce(bests * weights[:, None])[None] / weights.sum())
    return np.concatenate(proposals)


def _with_new(state: EvolutionState, elites: npt.NDArray[np.int64], genes: Floats) -> EvolutionState:
    """The state whose open round publishes these elites of the archive and these new candidates."""
    ids = state.next_id + np.arange(len(genes))
    archive, next_id = state.archive.extended(ids, genes), state.next_id + len(ids)
    return _with_pool(state, np.concatenate([elites, ids]), len(elites), archive=archive, next_id=next_id)


def _same_pool(state: EvolutionState) -> EvolutionState:
    """The state whose open round publishes what the one before published."""
    return _with_pool(state, state.pools[state.round - 1], state.elites)


def _with_pool(state: EvolutionState, ids: Integers, elites: int, **changes: Any) -> EvolutionState:
    remembered = {number: pool for number, pool in state.pools.items() if number > state.round - ROUNDS_REMEMBERED}
    return replace(state, pools={**remembered, state.round: ids}, elites=elites, **changes)
