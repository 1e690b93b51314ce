"""`evolution` that needs only totals: the parameter `additive`.

A round publishes a pool, and gets its losses and correct rows summed over the trainers that answered. The aggregator
alone breeds: no candidate comes from a trainer. Totals of different rounds may be of different trainers, so candidates
are compared within one pool only. What must not be lost is published again: the best tenth, and the champion, which
is the candidate to deploy. A total of fewer members than the one that chose the champion does not replace it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from fedmq.algorithms.base import Evaluation, Plan, Total
from fedmq.algorithms.evolution.query import ScorePool
from fedmq.algorithms.evolution.strategy import ELITES_SHARE, PARENTS_SHARE, EvolutionParameters, Stagnation
from fedmq.algorithms.evolution.variation import crossover, fresh, mutate
from fedmq.models.arrays import Floats
from fedmq.models.trained_model import TrainedModel
from fedmq.runtime.rng import derive_rng
from fedmq.tasks.task import Task

POOLS_REMEMBERED = 3  # late answers to the two rounds before the open one still count


@dataclass(frozen=True, eq=False)
class PoolState:
    """The state while round `number` is open."""

    task: Task
    seed: int
    number: int
    pools: Mapping[int, Floats]  # of the newest rounds; the champion first, once there is one
    parents: Floats  # the best of the last pool that was ranked, best first; none: the next pool is random
    champion: Evaluation | None = None  # the candidate to deploy, with its figures in the last total
    coverage: float = 0.0  # of the total that chose it
    chosen_in: int = 0  # the round of that total
    apart: bool = False  # the champion is from before a restart: it does not breed
    restarted: bool = False  # the open pool is the first after a restart
    rows: int = 0  # of the last total: of others, losses tell nothing about progress
    progress: Stagnation = field(default_factory=Stagnation)


class AdditiveEvolution:
    """The algorithm: see `fedmq.algorithms.base.AdditiveAlgorithm` for each method."""

    name = "evolution"
    Parameters = EvolutionParameters

    def __init__(self, parameters: EvolutionParameters) -> None:
        self.parameters = parameters

    def init(self, task: Task, seed: int) -> PoolState:
        """Return a pool of random candidates."""
        none = np.empty((0, task.model.num_parameters))
        return self._bred(PoolState(task, seed, 0, {}, none))

    def starting_at(self, state: PoolState, trained: TrainedModel) -> PoolState:
        """Return the state of round 1 with an earlier model in its pool; half of the others are mutations of it."""
        pool, half = state.pools[1].copy(), len(state.pools[1]) // 2
        generator = derive_rng(state.seed, "evolution", "start")
        copies = np.repeat(trained.parameters[None].astype(np.float64), half, axis=0)
        pool[:half] = mutate(copies, self.parameters.mutation, generator)
        pool[0] = trained.parameters
        return replace(state, pools={1: pool})

    def ask(self, state: PoolState) -> Plan:
        """Publish the pool: score it."""
        return Plan(ScorePool.of(state.task), {"candidates": state.pools[state.number]})

    def close(self, state: PoolState, total: Total | None, late: Mapping[int, Total]) -> PoolState:
        """Rank a pool by its total, and breed the next one; without a total, breed others from the same parents.

        That is the total of the open round, or of an earlier one that covers more and may choose the champion.
        """
        totals = {number: one for number, one in late.items() if number in state.pools and _chooses(state, one, number)}
        if total is not None:
            totals[state.number] = total
        if not totals:
            return self._bred(state)
        number = max(totals, key=lambda one: (totals[one].coverage, one))
        return self._bred(self._ranked(state, number, totals[number]))

    def evaluation(self, state: PoolState) -> Evaluation | None:
        """Return the champion at the last close."""
        return state.champion

    def _ranked(self, state: PoolState, number: int, total: Total) -> PoolState:
        """Return the state with the parents and the champion that the total of this round gives."""
        pool, losses, rows = state.pools[number], total.losses, total.num_examples
        chosen, apart = 0, state.apart  # the champion is the first of the open pool
        if _chooses(state, total, number):
            keys = (losses, -total.arrays["correct"]) if state.task.metric == "accuracy" else (losses,)
            chosen = int(np.lexsort(keys)[0])
            apart = apart and np.array_equal(pool[chosen], state.champion.parameters)  # type: ignore[union-attr]
            state = replace(state, coverage=total.coverage, chosen_in=number)
        ranked = np.argsort(losses, kind="stable")
        if apart:
            ranked = ranked[ranked != chosen]
        evaluation = total.evaluation(pool[chosen], chosen, diversity=float(pool.std(axis=0).mean()))
        progress = state.progress if rows == state.rows else Stagnation()
        state = replace(
            state,
            parents=pool[ranked[: max(2, len(pool) // PARENTS_SHARE)]],
            champion=replace(evaluation, restarted=state.restarted),
            apart=apart,
            restarted=False,
            rows=rows,
            progress=progress.after(float(losses[ranked[0]]) / rows),
        )
        patience = self.parameters.restart_after
        if patience and state.progress.stagnant >= patience:
            return replace(state, parents=pool[:0], apart=True, restarted=True, progress=Stagnation())
        return state

    def _bred(self, state: PoolState) -> PoolState:
        """Return the state with its next pool: champion, elites, children of the parents, random immigrants."""
        search, genes, number = self.parameters, state.task.model.num_parameters, state.number + 1
        generator = derive_rng(state.seed, "evolution", number)
        kept = state.parents[: max(1, search.population // ELITES_SHARE)]
        if state.champion is not None:
            champion = state.champion.parameters
            kept = np.concatenate([champion[None], kept[(kept != champion).any(axis=1)]])
        new = search.population - len(kept)
        immigrants = min(new, int(search.immigrants * search.population)) if len(state.parents) else new
        newcomers, children = fresh(immigrants, genes, search.initial, generator), kept[:0]
        if immigrants < new:
            children = mutate(crossover(state.parents, new - immigrants, generator), search.mutation, generator)
        pools = {one: pool for one, pool in state.pools.items() if one > number - POOLS_REMEMBERED}
        pool = np.concatenate([kept, children, newcomers])
        return replace(state, number=number, pools={**pools, number: pool})


def _chooses(state: PoolState, total: Total, number: int) -> bool:
    """Return whether the total of this round may choose the champion: it covers more, or as much in a later round."""
    return (total.coverage, number) > (state.coverage, state.chosen_in)
