"""The default strategy: federated evolution, in which every candidate is scored by every trainer.

Knows nothing of networks, clocks or PyGAD. A round publishes a pool of candidates; each trainer scores all of them on
its own rows, so that the sums over trainers are the exact losses on the union of the data, however it is split; and it
sends back elites of its own, which the next pool carries and everybody scores: nobody's claim is believed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from fedmq.algorithms.base import Evaluation, Plan, Update
from fedmq.algorithms.evolution.archive import Archive, Tally
from fedmq.algorithms.evolution.variation import crossover, fresh, mutate
from fedmq.algorithms.inbox import ROUNDS_REMEMBERED, Inbox, check_genes, check_round, check_scores
from fedmq.algorithms.robust_losses import shortened
from fedmq.models.arrays import Floats, Integers
from fedmq.protocol.codec import check_arrays
from fedmq.protocol.messages import Evolve
from fedmq.runtime.rng import derive_rng
from fedmq.tasks.task import Task

ELITES_SHARE = 10  # one in so many of a pool is kept as it is
PARENTS_SHARE = 4  # one in so many breeds
PROPOSALS_SHARE = 4  # one in so many of a pool may come from the trainers
ARCHIVE_POOLS = 2  # the best candidates that are kept, in sizes of a pool
PROGRESS = 1e-3  # a loss lower by less than this share is no progress


@dataclass(frozen=True, eq=False)
class Progress:
    """How the search goes: the least loss per row since the last restart, and for how many rounds it has stood."""

    best: float = np.inf
    stagnant: int = 0

    def after(self, loss: float) -> Progress:
        """The progress after a round whose best candidate has this loss per row."""
        if loss < self.best * (1.0 - PROGRESS):
            return Progress(best=loss)
        return replace(self, stagnant=self.stagnant + 1)


@dataclass(frozen=True, eq=False)
class EvolutionState:
    """All that the strategy knows while round `round` is open."""

    task: Task
    seed: int
    round: int
    archive: Archive
    pools: Mapping[int, Integers]  # the candidate ids of the rounds that are remembered, the elites first
    elites: int  # how many of the open round's pool
    next_id: int
    champion: int | None = None  # a candidate from before a restart that is still the best to deploy
    progress: Progress = field(default_factory=Progress)
    inbox: Inbox = field(default_factory=Inbox)
    evaluation: Evaluation | None = None


class Evolution:
    """The strategy `evolution`: see `fedmq.algorithms.base.Strategy` for what each method promises."""

    @property
    def name(self) -> str:
        """`evolution`."""
        return "evolution"

    @property
    def robust(self) -> str:
        """`clip`, always: see `fedmq.algorithms.robust_losses`."""
        return "clip"

    def init(self, task: Task, seed: int) -> EvolutionState:
        """A pool of random candidates."""
        ids = np.arange(task.search.population)
        genes = fresh(len(ids), task.model.num_parameters, task.search.initial, derive_rng(seed, "evolution", 0))
        return EvolutionState(task, seed, 1, Archive.of(ids, genes), {1: ids}, elites=0, next_id=len(ids))

    def ask(self, state: EvolutionState) -> Plan:
        """The pool: score it, and evolve offspring from it."""
        search, ids = state.task.search, state.pools[state.round]
        work = Evolve(
            elites=state.elites,
            generations=search.generations,
            population=search.local_population,
            proposals=search.proposals,
            mutation=search.mutation,
        )
        return Plan(work, {"ids": ids, "pool": state.archive.genes[state.archive.places(ids)]})

    def tell(self, state: EvolutionState, update: Update) -> EvolutionState:
        """Keeps the result until the round closes."""
        check_round(update, state.round)
        if state.inbox.knows(update):
            return state
        size = len(state.pools[update.round])
        check_arrays(
            update.arrays,
            {
                "losses": ((size,), np.float64),
                "correct": ((size,), np.int64),
                "elites": ((-1, state.task.model.num_parameters), np.float64),
            },
        )
        check_scores(update)
        check_genes("elites", update)
        return replace(state, inbox=state.inbox.add(update))

    def close(self, state: EvolutionState, members: Collection[str]) -> EvolutionState:
        """Merges the scores, ranks the candidates and breeds the next pool; without scores the pool stays."""
        members, updates = frozenset(members), state.inbox.updates()
        state = replace(state, round=state.round + 1, inbox=state.inbox.emptied(state.round))
        archive = state.archive.scored(updates, state.pools)
        tally = archive.tally(members, state.task)
        if tally is None:
            return _same_pool(replace(state, archive=archive))
        chosen = tally.deployed(by_correct=state.task.metric == "accuracy")
        state = replace(state, archive=archive, evaluation=_evaluation(archive, tally, chosen))
        if not updates:
            return _same_pool(state)
        state = replace(state, progress=state.progress.after(float(tally.loss[chosen]) / tally.rows_known))
        deployed = int(tally.places[chosen])
        if state.task.search.restart_after and state.progress.stagnant >= state.task.search.restart_after:
            return _restarted(state, deployed, members)
        return _bred(state, tally, deployed, updates, members)

    def evaluation(self, state: EvolutionState) -> Evaluation | None:
        """The best candidate at the last close."""
        return state.evaluation


def _evaluation(archive: Archive, tally: Tally, chosen: int) -> Evaluation:
    fitness = -tally.loss / tally.rows_known
    return Evaluation(
        genes=archive.genes[tally.places[chosen]],
        loss=float(tally.loss_scored[chosen]),
        correct=int(tally.correct[chosen]),
        rows=int(tally.rows[chosen]),
        coverage=float(tally.rows[chosen] / tally.rows_expected),
        fitness_best=float(fitness.max()),
        fitness_mean=float(fitness.mean()),
        fitness_worst=float(fitness.min()),
        diversity=float(archive.genes[tally.places].std(axis=0).mean()),
    )


def _restarted(state: EvolutionState, deployed: int, members: Collection[str]) -> EvolutionState:
    """A pool of random candidates once more: the search stood still. The best one stays, but takes no part in it."""
    archive = state.archive.reduced(np.array([deployed]), members)
    search, generator = state.task.search, derive_rng(state.seed, "evolution", state.round)
    genes = fresh(search.population, state.task.model.num_parameters, search.initial, generator)
    champion = int(state.archive.ids[deployed])
    return _with_new(replace(state, archive=archive, champion=champion, progress=Progress()), np.arange(0), genes)


def _bred(
    state: EvolutionState, tally: Tally, deployed: int, updates: Sequence[Update], members: Collection[str]
) -> EvolutionState:
    """The next pool: elites, children of the best, what the trainers found, and random immigrants."""
    archive, search = state.archive, state.task.search
    generator = derive_rng(state.seed, "evolution", state.round)
    ranked = tally.places[np.argsort(tally.loss, kind="stable")]
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
    state = replace(state, archive=state.archive.extended(ids, genes), next_id=state.next_id + len(ids))
    return _with_pool(state, np.concatenate([elites, ids]), len(elites))


def _same_pool(state: EvolutionState) -> EvolutionState:
    """The state whose open round publishes what the one before published."""
    return _with_pool(state, state.pools[state.round - 1], state.elites)


def _with_pool(state: EvolutionState, ids: Integers, elites: int) -> EvolutionState:
    remembered = {number: pool for number, pool in state.pools.items() if number > state.round - ROUNDS_REMEMBERED}
    return replace(state, pools={**remembered, state.round: ids}, elites=elites)
