"""Messages: encoding, bounds of each field, unknown fields, and the size of the largest header."""

from __future__ import annotations

import re
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmq.algorithms.averaging.query import EPOCHS_MAX, EvolutionLearner, GradientLearner, Train
from fedmq.algorithms.base import CANDIDATES_MAX, GENERATIONS_MAX, encode_query
from fedmq.algorithms.evolution.query import Evolve
from fedmq.errors import Rejected, RejectReason
from fedmq.models.networks import LAYERS_MAX, MLP
from fedmq.protocol.codec import HEADER_BYTES_MAX, decode, encode
from fedmq.protocol.messages import (
    FRACTION_BITS_MAX,
    PROTOCOL_VERSION,
    PROTOCOL_VERSION_MIN,
    SECURE_VERSION,
    Accepted,
    Action,
    Beacon,
    Control,
    Events,
    Finished,
    ForObservers,
    FromAggregator,
    FromTrainer,
    Goodbye,
    Hello,
    Message,
    Presence,
    Refused,
    Result,
    Round,
    Snapshot,
    SumReply,
    SumRequest,
    Welcome,
    common_version,
)
from fedmq.tasks.task import Task
from fedmq.tasks.task_file import find_task

KINDS: tuple[type[Any], ...] = get_args(Message)
COUNT_MAX = 2**53
DEFAULTED = ("v", "arrays", "acknowledged", "paused", "waiting", "spread_s", "labels", "versions", "cpu_s", "memory")
LONGEST_NAME = "n" * 64

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
counts = st.integers(0, COUNT_MAX)
positives = st.integers(1, COUNT_MAX)
texts = st.text(max_size=200)
seconds = st.floats(0, 1e9)
tasks = st.sampled_from([find_task(name) for name in ("xor", "parity4", "linear")])
learners = st.builds(EvolutionLearner) | st.builds(GradientLearner, epochs=st.integers(1, EPOCHS_MAX))
works = st.builds(
    Evolve, elites=st.integers(0, CANDIDATES_MAX), generations=st.integers(0, GENERATIONS_MAX)
) | st.builds(Train, learner=learners)
of_a_run = {"run": names, "term": counts}
of_a_trainer = {**of_a_run, "trainer": names}
messages: dict[type[Any], st.SearchStrategy[Any]] = {
    Round: st.builds(
        Round,
        **of_a_run,
        round=positives,
        seed=counts,
        deadline_s=seconds.filter(bool),
        task=tasks,
        query=works.map(encode_query),
        sum=st.none() | positives,
    ),
    Beacon: st.builds(
        Beacon,
        **of_a_run,
        round=counts,
        paused=st.booleans(),
        waiting=st.booleans(),
        spread_s=st.floats(0, 60),
        acknowledged=st.binary(max_size=2048),
        acked_request=counts,
    ),
    SumRequest: st.builds(SumRequest, **of_a_run, advertise=counts),
    SumReply: st.builds(SumReply, **of_a_trainer),
    Finished: st.builds(Finished, **of_a_run, rounds=counts, solved=st.booleans()),
    Events: st.builds(Events, **of_a_run, first=counts, count=positives),
    Snapshot: st.builds(Snapshot, **of_a_run, seq=counts),
    Welcome: st.builds(Welcome, **of_a_trainer, index=counts),
    Accepted: st.builds(Accepted, **of_a_trainer, round=counts),
    Refused: st.builds(
        Refused, **of_a_trainer, round=counts, reason=st.sampled_from(get_args(RejectReason)), detail=texts
    ),
    Hello: st.builds(
        Hello,
        **of_a_trainer,
        num_examples=positives,
        round=counts,
        version=texts,
        labels=st.lists(st.text(max_size=64), max_size=8).map(tuple),
    ),
    Result: st.builds(
        Result,
        **of_a_trainer,
        round=counts,
        num_examples=positives,
        attempt=positives,
        train_s=seconds,
        model_digest=st.binary(min_size=32, max_size=32),
        fraction_bits=st.integers(0, FRACTION_BITS_MAX),
        cpu_s=seconds,
        memory=counts,
        sum=st.none() | st.binary(min_size=32, max_size=32),
    ),
    Goodbye: st.builds(Goodbye, **of_a_trainer, reason=st.text(max_size=32), detail=texts),
    Control: st.builds(
        Control, **of_a_run, action=st.sampled_from(get_args(Action)), trainer=st.none() | names, request_id=counts
    ),
    Presence: st.builds(Presence, trainer=names, present=st.booleans(), inboxes=counts),
}
EXAMPLES: dict[type[Any], Message] = {
    Round: Round(
        run="r", term=1, round=3, seed=7, deadline_s=10.0, task=find_task("xor"), query=encode_query(Evolve(elites=10))
    ),
    Beacon: Beacon(run="r", term=1, round=3, open=True, acknowledged=b"\x03", acked_request=7, at=1e9),
    SumRequest: SumRequest(run="r", term=1, advertise=2),
    SumReply: SumReply(run="r", term=1, trainer="alice"),
    Finished: Finished(run="r", term=1, rounds=3, solved=True),
    Events: Events(run="r", term=1, first=0, count=3),
    Snapshot: Snapshot(run="r", term=1, seq=3),
    Welcome: Welcome(run="r", term=1, trainer="alice", index=0),
    Accepted: Accepted(run="r", term=1, trainer="alice", round=3),
    Refused: Refused(run="r", term=1, trainer="alice", round=3, reason="shape", detail="why"),
    Hello: Hello(run="r", term=1, trainer="alice", num_examples=2, round=0, version="0.1.0", labels=("north",)),
    Result: Result(
        run="r",
        term=1,
        trainer="alice",
        round=3,
        num_examples=2,
        attempt=1,
        train_s=0.5,
        model_digest=bytes(32),
        fraction_bits=16,
        metrics={"accuracy": 0.5},
    ),
    Goodbye: Goodbye(run="r", term=1, trainer="alice", reason="rows", detail="expected 2 columns, got 3"),
    Control: Control(run="r", term=1, action="ban", trainer="bob", request_id=7),
    Presence: Presence(trainer="alice", present=True),
}
FIELDS = [
    pytest.param(kind, field.name, id=f"{kind.__name__}.{field.name}")
    for kind in KINDS
    for field in msgspec.structs.fields(kind)
]
TYPED = [one for one in FIELDS if one.id != "Round.query"]  # what a query may hold is not the protocol's to say


