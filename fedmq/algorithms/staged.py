"""The stages of a run on tables: survey, training, evaluation on rows that are held out.

    survey    the spread, the moments and the histograms of the columns
    training  the rounds of the algorithm itself, on prepared columns; its rounds are counted apart
    held-out  every HELD_OUT_EVERY rounds of training and at its end: the figures of the model to deploy
    fitted    at the end: the same figures on the rows that the model is trained on

An algorithm that needs the survey for its result begins anew when the rows have changed. Others keep the preparation
that they have begun with.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, make_dataclass, replace
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from fedmq.algorithms.additive import RoundSum, same_question
from fedmq.algorithms.base import Evaluation, Plan, Strategy, Total, Update, is_asked_again, is_finished, is_prepared
from fedmq.algorithms.differences import ColumnSummary, Difference, odd_columns, reversed_labels
from fedmq.algorithms.evaluation.figures import Measured, Metrics
from fedmq.algorithms.evaluation.held_out import Fitted, HeldOut, held_out_plan, held_out_query
from fedmq.algorithms.evaluation.metrics import finer_edges, metrics_of, metrics_of_trainer
from fedmq.algorithms.findings import Findings, with_survey
from fedmq.algorithms.growing_map import GrowingMap
from fedmq.algorithms.inbox import ROUNDS_REMEMBERED, check_round
from fedmq.algorithms.starting import starting_at
from fedmq.algorithms.statistics.constant_model import constant_evaluation
from fedmq.algorithms.statistics.survey import SURVEYS_MAX, Survey, SurveyState, blank_survey
from fedmq.errors import BadConfiguration
from fedmq.models.arrays import Floats, Integers
from fedmq.models.moved import moved
from fedmq.models.networks import Network
from fedmq.models.trained_model import TrainedModel
from fedmq.tables.preparation import Preparation
from fedmq.tasks.task import Task

HELD_OUT_EVERY = 5  # rounds of training
OWN, EARLIER = 0, -1  # instead of the number of an algorithm's round: a round of the stages, one before a new survey
Stage = Literal["survey", "training", "held-out", "fitted"]


@dataclass(frozen=True, eq=False)
class SiteMoments:
    """One trainer's answer to the question about moments."""

    num_examples: int
    arrays: dict[str, Integers]


@dataclass(frozen=True, eq=False)
class _Progress:
    """The state while a round is open, without that of the algorithm."""

    task: Task
    seed: int
    survey: SurveyState
    known: Survey  # that the algorithm has begun with; blank before
    round: int = 1
    stage: Stage = "survey"
    inner_round: int = 1  # the algorithm's open round
    rounds: dict[int, int] = field(default_factory=dict)  # the algorithm's round by round, or OWN, or EARLIER
    sums: dict[int, RoundSum] = field(default_factory=dict)  # of the rounds of the stages
    examples: GrowingMap[str, int] = field(default_factory=GrowingMap)  # rows by trainer, of the open round
    since: int = 0  # rounds of training since the last evaluation, without repeated ones
    asked: Evaluation | None = None  # what the held-out rows are asked about
    sites: dict[str, Metrics] = field(default_factory=dict)  # on their own rows, by trainer that permits it
    own_moments: dict[str, SiteMoments] = field(default_factory=dict)  # answers of those trainers
    columns_differ: dict[str, tuple[Difference, ...]] = field(default_factory=dict)  # by trainer
    labels_differ: dict[str, Difference] = field(default_factory=dict)  # at the newest evaluation
    edges: Floats | None = None  # of the histograms of its scores, once they are made finer
    measured: Evaluation | None = None  # the model to deploy, with its figures on held-out rows
    before: Evaluation | None = None  # what is known from before the newest survey
    start: TrainedModel | None = None  # the earlier model that the algorithm begins with


def staged(strategy: Strategy[Any], task: Task | None) -> Strategy[Any]:
    """Return the strategy with the stages that the task and the algorithm need; itself without any."""
    of_task = task is not None and (task.schema is not None or task.holdout > 0.0)
    return Staged(strategy) if of_task or getattr(strategy, "needs_survey", False) else strategy


