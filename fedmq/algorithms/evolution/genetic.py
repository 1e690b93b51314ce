"""`evolution` with PyGAD's keywords: a `pygad.GA` whose fitness is the sum over all trainers.

A round publishes the population, or with adaptive mutation the offspring that wait for it. Each trainer computes the
fitness on its own rows; the sums are what one machine with all rows computes, if fitness is a sum over rows. From them
PyGAD breeds the next population. So a run with one trainer finds, bit for bit, what PyGAD finds alone.

Unlike the fast path it keeps no archive: PyGAD compares candidates of one population, and each trainer that answers
has scored all of them. Trainers are believed: nothing bounds what one of them returns.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fedmq.algorithms.base import Evaluation, Plan, Total, Update, objectives_of
from fedmq.algorithms.evolution.keywords import PygadKeywords, types_of
from fedmq.algorithms.evolution.query import Generation, ScorePool
from fedmq.algorithms.evolution.stock import (
    Brood,
    Fitness,
    Unscored,
    best,
    criteria,
    first_brood,
    front,
    instance,
    is_allowed,
    next_brood,
    stops,
)
from fedmq.algorithms.evolution.strategy import PROPOSALS_SHARE, EvolutionParameters
from fedmq.algorithms.findings import Findings, FrontMember
from fedmq.algorithms.inbox import Inbox, check_answer, check_round
from fedmq.errors import BadConfiguration
from fedmq.models.arrays import Floats, Integers
from fedmq.models.genes import Population, from_floats, integer_genes, parted, population_of
from fedmq.models.networks import Code
from fedmq.models.trained_model import TrainedModel
from fedmq.tasks.task import Task

ROULETTES = ("rws", "sus")  # selection with chances in proportion to fitness
FRONT_SHOWN_MAX = 1000  # candidates of the front that a run keeps beside its model


@dataclass(frozen=True, eq=False)
class SiteFitness:
    """One trainer's answer about the population of the open round."""

    num_examples: int
    fitness: Floats  # (candidates, objectives)
    correct: Integers  # (candidates,)
    found_integers: Integers
    found_numbers: Floats


@dataclass(frozen=True, eq=False)
class SummedFitness:
    """The fitness of the population of the open round over the trainers that answered."""

    fitness: Floats  # (candidates, objectives)
    correct: Integers  # (candidates,)
    rows: int
    coverage: float  # the share of the members


@dataclass(frozen=True, eq=False)
class ScoredPopulation:
    """A population with its fitness over the rows of all trainers that answered."""

    generation: int
    integers: Integers
    numbers: Floats
    fitness: Floats  # (candidates, objectives)


@dataclass(frozen=True, eq=False)
class GeneticState:
    """The state while round `round` is open."""

    task: Task
    seed: int
    round: int
    brood: Brood
    generation: int = 0  # populations before this one
    since: int = 1  # the first round that published what the open one does
    offspring_integers: Integers | None = None  # what adaptive mutation waits for; None: the population is asked about
    offspring_numbers: Floats | None = None
    sites: Mapping[str, SiteFitness] = field(default_factory=dict)  # about what the open round publishes
    fitness: Floats | None = None  # of the population, (candidates, objectives), once it is known
    best: Floats | None = None  # fitness of the best candidate of the last population that was scored, (objectives,)
    unchanged: int = 0  # generations for which that has stayed the same
    finished: bool = False
    scored: ScoredPopulation | None = None  # the newest whose fitness is known
    inbox: Inbox = field(default_factory=Inbox)
    evaluation: Evaluation | None = None


