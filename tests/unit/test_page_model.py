"""The values of a run for the page: merging all changes gives the same values as reading everything."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest

from fedmq.aggregator.event_publisher import EVENT_BYTES_MAX
from fedmq.algorithms.findings import Findings, FrontMember
from fedmq.dashboard.page_model import Origin, all_values, changed_values, head_values, list_row, table_values
from fedmq.models.networks import MLP, Code
from fedmq.observe import events
from fedmq.observe.run_state import RunState
from fedmq.testing import run_started

HERE = Origin(connected=True, source="live", folder=None)
GONE = Origin(connected=False, source="folder", folder="runs/one")
BEST = events.Best(value=0.75, coverage=1.0, fitness=-0.123456789, fitness_mean=-0.5, fitness_worst=-2.0, diversity=0.3)
MODEL = MLP((2, 4, 2))


def started(term: int = 1) -> events.RunStarted:
    return run_started(
        run="one",
        term=term,
        round=1,
        task="xor",
        algorithm="evolution",
        seed=7,
        metric="accuracy",
        target=1.0,
        rounds_max=100,
        min_trainers=2,
        model=MODEL,
    )


def a_round(number: int) -> list[events.AnyEvent]:
    """Return all events of one round of two trainers."""
    genes = np.arange(MODEL.num_parameters, dtype="<f8").tobytes()
    return [
        events.RoundPublished(round=number, invited=2),
        *(
            events.ResultAccepted(round=number, trainer=name, staleness=0, train_s=0.1, answer_s=0.25, cpu_s=number)
            for name in ("alice", "bob")
        ),
        events.RoundClosed(round=number, why="complete", results=2, round_s=0.5, present=2, best=BEST, bytes_up=9),
        events.BestChanged(round=number, parameters=genes),
    ]


STORY: list[events.AnyEvent] = [
    started(),
    events.Waiting(present=0, needed=2),
    events.TrainerJoined(trainer="alice", num_examples=2, version="1", labels=("gpu",), fingerprint="ab"),
    events.TrainerJoined(trainer="bob", num_examples=3),
    *a_round(1),
    events.ResultRejected(trainer="bob", reason="values", detail="a negative \x1b loss"),
    events.RoundPublished(round=2, invited=2),
    events.RunPaused(),
    events.TrainerBarred(trainer="bob", how="drained"),
    events.ResultResent(round=1, trainer="alice"),
    events.RunResumed(),
    events.TrainerReadmitted(trainer="bob"),
    events.TrainerSuspected(trainer="alice"),
    events.TrainerLeft(trainer="alice", goodbye=False),
    events.Stalled(round=2, seconds=15.0, missing=("alice",)),
    events.CheckpointKept(round=1),
    *a_round(3),
    events.RunFinished(solved=True, rounds=3, value=1.0),
]


def test_head_has_figures_on_held_out_rows_of_training_and_of_trainers() -> None:
    from test_held_out_figures import MEASURED

    best = msgspec.structs.replace(BEST, value_of="held-out", training=0.9, auc=0.123456789)
    closed = events.RoundClosed(round=2, why="complete", results=2, round_s=0.5, present=2, best=best)
    state = state_of(*STORY[:4], *a_round(1), closed, events.ModelMeasured(round=2, measured=MEASURED))
    values = all_values(state, HERE, 100.0)
    head = values["head"]
    assert (head["best"]["value_of"], head["classes"]) == ("held-out", ())
    assert head["measured"]["held_out"]["confusion"] == ((96, 0), (4, 0))
    assert head["measured"]["training"]["accuracy"] == 1.0
    assert head["measured"]["trainers"] == {"north": 0.99, "south": 0.9, "west": 0.97}
    assert (values["rounds"]["training"], values["rounds"]["auc"]) == ([None, 0.9], [None, 0.123457])
    assert head_values(state_of(*STORY), HERE, 100.0)["measured"] is None


def test_head_has_named_genes_the_front_and_correlations_as_printable_text() -> None:
    findings = Findings(
        gene_names=("over\x1b[2J", "b"),
        gene_types=("int", "float"),
        genes=(2**62 + 1, 0.123456789),
        objectives=("right\nrows", "minus columns"),
        front=(FrontMember(fitness=(3.0, -1.0), genes=(1, 0.5)), FrontMember(fitness=(1.123456789, 0.0), genes=())),
        correlated=("age", "ill"),
        correlations=((1.0, -0.123456789), (-0.123456789, 1.0)),
    )
    shown = findings.for_observers()
    assert shown is not None
    assert head_values(state_of(*STORY), HERE, 100.0)["findings"] is None
    head = head_values(state_of(*STORY, events.FindingsChanged(round=3, findings=shown)), HERE, 100.0)
    assert head["findings"] == {
        "genes": [["over?[2J", "4611686018427387905", "int"], ["b", "0.1235", "float"]],
        "genes_all": MODEL.num_parameters,
        "objectives": ["right rows", "minus columns"],
        "front": [[3.0, -1.0], [1.12346, 0.0]],
        "correlated": ["age", "ill"],
        "correlations": [[1.0, -0.123457], [-0.123457, 1.0]],
    }


def test_event_about_findings_is_small_and_keeps_the_ends_of_the_front() -> None:
    count = 500
    names = tuple(f"{place:03}" + "\U0001f600" * 61 for place in range(count))
    front = tuple(FrontMember(fitness=(float(count - place),) * 16, genes=(1,) * count) for place in range(count))
    related = np.eye(count)[::-1] * (np.arange(count) % 50 == 7)
    related = np.eye(count) + 0.5 * (related + related.T)
    genes = Findings(gene_names=names, gene_types=("int",) * count, genes=(2**62,) * count, objectives=names[:16])
    shown = msgspec.structs.replace(genes, front=front).for_observers()
    columns = Findings(correlated=names, correlations=tuple(map(tuple, related.tolist()))).for_observers()
    assert shown is not None
    assert columns is not None
    assert [shown.front[0].fitness[0], shown.front[-1].fitness[0]] == [500.0, 1.0]
    assert columns.correlated[0].startswith("007")  # the names with the largest correlations
    for one in (shown, columns):
        assert len(msgspec.msgpack.encode(events.FindingsChanged(round=1, findings=one))) < EVENT_BYTES_MAX
    assert Findings(figures={"penalty": 1.0}).for_observers() is None


STOPPED = "stopped by an operator"


def state_of(*story: events.AnyEvent) -> RunState:
    run_state = RunState()
    for second, event in enumerate(story):
        run_state.apply(1000.0 + second / 7, event)
    return run_state


def plain(value: Any) -> Any:
    """Return the values after a JSON round trip."""
    return json.loads(msgspec.json.encode(value))


KEYS = {"rounds": "round", "trainers": "name"}


def merged(values_before: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """Merge a patch as the page does."""
    head = {**values_before["head"], **patch.get("head", {})}
    after = {**values_before, "now": patch["now"], "head": head}
    for table in ("rounds", "trainers", "works", "bests", "feed"):
        if table not in patch:
            continue
        columns = {name: list(values) for name, values in values_before[table].items()}
        for row in zip(*patch[table].values(), strict=True):
            fresh = dict(zip(patch[table], row, strict=True))
            known = columns[KEYS[table]] if table in KEYS else []
            at = known.index(fresh[KEYS[table]]) if table in KEYS and fresh[KEYS[table]] in known else None
            for name, values in columns.items():
                if at is None:
                    values.append(fresh[name])
                else:
                    values[at] = fresh[name]
        after[table] = columns
    return after


@pytest.mark.parametrize("steps", [1, 2, 3, 5, len(STORY)])
def test_merged_changes_equal_all_values(steps: int) -> None:
    run_state = RunState()
    page: dict[str, Any] = {}
    seq, head = 0, {}
    for second, event in enumerate(STORY):
        now = 1000.0 + second / 7
        run_state.apply(now, event)
        if second % steps and second < len(STORY) - 1:
            continue
        if not page:
            page = plain(all_values(run_state, HERE, now))
        else:
            patch = {
                "now": now,
                "head": changed_values(head, head_values(run_state, HERE, now)),
                **table_values(run_state, seq),
            }
            page = merged(page, plain(patch))
        seq, head = run_state.seq, head_values(run_state, HERE, now)
    assert {**page, "now": 0} == {**plain(all_values(run_state, HERE, 0.0)), "now": 0, "head": plain(head)}


def test_unchanged_values_are_left_out() -> None:
    run_state = state_of(*STORY)
    assert table_values(run_state, run_state.seq) == {}
    head = head_values(run_state, HERE, 1010.0)
    assert changed_values(head, head_values(run_state, HERE, 1010.0)) == {}
    assert set(changed_values(head, head_values(run_state, GONE, 1010.0))) == {"connected", "source", "folder"}


def test_one_result_changes_one_row_of_each_table() -> None:
    run_state = state_of(*STORY[:5])
    before = run_state.seq
    run_state.apply(1001.0, events.ResultAccepted(round=1, trainer="bob", staleness=0, train_s=0.1))
    tables = table_values(run_state, before)
    assert {name: len(next(iter(table.values()))) for name, table in tables.items()} == {
        "rounds": 1,
        "trainers": 1,
        "works": 1,
    }
    assert tables["trainers"]["name"] == ["bob"]


def test_columns_have_one_length_and_empty_tables_have_columns() -> None:
    for run_state in (RunState(), state_of(started()), state_of(*STORY)):
        tables = table_values(run_state, None)
        assert set(tables) == {"rounds", "trainers", "works", "bests", "feed"}
        for table in tables.values():
            assert len({len(column) for column in table.values()}) == 1


def test_feed_has_text_level_and_kind() -> None:
    feed = table_values(state_of(*STORY), None)["feed"]
    rows = dict(zip(feed["kind"], zip(feed["level"], feed["text"], strict=True), strict=True))
    assert rows["trainer-barred"] == ("warn", "trainer bob was drained")
    assert rows["run-finished"] == ("good", "the run is over after 3 rounds: solved")
    assert rows["result-rejected"] == ("bad", "rejected from bob: values: a negative ? loss")
    assert all(feed["text"]), "each event has a text"
    assert feed["seq"] == sorted(feed["seq"])


def test_figures_are_rounded_and_nan_is_null() -> None:
    run_state = state_of(*STORY)
    assert head_values(run_state, HERE, 1.0)["best"]["fitness"] == -0.123457
    run_state.rounds[-1].best = msgspec.structs.replace(BEST, fitness=float("inf"))
    assert plain(table_values(run_state, None))["rounds"]["fitness"][-1] is None


@pytest.mark.parametrize(
    ("story", "origin", "now", "state", "condition"),
    [
        (STORY, HERE, 0.0, "solved", "solved"),
        ([*STORY[:-1], events.RunFinished(solved=False, rounds=3, value=0.5)], HERE, 0.0, "finished", "finished"),
        (
            [*STORY[:-1], events.RunFinished(solved=False, rounds=3, value=0.5, why="stopped")],
            HERE,
            0.0,
            STOPPED,
            "stopped",
        ),
        (STORY[:-1], GONE, 0.0, "interrupted", "interrupted"),
        (STORY[:2], HERE, 0.0, "waiting for trainers (0 of 2)", "waiting"),
        (STORY[:12], HERE, 0.0, "paused", "paused"),
        (STORY[:10], HERE, 1001.0, "running", "running"),
        (STORY[:5], HERE, 1060.0, "stalled for 59 s", "stalled"),
    ],
)
def test_list_row_has_status_and_condition(
    story: list[events.AnyEvent], origin: Origin, now: float, state: str, condition: str
) -> None:
    row = list_row(state_of(*story), origin, now)
    assert (row["state"], row["condition"]) == (state, condition)


def test_end_of_a_run_has_its_reason() -> None:
    assert head_values(
        state_of(*STORY[:-1], events.RunFinished(solved=False, rounds=3, value=None, why="stopped")), HERE, 0.0
    )["finished"] == {"solved": False, "rounds": 3, "value": None, "why": "stopped", "detail": ""}


def test_head_describes_the_model() -> None:
    run_state = state_of(started())
    head = head_values(run_state, HERE, 0.0)
    assert (head["model"], head["drawable"]) == ("MLP 2-4-2 relu", True)
    run_state.apply(0.0, run_started(model=Code(num_parameters=5, inputs=3)))
    head = head_values(run_state, HERE, 0.0)
    assert (head["model"], head["drawable"]) == ("code, 5 parameters", False)