def asking_once(strategy: Strategy[Any]) -> Strategy[Any]:
    """Return the strategy for a secure run."""
    return Staged(strategy.strategy, once=True) if isinstance(strategy, Staged) else strategy


class Staged:
    """A strategy whose rounds are preceded by a survey, and interleaved with evaluations on held-out rows.

    See `fedmq.algorithms.base.Strategy` for each method. With `once`, each question is asked once, as in a secure run:
    no second survey follows when the rows have changed.
    """

    def __init__(self, strategy: Strategy[Any], *, once: bool = False) -> None:
        self.strategy, self.name, self.once = strategy, strategy.name, once
        self.additive, self.parameters = strategy.additive, strategy.parameters

    @property
    def needs_survey(self) -> bool:
        """Whether the algorithm begins with the survey."""
        return bool(getattr(self.strategy, "needs_survey", False))

    @property
    def begins_anew(self) -> bool:
        """Whether the algorithm's result is that of the surveyed rows: it begins anew when these have changed."""
        return self.needs_survey and not getattr(self.strategy, "keeps_survey", False)

    def init(self, task: Task, seed: int) -> Any:
        _check_rows_of(task, self.strategy)
        known = blank_survey(task)
        inner = self._begun(task, seed, known)
        # A type of its own, so that a checkpoint knows which type the algorithm's state has.
        name, fields = f"Staged{type(inner).__name__}", [("inner", type(inner))]
        kind = make_dataclass(name, fields, bases=(_Progress,), frozen=True, eq=False, kw_only=True)
        buckets, components = getattr(self.strategy, "survey_buckets", 0), getattr(self.strategy, "components", 0)
        survey = SurveyState.begin(task, buckets, components, again=SURVEYS_MAX if self.once else 0)
        return self._opened(kind(task=task, seed=seed, survey=survey, known=known, inner=inner))

    def starting_at(self, state: Any, trained: TrainedModel) -> Any:
        """Return the state of round 1 that keeps an earlier model for the algorithm, until the survey is done.

        Raises:
            BadConfiguration: the algorithm has no starting point, or the model cannot be moved to other statistics.
        """
        if trained.preparation is not None:
            moved(trained, trained.preparation)
        starting_at(self.strategy, state.inner, trained)
        return replace(state, start=trained)

    def ask(self, state: Any) -> Plan:
        """Ask what the stage needs; the round of an algorithm carries what prepares the columns."""
        plan: Plan
        if state.stage == "survey":
            survey: SurveyState = state.survey
            return survey.plan(state.task)
        if state.stage == "training":
            plan = self.strategy.ask(state.inner)
        else:
            kind = HeldOut if state.stage == "held-out" else Fitted
            query = held_out_query(state.task, state.known.moments, kind)
            plan = held_out_plan(state.task, query, state.asked.parameters, state.edges)
        if not is_prepared(plan.query, state.task):
            return plan
        return replace(plan, arrays={**plan.arrays, **state.known.preparation})

    def first_training(self, state: Any) -> Plan:
        """Return what the first round of training would ask for, before anything is known about the columns."""
        return self.ask(replace(state, stage="training"))

    def tell(self, state: Any, update: Update) -> Any:
        """Give an answer to the stage of its round, or to the algorithm with the number of the algorithm's round."""
        check_round(update, state.round)
        number = state.rounds[update.round]
        if number == EARLIER:
            return state  # another survey has made the question needless
        if number == OWN:
            total: RoundSum = state.sums[update.round]
            if (more := total.plus(update)) is total:
                return state
            grown = replace(state, sums={**state.sums, update.round: more})
            if update.site_figures and update.round == state.round and "limbs" in total.arrays:
                moments = SiteMoments(update.num_examples, dict(update.arrays))
                return replace(grown, own_moments={**state.own_moments, update.trainer: moments})
            if state.stage != "held-out" or update.round != state.round or not update.site_figures:
                return grown
            query = self.ask(state).query
            assert isinstance(query, HeldOut)
            return replace(grown, sites={**state.sites, update.trainer: metrics_of_trainer(state.task, query, update)})
        own = replace(update, round=number, staleness=state.inner_round - number)
        inner = self.strategy.tell(state.inner, own)
        if update.round != state.round:
            return replace(state, inner=inner)
        return replace(state, inner=inner, examples=state.examples.plus_all(update.rows))

    def close(self, state: Any, members: Collection[str]) -> Any:
        """Close the round, and open one of the next stage.

        If it asks the same again because trainers have missed the round, the answers so far go on.
        """
        members = frozenset(members)
        if state.stage == "training":
            after = self._trained(state, members)
        else:
            summed: RoundSum = state.sums[state.round]
            total = summed.total(members) if summed.trainers else None
            if total is None:
                after = state
            elif state.stage == "survey":
                after = self._surveyed(state, total)
            else:
                after = self._measured(state, total)
        oldest = state.round + 1 - ROUNDS_REMEMBERED
        opened = self._opened(
            replace(
                after,
                round=state.round + 1,
                rounds={number: one for number, one in after.rounds.items() if number > oldest},
                sums={number: one for number, one in after.sums.items() if number > oldest},
                examples=GrowingMap(),
                sites={},
                own_moments={},
            )
        )
        if opened.stage != state.stage or not self._goes_on(state, opened, members):
            return opened
        if state.stage == "training":
            return replace(opened, examples=state.examples)
        return replace(
            opened,
            sums={**opened.sums, opened.round: state.sums[state.round]},
            sites=state.sites,
            own_moments=state.own_moments,
        )

    def _goes_on(self, state: Any, opened: Any, members: frozenset[str]) -> bool:
        """Return whether the opened round asks the members the same as the last one, which some of them missed."""
        if state.stage != "training":
            return state.sums[state.round].is_part_of(members) and same_question(self.ask(state), self.ask(opened))
        missed = bool(state.examples) and state.examples.keys() < members
        return self.begins_anew and missed and same_question(self.ask(state), self.ask(opened))

    def evaluation(self, state: Any) -> Evaluation | None:
        """Return the candidate to deploy, with its preparation and, if rows are held out, its figures on them."""
        if state.measured is not None:
            measured: Evaluation = state.measured
            return measured
        return self._of_training(state) or state.before

    def result(self, state: Any) -> Any:
        """Return what the algorithm found beside the model; None if there is none."""
        find = getattr(self.strategy, "result", None)
        return None if find is None else find(state.inner)

    def differences(self, state: Any) -> dict[str, tuple[Difference, ...]]:
        """Return how sites that permit their own figures differ from the others, by trainer."""
        names = sorted({*state.columns_differ, *state.labels_differ})
        labels = {name: (one,) for name, one in state.labels_differ.items()}
        return {name: (*state.columns_differ.get(name, ()), *labels.get(name, ())) for name in names}

    def findings(self, state: Any) -> Findings:
        """Return what is known beside the model as plain data: of the columns, and what the algorithm found."""
        find = getattr(self.strategy, "findings", None)
        found = (None if find is None else find(state.inner)) or Findings()
        survey = self.survey(state)
        return found if survey is None else with_survey(found, state.task, survey)

    def survey(self, state: Any) -> Survey | None:
        """Return the statistics that the algorithm has begun with; None before they are known."""
        return state.known if state.known.coverage else None

    def forget(self, state: Any, arrays: Mapping[str, npt.NDArray[Any]]) -> TrainedModel:
        """Return the model without the rows of one trainer, whose answer to the question about products is `arrays`.

        Raises:
            BadConfiguration: there is no model yet.
        """
        fit = self.strategy.forget(state.inner, arrays)  # type: ignore[attr-defined]
        task: Task = state.task
        return task.trained(fit.parameters, _preparation(task, state.known))

    def finished(self, state: Any) -> bool:
        """Return whether the algorithm has nothing left to learn, and the model is measured."""
        if state.stage != "training" or not is_finished(self.strategy, state.inner):
            return False
        return not state.task.holdout or not self._to_measure(state)

    def _begun(self, task: Task, seed: int, survey: Survey) -> Any:
        if self.needs_survey:
            return self.strategy.init(task, seed, survey)  # type: ignore[call-arg]
        return self.strategy.init(task, seed)

    def _started(self, state: Any, known: Survey) -> Any:
        """Return the state of the algorithm after the survey, with the earlier model if there is one."""
        inner, start = self._begun(state.task, state.seed, known), state.start
        if start is None:
            return inner
        preparation = _preparation(state.task, known)
        if preparation is not None:
            start = replace(start, parameters=moved(start, preparation), preparation=preparation)
        return starting_at(self.strategy, inner, start)

    def _opened(self, state: Any) -> Any:
        """Return the state with its round open."""
        if state.stage == "training":
            return replace(state, rounds={**state.rounds, state.round: state.inner_round})
        plan = self.ask(state)
        own = Plan(plan.query, {name: one for name, one in plan.arrays.items() if name in plan.shapes})
        empty = RoundSum.empty(self.name, own, state.task)
        return replace(state, rounds={**state.rounds, state.round: OWN}, sums={**state.sums, state.round: empty})

    def _surveyed(self, state: Any, total: Total) -> Any:
        survey: SurveyState = state.survey.after(state.task, total)
        if state.own_moments:
            state = replace(state, columns_differ=_differing_sites(state, total))
        if survey.found is None:
            return replace(state, survey=survey)
        known, before = survey.found, state.before
        if before is None and self.begins_anew and isinstance(state.task.model, Network):
            constant = constant_evaluation(state.task, known.features)
            before = replace(constant, preparation=_preparation(state.task, known))
        return replace(
            state,
            survey=survey,
            known=known,
            before=before,
            inner=self._started(state, known),
            inner_round=1,
            stage="training",
            since=0,
        )

    def _trained(self, state: Any, members: frozenset[str]) -> Any:
        complete = bool(members) and members <= state.examples.keys()
        inner = self.strategy.close(state.inner, members)
        # A restarted trainer may need a round again: that does not move the evaluations, on which the model may depend.
        again = is_asked_again(self.strategy, inner)
        after = replace(state, inner=inner, inner_round=state.inner_round + 1, since=state.since + (not again))
        if complete and self._has_other_rows(state, sum(state.examples.values())):
            return self._anew(after)
        every = getattr(self.strategy, "held_out_every", None) or HELD_OUT_EVERY
        due = after.since >= every or is_finished(self.strategy, after.inner)
        if state.task.holdout and due and self._to_measure(after):
            return replace(after, stage="held-out", asked=self._of_training(after), edges=None)
        return after

    def _has_other_rows(self, state: Any, num_examples: int) -> bool:
        """Return whether the answers are of other rows than the survey, and another survey may begin."""
        known: Survey = state.known
        return self.begins_anew and num_examples != known.num_examples and state.survey.may_begin_again

    def _anew(self, state: Any) -> Any:
        """Begin with another survey, because the rows are not those of the last one."""
        return replace(
            state,
            stage="survey",
            survey=state.survey.begun_again(state.task),
            before=self._of_training(state) or state.before,
            asked=None,
            rounds=dict.fromkeys(state.rounds, EARLIER),
        )

    def _measured(self, state: Any, total: Total) -> Any:
        """Keep the figures of the model that the round was about, or ask again with finer edges."""
        plan = self.ask(state)
        assert isinstance(plan.query, HeldOut)
        metrics, asked = metrics_of(state.task, plan.query, total), state.asked
        if state.stage == "fitted":
            if total.coverage >= 1.0 and self._has_other_rows(state, total.num_examples):
                return self._anew(state)  # a trainer has joined since the last round of training
            measured = replace(asked, measured=msgspec.structs.replace(asked.measured, training=metrics))
        else:
            finer = finer_edges(total, plan.arrays["edges"]) if "edges" in plan.arrays and state.edges is None else None
            if finer is not None:
                return replace(state, edges=finer)
            coverage = min(asked.coverage, total.coverage)
            sites = {name: state.sites[name] for name in sorted(state.sites) if state.sites[name].rows}
            measured = replace(asked, measured=Measured(held_out=metrics, trainers=sites), coverage=coverage)
            state = replace(state, labels_differ=reversed_labels(sites))
        best, inner = state.measured, state.inner
        if self.begins_anew or best is None or _rank(state.task, measured) >= _rank(state.task, best):
            best = measured
        told = getattr(self.strategy, "measured", None)
        if told is not None and state.stage == "held-out":
            inner = told(inner, measured)
        more = state.stage == "held-out" and is_finished(self.strategy, inner)
        stage = "fitted" if more else "training"
        return replace(state, inner=inner, measured=best, asked=measured, stage=stage, since=0)

    def _of_training(self, state: Any) -> Evaluation | None:
        """Return the algorithm's own evaluation, with the preparation that it was trained with."""
        found = self.strategy.evaluation(state.inner) if state.known.coverage else None
        return None if found is None else replace(found, preparation=_preparation(state.task, state.known))

    def _to_measure(self, state: Any) -> bool:
        """Return whether the algorithm has a model that all held-out rows have not measured yet."""
        found, asked = self._of_training(state), state.asked
        if found is None:
            return False
        if asked is None or asked.measured is None or asked.measured.held_out.coverage < 1.0:
            return True
        return not np.array_equal(found.parameters, asked.parameters) or found.coverage > asked.coverage