def fields_of(kind: type[Any]) -> dict[str, Any]:
    """Return the header of an example as a map."""
    fields = msgspec.msgpack.decode(encode("t", EXAMPLES[kind])[1])
    assert isinstance(fields, dict)
    return fields


def received(fields: dict[str, Any]) -> Message:
    """Return the message that a receiver decodes from a header."""
    return decode([b"t", msgspec.msgpack.encode(fields), b""]).message


@pytest.mark.parametrize("kind", KINDS)
def test_decoded_message_equals_the_encoded_one(kind: type[Any]) -> None:
    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(messages[kind])
    def check(message: Message) -> None:
        packet = decode(encode("up/r", message))
        assert packet.message == message
        assert packet.topic == "up/r"
        assert not packet.arrays

    check()


def test_every_kind_has_exactly_one_sender() -> None:
    said = [*get_args(FromAggregator), *get_args(ForObservers), *get_args(FromTrainer), Control, Presence]
    assert len(said) == len(KINDS)
    assert set(said) == set(KINDS)


def test_the_tag_of_a_message_is_its_name_in_lower_case() -> None:
    words = [re.findall("[A-Z][a-z]*", kind.__name__) for kind in KINDS]
    assert [fields_of(kind)["t"] for kind in KINDS] == ["-".join(one).lower() for one in words]


