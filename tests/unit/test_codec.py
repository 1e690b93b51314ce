"""The decoder: encoded messages are restored bit for bit; all others are rejected with a reason, at low cost."""

from __future__ import annotations

import hashlib
import pickle
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from msgspec.structs import replace

from fedmq.algorithms.averaging.query import GradientLearner as Gradient
from fedmq.algorithms.averaging.query import Train
from fedmq.algorithms.base import encode_query
from fedmq.algorithms.evolution.query import Evolve
from fedmq.errors import ProtocolError, Rejected, RejectReason
from fedmq.models.networks import Linear
from fedmq.protocol.codec import (
    ARRAYS_MAX,
    CODE,
    DTYPES,
    EVENTS,
    FRAME_BYTES_MAX,
    FRAMES_MAX,
    HEADER_BYTES_MAX,
    LENGTH_MAX,
    NARROW,
    PARTS,
    ROUND_HEADER_BYTES_MAX,
    SIGNATURE_BYTES_MAX,
    TOPIC_BYTES_MAX,
    VIEW,
    Frames,
    decode,
    encode,
)
from fedmq.protocol.messages import (
    PROTOCOL_VERSION,
    Beacon,
    Goodbye,
    Header,
    Message,
    Presence,
    Result,
    Round,
)
from fedmq.tables.schema import Column, Schema, Target
from fedmq.tasks.task import Task
from fedmq.tasks.task_file import find_task

RESULT = Result(
    run="r",
    term=1,
    trainer="alice",
    round=3,
    num_examples=2,
    attempt=1,
    train_s=0.5,
    model_digest=bytes(32),
    fraction_bits=16,
)
GOODBYE = Goodbye(run="r", term=1, trainer="alice")
ROUND = Round(
    run="r", term=1, round=3, seed=7, deadline_s=10.0, task=find_task("xor"), query=encode_query(Evolve(elites=10))
)
VALUES = np.arange(6.0).reshape(2, 3)
OF_BYTES = (CODE, EVENTS, VIEW, PARTS)
FUZZED = 20_000

shapes = arrays_of.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=6)
finite = {"allow_nan": False, "allow_infinity": False}
sendable = (
    arrays_of.arrays(np.float64, shapes, elements=finite)
    | arrays_of.arrays(np.float32, shapes, elements=finite)
    | arrays_of.arrays(np.int64, shapes)
)


def header_with(message: Message, changes: Mapping[str, object], without: tuple[str, ...] = ()) -> bytes:
    fields = msgspec.msgpack.decode(encode("t", message)[1])
    assert isinstance(fields, dict)
    fields |= changes
    return msgspec.msgpack.encode({name: value for name, value in fields.items() if name not in without})


def frames(*blobs: bytes, message: Message = RESULT, without: tuple[str, ...] = (), **changes: object) -> list[bytes]:
    """Return the frames of a message with a changed header."""
    return [b"up/r", header_with(message, changes, without), b"", *blobs]


def info(blob: bytes = VALUES.tobytes(), **changes: object) -> dict[str, object]:
    """Return the header's description of `blob`, with changes."""
    honest = {
        "name": "x",
        "dtype": "<f8",
        "shape": [2, 3],
        "nbytes": len(blob),
        "sha256": hashlib.sha256(blob).digest(),
    }
    return honest | changes


def described(blob: bytes = VALUES.tobytes(), **changes: object) -> list[bytes]:
    return frames(blob, arrays=[info(blob, **changes)])


def task_with(**changes: object) -> list[bytes]:
    task = msgspec.to_builtins(ROUND.task)
    return frames(message=ROUND, task=task | changes)


def model_with(**changes: object) -> list[bytes]:
    return task_with(model=msgspec.to_builtins(ROUND.task.model) | changes)