def _differing_sites(state: Any, total: Total) -> dict[str, tuple[Difference, ...]]:
    """Return the trainers whose numbers or dates are unlike those of the others together."""
    schema = state.task.schema
    if schema is None:
        return {}
    places = [place for place, column in enumerate(schema.columns) if column.kind in ("number", "date")]
    names = tuple(schema.columns[place].name for place in places)

    def summary(arrays: Mapping[str, Any], rows: int) -> ColumnSummary:
        moments = state.survey.spread.moments_of(Total(arrays, rows, 1, 1.0, total.fraction_bits))
        return ColumnSummary(moments.counts[places], moments.means[places], np.sqrt(moments.variances[places]))

    own: dict[str, SiteMoments] = state.own_moments
    sites = {name: summary(one.arrays, one.num_examples) for name, one in own.items()}
    found = {}
    for name in sorted(own):
        rest = {key: array - own[name].arrays[key] for key, array in total.arrays.items()}
        others = summary(rest, total.num_examples - own[name].num_examples)
        each = [site for one, site in sites.items() if one != name]
        if differing := odd_columns(names, sites[name], others, each):
            found[name] = differing
    return found


def _preparation(task: Task, survey: Survey) -> Preparation | None:
    if task.schema is None:
        return None
    arrays = survey.preparation
    return Preparation(task.schema, arrays["column_shift"], arrays["column_scale"], arrays["column_fill"])


def _rank(task: Task, measured: Evaluation) -> tuple[float, float]:
    """Return a key that is greater for a better model: by the rows that are covered, then by the task's metric."""
    score = measured.score
    value = task.value(score.loss, score.correct, max(1, score.rows))
    return measured.coverage, value if task.metric == "accuracy" else -value


def _check_rows_of(task: Task, strategy: Strategy[Any]) -> None:
    """Check that the algorithm uses the weights and offsets that a schema names.

    Raises:
        BadConfiguration: it uses none.
    """
    if task.schema is None:
        return
    for field_name in ("weight", "offset"):
        column = getattr(task.schema, field_name)
        if column and field_name not in getattr(strategy, "uses", ()):
            raise BadConfiguration(
                f"algorithm {strategy.name}: expected a task without {field_name}s, got the column {column!r:.80} for "
                f"them: use the algorithm newton or boosting, or remove {field_name} from the schema"
            )