@pytest.mark.parametrize("kind", KINDS)
def test_every_header_has_the_lowest_version_that_can_read_it(kind: type[Any]) -> None:
    assert fields_of(kind)["v"] == (SECURE_VERSION if kind in (SumRequest, SumReply) else 2)


@pytest.mark.parametrize("version", [0, PROTOCOL_VERSION_MIN - 1, PROTOCOL_VERSION + 1, -1])
@pytest.mark.parametrize("kind", KINDS)
def test_version_outside_the_range_is_rejected_with_both_versions(kind: type[Any], version: int) -> None:
    with pytest.raises(Rejected) as refusal:
        received({**fields_of(kind), "v": version, "extra": 1})
    assert refusal.value.reason == "version"
    assert {str(PROTOCOL_VERSION), str(version)} <= set(re.findall(r"-?\d+", refusal.value.detail))


@pytest.mark.parametrize("version", [1.5, "1", None, [1]])
@pytest.mark.parametrize("kind", KINDS)
def test_version_that_is_no_integer_is_rejected(kind: type[Any], version: object) -> None:
    with pytest.raises(Rejected, match=r"\$\.v") as refusal:
        received({**fields_of(kind), "v": version})
    assert refusal.value.reason == "header"


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_field_of_a_message_is_ignored(kind: type[Any]) -> None:
    assert received({**fields_of(kind), "extra": {"of": [1, "later"]}}) == EXAMPLES[kind]


@pytest.mark.parametrize(
    ("versions", "common"),
    [((1, 1), None), ((1, 2), 2), ((2, 2), 2), ((2, 9), 3), ((3, 9), 3), ((4, 9), None), ((2, 1), None)],
)
def test_common_version_is_the_newest_that_both_read(versions: tuple[int, int], common: int | None) -> None:
    assert common_version(versions) == common


def test_fields_of_work_at_their_default_are_left_out() -> None:
    for work in (Evolve(elites=3), Train(GradientLearner()), Train(EvolutionLearner())):
        fields = msgspec.msgpack.decode(msgspec.msgpack.encode(work))
        assert fields.keys() <= {"kind", "elites", "learner"}


@pytest.mark.parametrize(("kind", "field"), TYPED)
def test_field_of_another_type_is_rejected(kind: type[Any], field: str) -> None:
    with pytest.raises(Rejected) as refusal:
        received({**fields_of(kind), field: {"neither": "a number nor a text"}})
    assert refusal.value.reason == "header"


@pytest.mark.parametrize(("kind", "field"), FIELDS)
def test_missing_required_field_is_rejected(kind: type[Any], field: str) -> None:
    fields = fields_of(kind)
    del fields[field]
    optional = {Control: ("trainer", "request_id"), Beacon: ("acked_request", "at"), Goodbye: ("reason", "detail")}
    optional |= {Presence: ("inboxes",), Result: ("site_figures", "metrics", "sum"), SumRequest: ("advertise",)}
    optional |= {Round: ("invited", "staleness", "delta", "sum")}
    if field in (*DEFAULTED, *optional.get(kind, ())):
        assert isinstance(received(fields), kind)
        return
    with pytest.raises(Rejected, match="missing required field"):
        received(fields)


@pytest.mark.parametrize("kind", KINDS)
def test_message_is_immutable(kind: type[Any]) -> None:
    with pytest.raises(AttributeError, match="immutable"):
        EXAMPLES[kind].v = 2  # type: ignore[misc]