BLOB = VALUES.tobytes()
BAD: dict[str, tuple[RejectReason, Frames]] = {
    "no frame": ("frames", []),
    "one frame": ("frames", [b"up/r"]),
    "two frames": ("frames", frames()[:2]),
    "too many frames": ("frames", [*frames(), *[b""] * (FRAMES_MAX - 2)]),
    "endless frames": ("frames", [b""] * 100_000),
    "an array that is not described": ("frames", frames(b"12345678")),
    "an array that did not come": ("frames", frames(arrays=[info()])),
    "too many arrays": ("frames", frames(*[BLOB] * 9, arrays=[info(name=f"x{i}") for i in range(9)])),
    "a topic that is too long": ("frames", [b"t" * (TOPIC_BYTES_MAX + 1), *frames()[1:]]),
    "a signature that is too long": ("frames", [*frames()[:2], bytes(SIGNATURE_BYTES_MAX + 1)]),
    "a topic that is no UTF-8": ("header", [b"up/\xff\xfe", *frames()[1:]]),
    "a header over the limit": ("header-size", [b"up/r", bytes(HEADER_BYTES_MAX + 1), b""]),
    "a header over the limit of a round": ("header-size", [b"round/r", bytes(ROUND_HEADER_BYTES_MAX + 1), b""]),
    "a header of 1 MB": ("header-size", frames(trainer="a" * 1_000_000)),
    "an empty header": ("header", [b"up/r", b"", b""]),
    "a header that is cut off": ("header", [b"up/r", frames()[1][:-1], b""]),
    "a header with something after it": ("header", [b"up/r", frames()[1] + b"\0", b""]),
    "a header in JSON": ("header", [b"up/r", b'{"t": "goodbye", "run": "r", "term": 1, "trainer": "a"}', b""]),
    "a header that is a number": ("header", [b"up/r", b"\x07", b""]),
    "a header that is a list": ("header", [b"up/r", msgspec.msgpack.encode(["result", 1]), b""]),
    "a header nested as deep as it can be": ("header", [b"up/r", b"\x91" * HEADER_BYTES_MAX, b""]),
    "a header that claims 4 GB of map": ("header", [b"up/r", b"\xdf\xff\xff\xff\xff", b""]),
    "a header that claims 4 GB of text": ("header", [b"up/r", b"\x81\xa1t\xdb\xff\xff\xff\xff", b""]),
    "an extension type": ("header", [b"up/r", b"\xc7\x03\x05abc", b""]),
    "no tag": ("header", frames(without=("t",))),
    "an unknown tag": ("header", frames(t="execute")),
    "a tag that is a number": ("header", frames(t=1)),
    "a missing field": ("header", frames(without=("trainer",))),
    "a later version": ("version", frames(v=PROTOCOL_VERSION + 1)),
    "a later version with other fields": ("version", frames(v=PROTOCOL_VERSION + 1, without=("trainer",), t="new")),
    "an earlier version": ("version", frames(v=1)),
    "a version that is no integer": ("header", frames(v="2")),
    "a name with a slash": ("header", frames(trainer="../../etc")),
    "a name with a line break": ("header", frames(trainer="alice\n")),
    "an empty name": ("header", frames(trainer="")),
    "a name of 65 letters": ("header", frames(run="r" * 65)),
    "a name that is no text": ("header", frames(run=7)),
    "a negative count": ("header", frames(round=-1)),
    "a count over 2**53": ("header", frames(round=2**53 + 1)),
    "a count with a fraction": ("header", frames(round=1.5)),
    "a negative number of rows": ("header", frames(num_examples=-1)),
    "work that took for ever": ("header", frames(train_s=float("inf"))),
    "work that took NaN": ("header", frames(train_s=float("nan"))),
    "a bitmap that is too long": (
        "header",
        frames(message=Beacon(run="r", term=1, round=1, open=True), acknowledged=bytes(2049)),
    ),
    "presence that is neither": ("header", frames(message=Presence(trainer="a", present=True), present=2)),
    "a task with an illegal name": ("header", task_with(name="a/b")),
    "a task with an unknown loss": ("header", task_with(loss="none")),
    "a task with a target over 1": ("header", task_with(target=1.5)),
    "a task with a target of NaN": ("header", task_with(target=float("nan"))),
    "a task with no rounds": ("header", task_with(rounds=0)),
    "a task without end": ("header", task_with(rounds=2**53)),
    "a model of an unknown kind": ("header", model_with(type="pickle")),
    "a model of one layer": ("header", model_with(sizes=[2])),
    "a model with a layer of nothing": ("header", model_with(sizes=[2, 0, 2])),
    "a model of 10**10 genes": ("header", model_with(sizes=[65_536] * 4)),
    "an array without a name that is text": ("header", described(name=3)),
    "an array with an endless name": ("header", described(name="x" * 33)),
    "an array with an unknown field": ("header", described(order="F")),
    "an array with a negative length": ("header", described(shape=[-2, -3])),
    "an array with 9 dimensions": ("header", described(shape=[1] * 9)),
    "an array with a length over 2**53": ("header", described(shape=[2**63])),
    "a checksum that is too short": ("header", described(sha256=b"short")),
    "two arrays with one name": ("header", frames(BLOB, BLOB, arrays=[info(), info()])),
    "a goodbye with an array": ("frames", frames(BLOB, message=GOODBYE, arrays=[info()])),
    "objects": ("dtype", described(dtype="|O")),
    "big-endian numbers": ("dtype", described(dtype=">f8")),
    "native numbers": ("dtype", described(dtype="=f8")),
    "complex numbers": ("dtype", described(dtype="<c16")),
    "dates": ("dtype", described(dtype="<M8[us]")),
    "bytes": ("dtype", described(dtype="|u1")),
    "text": ("dtype", described(dtype="<U2")),
    "records": ("dtype", described(dtype="f8,f8")),
    "no dtype": ("dtype", described(dtype="")),
    "three dimensions": ("shape", described(shape=[1, 2, 3])),
    "eight dimensions": ("shape", described(shape=[1, 1, 1, 1, 1, 1, 2, 3])),
    "an empty array of absurd length": ("shape", frames(b"", arrays=[info(b"", shape=[0, 2**53])])),
    "an absurd number of empty rows": ("shape", frames(b"", arrays=[info(b"", shape=[2**53, 0])])),
    "a shape whose product overflows": ("shape", frames(b"", arrays=[info(b"", shape=[2**53, 2**53])])),
    "10 GB claimed": ("shape", described(shape=[1_250_000_000], nbytes=10_000_000_000)),
    "10 GB claimed in two dimensions": ("nbytes", described(shape=[50_000, 25_000], nbytes=10_000_000_000)),
    "a shape that is too large": ("nbytes", described(shape=[3, 3])),
    "a shape that is too small": ("nbytes", described(shape=[2, 2])),
    "a shape that is a number": ("nbytes", described(shape=[])),
    "another size than the dtype's": ("nbytes", described(dtype="<f4")),
    "fewer bytes than claimed": ("nbytes", frames(BLOB[:-1], arrays=[info()])),
    "more bytes than claimed": ("nbytes", frames(BLOB + b"\0", arrays=[info()])),
    "nothing where something is claimed": ("nbytes", frames(b"", arrays=[info()])),
    "something where nothing is claimed": ("nbytes", frames(BLOB, arrays=[info(shape=[0], nbytes=0)])),
    "a lie about nbytes alone": ("nbytes", described(nbytes=8)),
    "a changed byte": ("sha256", frames(b"\1" + BLOB[1:], arrays=[info()])),
    "a checksum of something else": ("sha256", described(sha256=bytes(32))),
    "NaN": ("not-finite", described(np.array([[0, np.nan, 0], [0, 0, 0.0]]).tobytes())),
    "infinity": ("not-finite", described(np.array([[0, 0, 0], [0, 0, np.inf]]).tobytes())),
    "minus infinity in float32": ("not-finite", described(np.full(6, -np.inf, "<f4").tobytes(), dtype="<f4")),
}