class Genetic:
    """The strategy of `evolution` with PyGAD's keywords: see `fedmq.algorithms.base.Strategy` for each method."""

    name = "evolution"
    additive = False
    Parameters = EvolutionParameters

    def __init__(self, parameters: EvolutionParameters) -> None:
        self.parameters = parameters
        self.keywords: Mapping[str, Any] = parameters.given
        self.types = types_of(self.keywords)
        local = parameters.local_generations or 0
        self._query = Generation(
            types=self.types,
            generations=local,
            proposals=parameters.proposals if local else 0,
            keywords=PygadKeywords(**self.keywords) if local else None,
        )

    @property
    def size(self) -> int:
        """The number of candidates of a population."""
        start = self.keywords.get("initial_population")
        return len(start) if start is not None else int(self.keywords.get("sol_per_pop", self.parameters.population))

    def init(self, task: Task, seed: int) -> GeneticState:
        """Return PyGAD's initial population.

        Raises:
            BadConfiguration: keywords that PyGAD does not accept, or that do not fit the task.
        """
        self._check(task)
        brood = first_brood(self.keywords, task.model.num_parameters, self.size, seed)
        instance(self.keywords, brood, np.zeros(self._fitness_shape(task)), 0)  # NSGA-III needs enough candidates
        return GeneticState(task, seed, 1, brood)

    def starting_at(self, state: GeneticState, trained: TrainedModel) -> GeneticState:
        """Return the state of round 1 with an earlier model in its population."""
        population = self.population(state)
        population[0] = from_floats(trained.parameters[None].astype(np.float64), self.types)[0]
        integers, numbers = parted(population, self.types)
        return replace(state, brood=replace(state.brood, integers=integers, numbers=numbers))

    def ask(self, state: GeneticState) -> Plan:
        """Ask for the fitness of the population, or of the offspring that adaptive mutation waits for."""
        if state.offspring_integers is not None and state.offspring_numbers is not None:
            return Plan(self._query, {"integers": state.offspring_integers, "numbers": state.offspring_numbers})
        return Plan(self._query, {"integers": state.brood.integers, "numbers": state.brood.numbers})

    def tell(self, state: GeneticState, update: Update) -> GeneticState:
        check_round(update, state.round)
        if update.round < state.since or state.inbox.knows(update):
            return state  # of another population: its scores are of no more use
        check_answer(update, self._query.answer(state.task, self.ask(state).shapes, update.num_examples))
        return replace(state, inbox=state.inbox.add(update))

    def close(self, state: GeneticState, members: Collection[str]) -> GeneticState:
        """Breed the next population; without an answer of a member, the same is asked again."""
        sites = {**state.sites, **{one.trainer: _site(one) for one in state.inbox.updates()}}
        state = replace(state, round=state.round + 1, inbox=state.inbox.emptied(state.round), sites=sites)
        counted = [sites[name] for name in sorted(sites) if name in frozenset(members)]
        if not counted:
            return state
        mean = self.parameters.fitness_over_trainers == "mean"
        return self.after(state, _summed(counted, mean, len(members)), counted)

    def after(self, state: GeneticState, summed: SummedFitness, sites: Sequence[SiteFitness] = ()) -> GeneticState:
        """Return the state that this fitness leads to; `sites` have candidates of a local search, if there is one."""
        if state.offspring_integers is not None:
            assert state.fitness is not None
            return self._bred(state, state.fitness, summed.fitness, sites)
        scored = self._scored(state, summed)
        if scored.finished or not self._selects(summed.fitness):
            return scored  # the same population is asked again
        return self._bred(scored, summed.fitness, None, sites)

    def evaluation(self, state: GeneticState) -> Evaluation | None:
        """The best candidate of the last population that has been scored, as `pygad.GA.best_solution` has it."""
        return state.evaluation

    def finished(self, state: GeneticState) -> bool:
        """Whether `num_generations` are over, or a stop criterion is met."""
        return state.finished

    def findings(self, state: GeneticState) -> Findings | None:
        """Return the genes of the best candidate by name, and the front; None for the weights of a network."""
        if state.evaluation is None or not (isinstance(state.task.model, Code) or self.parameters.gene_names):
            return None
        genes = state.task.model.num_parameters
        types = list(self.types) * (genes if len(self.types) == 1 else 1)
        return Findings(
            gene_names=self._names("gene_names", "gene", genes),
            gene_types=tuple(types),
            genes=_plain(from_floats(state.evaluation.parameters[None].astype(np.float64), self.types)[0]),
            objectives=self._names("objective_names", "objective", max(1, objectives_of(state.task))),
            front=self._front_members(state),
        )

    def instance(self, state: GeneticState) -> Any:
        """Return a `pygad.GA` with the newest population whose fitness is known; None before there is one."""
        if state.scored is None:
            return None
        scored = state.scored
        brood = replace(state.brood, integers=scored.integers, numbers=scored.numbers)
        return instance(self.keywords, brood, _for_pygad(scored.fitness), scored.generation)

    def _front_members(self, state: GeneticState) -> tuple[FrontMember, ...]:
        """Return the candidates that no other dominates, each once, the highest first objective first."""
        scored = state.scored
        if scored is None or scored.fitness.shape[1] == 1:
            return ()
        candidates = population_of(scored.integers, scored.numbers, self.types)
        places = sorted(front(scored.fitness), key=lambda place: (*-scored.fitness[place], place))
        once = {_plain(candidates[place]): place for place in reversed(places)}
        members = [
            FrontMember(fitness=tuple(scored.fitness[place].tolist()), genes=_plain(candidates[place]))
            for place in places
            if once[_plain(candidates[place])] == place
        ]
        return tuple(members[:FRONT_SHOWN_MAX])

    def _names(self, keyword: str, word: str, count: int) -> tuple[str, ...]:
        given: tuple[str, ...] = getattr(self.parameters, keyword) or ()
        return given or tuple(f"{word} {place}" for place in range(1, count + 1))

    def _selects(self, total: Floats) -> bool:
        """Return whether PyGAD can select parents: by roulette it cannot if the fitness of all candidates is 0."""
        return bool(total.any()) or str(self.keywords.get("parent_selection_type", "sss")).lower() not in ROULETTES

    def population(self, state: GeneticState) -> Population:
        """Return the candidates of the open generation, (population, genes)."""
        return population_of(state.brood.integers, state.brood.numbers, self.types)

    def _fitness_shape(self, task: Task) -> tuple[int, ...]:
        objectives = objectives_of(task)
        return (self.size, objectives) if objectives > 1 else (self.size,)

    def _scored(self, state: GeneticState, summed: SummedFitness) -> GeneticState:
        """Return the state once the fitness of the population is known: its best, its front, and whether to stop."""
        total = summed.fitness
        of_pygad = _for_pygad(total)
        chosen, population = best(of_pygad), self.population(state)
        values = population.astype(np.float64)
        with np.errstate(over="ignore"):  # of genes up to 1e308
            diversity = float(values.std(axis=0).mean())
        whole = isinstance(state.task.model, Code) and bool(integer_genes(self.types, population.shape[1]).all())
        evaluation = Evaluation(
            parameters=population[chosen].astype(np.int64) if whole else values[chosen],
            loss=0.0 - float(total[chosen, 0]),  # no -0
            correct=int(summed.correct[chosen]),
            rows=summed.rows,
            coverage=summed.coverage,
            fitness_best=float(total[chosen, 0]) + 0.0,  # no -0
            fitness_mean=float(total[:, 0].mean()),
            fitness_worst=float(total[:, 0].min()),
            diversity=diversity,
        )
        same = state.best is not None and np.array_equal(state.best, total[chosen])
        again = state.fitness is not None  # a finished population that more trainers have scored
        unchanged = state.unchanged if again else (state.unchanged + 1 if same else 0)
        limit = self.keywords.get("num_generations")
        everyone = summed.coverage == 1.0  # a sum over some of the sites reaches what that over all does not
        done = everyone and state.generation > 0 and stops(self.keywords, of_pygad, unchanged)
        return replace(
            state,
            fitness=total,
            scored=ScoredPopulation(state.generation, state.brood.integers, state.brood.numbers, total),
            best=total[chosen],
            unchanged=unchanged,
            evaluation=evaluation,
            finished=state.finished or done or (limit is not None and state.generation >= limit),
        )

    def _bred(
        self, state: GeneticState, fitness: Floats, offspring: Floats | None, counted: Sequence[SiteFitness]
    ) -> GeneticState:
        """Return the state that asks about the next population, or about offspring that adaptive mutation waits for."""
        waiting = None if offspring is None else _for_pygad(offspring)
        try:
            brood = next_brood(self.keywords, state.brood, _for_pygad(fitness), state.generation, waiting)
        except Unscored as unscored:
            integers, numbers = parted(unscored.offspring, self.types)
            return replace(state, offspring_integers=integers, offspring_numbers=numbers, sites={}, since=state.round)
        if self._query.generations:
            brood = self._with_found(state, brood, _for_pygad(fitness), counted)
        return replace(
            state,
            brood=brood,
            generation=state.generation + 1,
            since=state.round,
            offspring_integers=None,
            offspring_numbers=None,
            sites={},
            fitness=None,
        )

    def _with_found(self, state: GeneticState, brood: Brood, fitness: Fitness, counted: Sequence[SiteFitness]) -> Brood:
        """Return the population with what the trainers found in place of its last offspring.

        Each trainer has the same share of the places. What is not in the gene space, or breaks a constraint, is left
        out.
        """
        most = max(1, self.size // PROPOSALS_SHARE)
        each = max(1, most // len(counted))
        ga = instance(self.keywords, brood, fitness, state.generation)
        population = population_of(brood.integers, brood.numbers, self.types)
        found = [
            candidate
            for site in counted
            for candidate in population_of(site.found_integers[:each], site.found_numbers[:each], self.types)
            if is_allowed(candidate, ga)
        ][: min(most, self.size - max(ga.keep_elitism, 0))]
        for place, candidate in enumerate(found, start=self.size - len(found)):
            population[place] = candidate
        integers, numbers = parted(population, self.types)
        return replace(brood, integers=integers, numbers=numbers)

    def _check(self, task: Task) -> None:
        """Check what PyGAD does not know: the model, the objectives, and the rounds of the run."""
        genes, objectives = task.model.num_parameters, max(1, objectives_of(task))
        if (given := self.keywords.get("num_genes", genes)) != genes:
            raise BadConfiguration(f"num_genes: expected {genes}, the parameters of the model, got {given}")
        for keyword, count in (("gene_names", genes), ("objective_names", objectives)):
            names = getattr(self.parameters, keyword) or ()
            if names and len(names) != count:
                raise BadConfiguration(f"{keyword}: expected {count} names, got {len(names)}")
        if len(self.types) not in (1, genes):
            raise BadConfiguration(f"gene_type: expected one type, or one for each of {genes} genes, got {self.types}")
        selection = str(self.keywords.get("parent_selection_type", "sss")).lower()
        if "nsga" in selection and objectives == 1:
            raise BadConfiguration(
                f"parent_selection_type: expected {selection} with Code(objectives=2) or more, got one objective: "
                "return several numbers, or select by sss"
            )
        for criterion in criteria(self.keywords):
            if criterion.split("_")[0] in ("time", "evaluations"):
                raise BadConfiguration(
                    f"stop_criteria: expected reach_VALUE or saturate_GENERATIONS, got {criterion!r}: "
                    "limit a run with num_generations"
                )
            values = criterion.split("_")[1:]
            if criterion.startswith("reach") and len(values) not in (1, objectives):
                counts = "1 value" if objectives == 1 else f"1 or {objectives} values"
                raise BadConfiguration(f"stop_criteria: expected {counts}, got {criterion!r}")
        limit = self.keywords.get("num_generations", 0)
        needed = limit * (2 if self.keywords.get("mutation_type") == "adaptive" else 1) + 1
        if limit and task.rounds < needed:
            raise BadConfiguration(
                f"rounds: expected at least {needed} for num_generations={limit}, got {task.rounds}: a round scores "
                "one population, and with adaptive mutation the next one its offspring"
            )


class AdditiveGenetic:
    """`Genetic` that needs only the totals of losses: see `fedmq.algorithms.base.AdditiveAlgorithm` for each method.

    Each total scores one whole population, so PyGAD never compares candidates that different trainers have scored.
    """

    name = "evolution"
    Parameters = EvolutionParameters

    def __init__(self, parameters: EvolutionParameters) -> None:
        self.parameters, self._genetic = parameters, Genetic(parameters)

    def init(self, task: Task, seed: int) -> GeneticState:
        return self._genetic.init(task, seed)

    def starting_at(self, state: GeneticState, trained: TrainedModel) -> GeneticState:
        return self._genetic.starting_at(state, trained)

    def ask(self, state: GeneticState) -> Plan:
        """Ask for the losses of the population; learners score integers as float64, too."""
        population = self._genetic.population(state).astype(np.float64)
        return Plan(ScorePool.of(state.task), {"candidates": population})

    def close(self, state: GeneticState, total: Total | None, late: Mapping[int, Total]) -> GeneticState:
        """Breed the next population by the total that covers most; without one, the same is asked again."""
        totals = {number: one for number, one in late.items() if number >= state.since}
        if total is not None:
            totals[state.round] = total
        state = replace(state, round=state.round + 1)
        if not totals:
            return state
        summed = totals[max(totals, key=lambda number: (totals[number].coverage, number))]
        fitness = SummedFitness(-summed.losses[:, None], summed.arrays["correct"], summed.num_examples, summed.coverage)
        return self._genetic.after(state, fitness)

    def evaluation(self, state: GeneticState) -> Evaluation | None:
        return state.evaluation

    def finished(self, state: GeneticState) -> bool:
        """Return whether `num_generations` are over, or a stop criterion is met."""
        return state.finished

    def findings(self, state: GeneticState) -> Findings | None:
        """Return the genes of the best candidate by name; None for the weights of a network."""
        return self._genetic.findings(state)


def _site(update: Update) -> SiteFitness:
    """Return an answer with a column for each objective; a loss is minus a fitness."""
    arrays = update.arrays
    fitness = arrays["fitness"] if "fitness" in arrays else -arrays["losses"][:, None]
    nothing = np.zeros((0, 0))
    return SiteFitness(
        num_examples=update.num_examples,
        fitness=np.asarray(fitness, np.float64),
        correct=arrays.get("correct", np.zeros(len(fitness), np.int64)),
        found_integers=arrays.get("found_integers", nothing.astype(np.int64)),
        found_numbers=arrays.get("found_numbers", nothing),
    )


def _summed(counted: Sequence[SiteFitness], mean: bool, members: int) -> SummedFitness:
    """Return the fitness over these trainers, some of the members."""
    correct: Integers = np.sum([site.correct for site in counted], axis=0)
    rows = sum(site.num_examples for site in counted)
    return SummedFitness(_total(counted, mean), correct, rows, len(counted) / members)


def _total(counted: Sequence[SiteFitness], mean: bool) -> Floats:
    """Return the sum over trainers, exactly rounded, or the mean weighted by rows; (candidates, objectives)."""
    if len(counted) == 1:
        return counted[0].fitness
    weights = [site.num_examples if mean else 1 for site in counted]
    terms = np.stack([site.fitness * weight for site, weight in zip(counted, weights, strict=True)])
    sums = [math.fsum(terms[:, place, one]) for place in range(terms.shape[1]) for one in range(terms.shape[2])]
    total: Floats = np.array(sums).reshape(terms.shape[1:]) / (sum(weights) if mean else 1)
    return total


def _for_pygad(total: Floats) -> Fitness:
    """Return fitness as PyGAD has it: numbers for one objective, a line for several."""
    return total[:, 0] if total.shape[1] == 1 else total


def _plain(candidate: Population) -> tuple[int | float, ...]:
    """Return genes as Python numbers."""
    return tuple(value.item() if isinstance(value, np.generic) else value for value in candidate)