def test_the_largest_header_of_each_kind_fits() -> None:
    task = Task(
        name=LONGEST_NAME,
        model=MLP((60_000, *([100] * (LAYERS_MAX - 2)), 1_000), hidden="sigmoid", output="softmax"),
        loss="cross-entropy",
        metric="accuracy",
        target=0.999999999,
    )
    of_run: dict[str, Any] = {"run": LONGEST_NAME, "term": COUNT_MAX}
    of_trainer: dict[str, Any] = {**of_run, "trainer": LONGEST_NAME, "round": COUNT_MAX}
    most = CANDIDATES_MAX
    work = Evolve(elites=most, generations=GENERATIONS_MAX, population=most, proposals=most)
    largest: list[Message] = [
        Round(**of_run, round=COUNT_MAX, seed=COUNT_MAX, deadline_s=1e9, task=task, query=encode_query(work)),
        Beacon(
            **of_run,
            round=COUNT_MAX,
            open=True,
            paused=True,
            waiting=True,
            spread_s=59.999,
            acknowledged=bytes(2048),
            acked_request=COUNT_MAX,
        ),
        Refused(**of_trainer, reason="header-size", detail="\N{GRINNING FACE}" * 200),
        Hello(
            **of_trainer,
            num_examples=COUNT_MAX,
            version="\N{GRINNING FACE}" * 200,
            labels=("\N{GRINNING FACE}" * 64,) * 8,
        ),
        Result(
            **of_trainer,
            num_examples=COUNT_MAX,
            attempt=COUNT_MAX,
            train_s=1e9,
            model_digest=bytes(32),
            fraction_bits=FRACTION_BITS_MAX,
            sum=bytes(32),
        ),
        SumRequest(**of_run, advertise=COUNT_MAX),
    ]
    for message in largest:
        frames = encode("t", message)
        # Eight arrays are described in at most 8 x 150 bytes: what is left must hold them where a message has some.
        spare = 8 * 150 if isinstance(message, Round | Result) else 0
        assert len(frames[1]) + spare <= HEADER_BYTES_MAX
        assert decode(frames).message == message


@pytest.mark.parametrize("seconds", [-0.001, float("inf"), float("-inf"), float("nan"), 1.1e9])
@pytest.mark.parametrize(("kind", "field"), [(Result, "train_s"), (Round, "deadline_s")])
def test_seconds_are_finite_and_not_negative(kind: type[Any], field: str, seconds: float) -> None:
    with pytest.raises(Rejected, match=field):
        received({**fields_of(kind), field: seconds})


@pytest.mark.parametrize("seconds", [-0.001, float("inf"), float("nan"), 60.1])
def test_spread_is_at_most_a_minute(seconds: float) -> None:
    with pytest.raises(Rejected, match="spread_s"):
        received({**fields_of(Beacon), "spread_s": seconds})


@pytest.mark.parametrize("fraction_bits", [-1, FRACTION_BITS_MAX + 1, 16.5, "16", None])
def test_fraction_bits_are_0_to_30(fraction_bits: object) -> None:
    with pytest.raises(Rejected, match="fraction_bits"):
        received({**fields_of(Result), "fraction_bits": fraction_bits})


@pytest.mark.parametrize("length", [0, 31, 33])
def test_model_digest_has_32_bytes(length: int) -> None:
    with pytest.raises(Rejected, match="model_digest"):
        received({**fields_of(Result), "model_digest": bytes(length)})


@pytest.mark.parametrize("action", ["", "Pause", "kill", "pause; stop", None, 1, True, ["stop"]])
def test_unknown_control_action_is_rejected(action: object) -> None:
    with pytest.raises(Rejected, match="action"):
        received({**fields_of(Control), "action": action})


@pytest.mark.parametrize("name", ["", ".hidden", "-x", "_x", "a/b", "../a", "a b", "a\n", "a\0", "é", "*", "n" * 65])
@pytest.mark.parametrize(("kind", "field"), [(Hello, "trainer"), (Hello, "run"), (Presence, "trainer")])
def test_name_that_is_unsafe_in_topics_or_paths_is_rejected(kind: type[Any], field: str, name: str) -> None:
    with pytest.raises(Rejected, match=field):
        received({**fields_of(kind), field: name})