@pytest.mark.parametrize(("reason", "bad"), BAD.values(), ids=BAD.keys())
def test_invalid_message_is_rejected_with_its_reason(reason: RejectReason, bad: Frames) -> None:
    with pytest.raises(Rejected) as refusal:
        decode(bad)
    assert refusal.value.reason == reason
    assert refusal.value.detail
    assert "\n" not in refusal.value.detail


def test_unmodified_frames_are_accepted() -> None:
    assert np.array_equal(decode(described()).arrays["x"], VALUES)
    for good in (frames(), task_with(), model_with()):
        decode(good)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.dictionaries(st.text(max_size=32).filter(lambda name: name not in OF_BYTES), sendable, max_size=ARRAYS_MAX))
def test_arrays_are_decoded_bit_for_bit(arrays: dict[str, Any]) -> None:
    packet = decode(encode("up/r", RESULT, arrays))
    assert list(packet.arrays) == list(arrays)
    for name, array in arrays.items():
        came = packet.arrays[name]
        assert (came.shape, came.dtype, came.tobytes()) == (array.shape, array.dtype, array.tobytes())
        assert not came.flags.writeable


@pytest.mark.parametrize(
    "array",
    [np.arange(6.0).reshape(2, 3).T, np.arange(12.0)[::2], np.arange(3, dtype=">f8"), np.arange(3, dtype=">i8")],
    ids=["transposed", "strided", "big-endian", "big-endian integers"],
)
def test_any_memory_layout_is_sent_in_c_order(array: Any) -> None:
    came = decode(encode("t", RESULT, {"x": array})).arrays["x"]
    assert np.array_equal(came, array)
    assert came.dtype.str in DTYPES
    assert came.flags.c_contiguous


@pytest.mark.parametrize("shape", [(0,), (0, 22), (5, 0), (0, 0), ()])
def test_empty_arrays_and_scalars_keep_their_shape(shape: tuple[int, ...]) -> None:
    assert decode(encode("t", RESULT, {"x": np.ones(shape)})).arrays["x"].shape == shape


def test_packet_keeps_the_received_frames() -> None:
    sent = encode("up/r", RESULT, {"x": VALUES})
    assert decode(sent).frames is sent


def test_array_over_the_size_limit_is_rejected() -> None:
    largest = np.zeros(FRAME_BYTES_MAX // 8)
    assert decode(encode("t", RESULT, {"x": largest})).arrays["x"].nbytes == FRAME_BYTES_MAX
    over = bytes(FRAME_BYTES_MAX + 8)
    with pytest.raises(Rejected, match=r"^nbytes"):
        decode(frames(over, arrays=[info(b"", shape=[len(over) // 8], nbytes=len(over))]))


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_no_dtype_allows_a_dimension_over_the_limit(dtype: str) -> None:
    decoded = np.dtype(np.int64 if dtype in NARROW else dtype)
    assert LENGTH_MAX * decoded.itemsize >= FRAME_BYTES_MAX


@pytest.mark.parametrize(
    ("smallest", "largest", "dtype"),
    [
        (-(1 << 15), (1 << 15) - 1, "<i2"),
        (-(1 << 15) - 1, 0, "<i4"),
        (0, 1 << 15, "<i4"),
        (-(1 << 31), (1 << 31) - 1, "<i4"),
        (0, 1 << 31, "<i8"),
        (-(1 << 31) - 1, 0, "<i8"),
    ],
)
def test_large_arrays_of_integers_travel_in_the_smallest_dtype(smallest: int, largest: int, dtype: str) -> None:
    array = np.array([smallest, largest] * 32).reshape(4, 16)
    packet = decode(encode("t", RESULT, {"x": array, "y": array[:1]}))
    assert [one.dtype for one in packet.message.arrays] == [dtype, "<i8"]  # type: ignore[union-attr]
    came = packet.arrays["x"]
    assert (came.dtype, came.tolist(), came.flags.writeable) == (np.int64, array.tolist(), False)


def test_narrow_integers_over_the_limit_as_int64_are_rejected() -> None:
    rows = FRAME_BYTES_MAX // 8
    blob = bytes(2 * rows)
    assert decode(described(blob, dtype="<i2", shape=[rows])).arrays["x"].nbytes == FRAME_BYTES_MAX
    with pytest.raises(Rejected, match=r"^nbytes"):
        decode(described(blob + bytes(2), dtype="<i2", shape=[rows + 1]))


@pytest.mark.parametrize(
    "array",
    [np.zeros((1, 1, 1)), np.zeros(2, dtype=complex), np.array(["a"]), np.array([None]), np.zeros(2, dtype=np.int32)],
    ids=["three dimensions", "complex", "text", "objects", "int32"],
)
def test_array_that_a_receiver_would_reject_is_not_sent(array: Any) -> None:
    with pytest.raises(ProtocolError, match="cannot be sent"):
        encode("t", RESULT, {"x": array})


def test_too_large_header_and_too_many_arrays_are_not_sent() -> None:
    with pytest.raises(ProtocolError, match="4096"):
        encode("t", Beacon(run="r", term=1, round=1, open=True, acknowledged=bytes(HEADER_BYTES_MAX)))
    with pytest.raises(ProtocolError, match=f"{ROUND_HEADER_BYTES_MAX}"):
        encode("round/r", replace(ROUND, query=msgspec.Raw(bytes(ROUND_HEADER_BYTES_MAX))))
    with pytest.raises(ProtocolError, match="9 arrays"):
        encode("t", RESULT, {f"x{number}": np.zeros(1) for number in range(ARRAYS_MAX + 1)})


def test_task_with_the_columns_of_a_wide_table_fits_into_a_round() -> None:
    columns = tuple(Column(name=f"measurement {number} of the second visit") for number in range(2000))
    schema = Schema(columns=columns, target=Target(name="y"))
    task = Task(name="wide", model=Linear(2000), loss="squared-error", metric="loss", schema=schema)
    for topic in ("round/r", "to/alice/"):
        sent = encode(topic, replace(ROUND, task=task))
        assert len(sent[1]) > HEADER_BYTES_MAX
        assert decode(sent).message == replace(ROUND, task=task)
    with pytest.raises(Rejected, match=r"^header-size"):
        decode(encode("up/r", replace(ROUND, task=task)))


@pytest.mark.parametrize(
    "lie", ["10 GB claimed", "10 GB claimed in two dimensions", "a header that claims 4 GB of map"]
)
def test_declared_size_allocates_no_memory(lie: str) -> None:
    bad = BAD[lie][1]
    tracemalloc.start()
    try:
        with pytest.raises(Rejected):
            decode(bad)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200_000


class Malicious:
    """Creates a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.mkdir, (self.folder,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_frame_is_unpickled(tmp_path: Path, protocol: int) -> None:
    trap = tmp_path / "sprung"
    evil = pickle.dumps(Malicious(trap), protocol)
    padded = evil + bytes(-len(evil) % 8)
    sizes = {"shape": [len(padded) // 8], "nbytes": len(padded), "sha256": hashlib.sha256(padded).digest()}
    attacks = [[*frames()[:position], evil, *frames()[position + 1 :]] for position in range(3)]
    attacks += [frames(padded, arrays=[info(padded, **sizes, dtype=dtype)]) for dtype in ("<i8", "<f8", "|O")]
    attacks += [frames(trainer=evil), frames(arrays=evil), frames(message=ROUND, task=evil)]
    for attack in attacks:
        try:
            decode(attack)  # as numbers, the bytes of a pickle are as good as any
        except Rejected:
            continue
    assert not trap.exists()


def test_mutated_frames_are_rejected_or_valid() -> None:
    """Flip, cut, insert, swap and repeat; seeded, so that a failure can be repeated."""
    generator = np.random.default_rng(20)
    train = Train(learner=Gradient())
    originals = [
        encode("up/r", RESULT, {"losses": np.arange(5.0), "correct": np.arange(5), "elites": np.empty((0, 22))}),
        encode("round/r", ROUND, {"ids": np.arange(3), "pool": np.ones((3, 22))}),
        encode("round/r", msgspec.structs.replace(ROUND, query=encode_query(train)), {"model": np.ones(22)}),
        encode("beacon/r", Beacon(run="r", term=1, round=3, open=True, acknowledged=b"\x03")),
        encode("presence/alice", Presence(trainer="alice", present=True)),
    ]
    rejected: dict[str, int] = {}
    for number in range(FUZZED):
        mutant = [*originals[number % len(originals)]]
        for _ in range(int(generator.integers(1, 4))):
            mutate(mutant, generator)
        try:
            packet = decode(mutant)
        except Rejected as refusal:
            rejected[refusal.reason] = rejected.get(refusal.reason, 0) + 1
        else:
            assert isinstance(packet.message, Header)
            assert len(packet.arrays) == len(packet.message.arrays)
    assert sum(rejected.values()) > FUZZED / 2
    assert set(rejected) >= {"frames", "header", "nbytes", "sha256"}


def mutate(mutant: list[bytes], generator: np.random.Generator) -> None:
    """Mutate one random frame."""
    which = int(generator.integers(len(mutant))) if mutant else 0
    blob = bytearray(mutant[which]) if mutant else bytearray()
    place = int(generator.integers(len(blob) + 1))
    kind = int(generator.integers(7))
    if kind == 0 and blob:
        blob[place % len(blob)] ^= 1 << int(generator.integers(8))
    elif kind == 1:
        del blob[place : place + int(generator.integers(1, 9))]
    elif kind == 2:
        blob[place:place] = generator.bytes(int(generator.integers(1, 9)))
    elif kind == 3:
        mutant.insert(which, bytes(blob))
    elif kind == 4:
        blob = bytearray(generator.bytes(len(blob)))
    elif kind == 5:
        mutant[which:] = mutant[which + 1 :]
        return
    elif mutant:
        mutant[0], blob = bytes(blob), bytearray(mutant[0])
    if mutant:
        mutant[which % len(mutant)] = bytes(blob)


@pytest.mark.parametrize("topic", [b"round/r", b"up/r/alice"])
@pytest.mark.parametrize("value", [b"\x91" * 3_000 + b"\xc0", b"\x81\xa1a" * 1_000 + b"\xc0"], ids=["lists", "maps"])
def test_header_that_is_nested_without_end_is_rejected(topic: bytes, value: bytes) -> None:
    """Before its signature is checked: a stranger's few bytes must not end a service."""
    with pytest.raises(Rejected) as error:
        decode([topic, b"\x82\xa1t\xa5hello\xa1x" + value, b""])
    assert error.value.reason == "header"
