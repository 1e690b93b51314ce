"""The wire format: encode messages to frames and decode them; every limit is checked before any allocation.

A message is a list of frames:

    topic | header | signature | array 0 | array 1 | ...

The header is msgpack of one of the structs in `messages`, at most 4 KiB; that of a Round, whose task may have a table's
columns, at most 1 MiB. The signature covers the header
(`fedmq.security.signing`) and is empty without keys. Arrays are raw little-endian bytes in C order, which the header
describes, each with its SHA-256. A `Packet` is fully validated. Nothing from the network is unpickled.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from fedmq.errors import ProtocolError, Rejected, one_line
from fedmq.models.arrays import all_finite
from fedmq.protocol.messages import (
    PROTOCOL_VERSION,
    PROTOCOL_VERSION_MIN,
    ArrayInfo,
    Events,
    Message,
    Result,
    Round,
    Snapshot,
    SumReply,
    SumRequest,
    version_text,
)
from fedmq.protocol.topics import INBOX, ROUNDS
from fedmq.runtime.malformed import MALFORMED
from fedmq.tasks.task import CODE_BYTES_MAX

HEAD_FRAMES = 3  # topic, header, signature
ARRAYS_MAX = 8
FRAMES_MAX = HEAD_FRAMES + ARRAYS_MAX
TOPIC_BYTES_MAX = 200
HEADER_BYTES_MAX = 4096
ROUND_HEADER_BYTES_MAX = 1 << 20  # in topics of the aggregator: a task may have the names of all columns
SIGNATURE_BYTES_MAX = 64  # Ed25519, RFC 8032
FRAME_BYTES_MAX = 32 << 20  # of one array frame, and of all array frames of a message together
MESSAGE_BYTES_MAX = (
    FRAME_BYTES_MAX + ROUND_HEADER_BYTES_MAX + (1 << 16)
)  # The watchdog closes a connection with a longer incomplete message.
DIMENSIONS_MAX = 2
LENGTH_MAX = FRAME_BYTES_MAX // 4  # of a dimension; the limit in bytes does not bound an empty array
WITH_ARRAYS = (Round, Result, Events, Snapshot, SumRequest, SumReply)  # no other message has arrays
NARROW = {"<i2": 1 << 15, "<i4": 1 << 31}  # integers below; on the wire only: a decoded array has int64
NARROW_SIZE_MIN = 64  # numbers of an array that is worth a look
DTYPES = frozenset({"<f8", "<f4", "<i8", *NARROW})
CODE = "code"  # array with the packed code of a Code model, sent with each round
EVENTS, VIEW = "events", "view"  # arrays for observers
MASKED = "masked"  # array of a result with a secure sum: the answer under its masks
PARTS = "parts"  # array with messages of secure sums
BYTES_DTYPE = "|u1"  # only of these arrays
EVENTS_BYTES_MAX = 1 << 20
PARTS_BYTES_MAX = 1 << 20  # a cohort of a thousand members needs 0.3 MB
VIEW_BYTES_MAX = 16 << 20

Array = np.ndarray
Frames = Sequence[bytes]
Shape = tuple[int, ...]
Expected = Mapping[str, tuple[Shape, type[np.generic]]]  # by array name; -1 in a shape: any length

_OF_ROUNDS = (ROUNDS.encode(), INBOX.encode())  # topics that only the aggregator of a run sends to

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


class _VersionOnly(msgspec.Struct):
    v: int


class Packet(NamedTuple):
    """A decoded message with its read-only arrays by name.

    `frames` are the received bytes: they are what is verified and stored, never a re-serialization. `before` are
    earlier rounds that a trainer's worker needs for a round with a delta.
    """

    topic: str
    message: Message
    arrays: Mapping[str, Array]
    frames: Frames
    before: tuple["Packet", ...] = ()


def unsigned(_header: bytes) -> bytes:
    """Return the empty signature frame of a peer without keys."""
    return b""


class Payload(NamedTuple):
    """The arrays of a message, encoded and hashed: `pack` once, `encode` for each recipient."""

    infos: tuple[ArrayInfo, ...]
    blobs: tuple[bytes, ...]


def pack(arrays: Mapping[str, Array]) -> Payload:
    """Encode and hash arrays; integers of a large array travel in the smallest dtype that holds them all.

    Raises:
        ProtocolError: an array that the receiver's decoder would reject.
    """
    infos, blobs = [], []
    for name, array in arrays.items():
        dtype = array.dtype.newbyteorder("<").str
        if dtype not in _dtypes(name) - NARROW.keys() or array.ndim > DIMENSIONS_MAX or array.nbytes > _bytes_max(name):
            raise ProtocolError(f"array {name}: {array.dtype} {array.shape} cannot be sent")
        dtype = _narrowest(array) if dtype == "<i8" else dtype
        blob = np.ascontiguousarray(array, dtype=dtype).tobytes()
        infos.append(ArrayInfo(name, dtype, array.shape, len(blob), hashlib.sha256(blob).digest()))
        blobs.append(blob)
    return Payload(tuple(infos), tuple(blobs))


def unpack(payload: Payload) -> dict[str, Array]:
    """Return the arrays of `pack`, read-only.

    Raises:
        Rejected: with the reason `frames`, `header`, `dtype`, `shape`, `nbytes`, `sha256` or `not-finite`.
    """
    infos, blobs = payload
    if len(infos) != len(blobs):
        raise Rejected("frames", f"expected {len(infos)} array frames, got {len(blobs)}")
    if (widened := sum(8 * math.prod(info.shape) for info in infos if info.dtype in NARROW)) > FRAME_BYTES_MAX:
        raise Rejected("nbytes", f"expected at most {FRAME_BYTES_MAX} bytes of arrays as int64, got {widened}")
    arrays = {info.name: _array(info, blob) for info, blob in zip(infos, blobs, strict=True)}
    if len(arrays) != len(infos):
        raise Rejected("header", "two arrays have one name")
    return arrays


def encode(
    topic: str,
    message: Message,
    arrays: Mapping[str, Array] | Payload | None = None,
    sign: Callable[[bytes], bytes] = unsigned,
) -> list[bytes]:
    """Return the frames of one message; `sign` makes the signature of its header.

    Raises:
        ProtocolError: an array or a header that the receiver's decoder would reject.
    """
    infos, blobs = arrays if isinstance(arrays, Payload) else pack(arrays or {})
    if infos:
        message = msgspec.structs.replace(message, arrays=infos)
    header = _encoder.encode(message)
    header_bytes_max = ROUND_HEADER_BYTES_MAX if isinstance(message, Round) else HEADER_BYTES_MAX
    if len(header) > header_bytes_max or len(blobs) > ARRAYS_MAX:
        raise ProtocolError(
            f"a {type(message).__name__} needs {len(header)} bytes of header and {len(blobs)} arrays: "
            f"at most {header_bytes_max} and {ARRAYS_MAX} can be sent"
        )
    if sum(map(len, blobs)) > FRAME_BYTES_MAX:
        raise ProtocolError(
            f"a {type(message).__name__} has {sum(map(len, blobs))} bytes of arrays: "
            f"at most {FRAME_BYTES_MAX} can be sent"
        )
    return [topic.encode(), header, sign(header), *blobs]


def decode(frames: Frames) -> Packet:
    """Return the message in `frames`.

    Raises:
        Rejected: with the reason `frames`, `header-size`, `header`, `version`, `dtype`, `shape`, `nbytes`, `sha256` or
            `not-finite`. Nothing larger than the frames themselves is allocated before they are checked.
    """
    if not HEAD_FRAMES <= len(frames) <= FRAMES_MAX:
        raise Rejected("frames", f"expected {HEAD_FRAMES} to {FRAMES_MAX} frames, got {len(frames)}")
    if sum(map(len, frames)) > MESSAGE_BYTES_MAX:
        raise Rejected("frames", f"expected at most {MESSAGE_BYTES_MAX} bytes, got {sum(map(len, frames))}")
    topic, header, signature = frames[:HEAD_FRAMES]
    if len(topic) > TOPIC_BYTES_MAX or len(signature) > SIGNATURE_BYTES_MAX:
        raise Rejected("frames", "the topic or the signature frame is too long")
    header_bytes_max = ROUND_HEADER_BYTES_MAX if topic.startswith(_OF_ROUNDS) else HEADER_BYTES_MAX
    if len(header) > header_bytes_max:
        raise Rejected("header-size", f"expected at most {header_bytes_max} bytes of header, got {len(header)}")
    try:
        message = _decoder.decode(header)
        name = topic.decode()
    except Exception as error:  # msgspec passes on what a struct's own checks raise, beside its DecodeError
        _check_version(header)
        raise Rejected("header", one_line(error)[:200]) from error
    if message.arrays and not isinstance(message, WITH_ARRAYS):
        raise Rejected("frames", f"expected no arrays in a {type(message).__name__}, got {len(message.arrays)}")
    return Packet(name, message, unpack(Payload(message.arrays, tuple(frames[HEAD_FRAMES:]))), frames)


def _check_version(header: bytes) -> None:
    """Reject a header that needs another protocol version: that explains every other error in it."""
    try:
        version = msgspec.msgpack.decode(header, type=_VersionOnly).v
    except MALFORMED:
        return
    if not PROTOCOL_VERSION_MIN <= version <= PROTOCOL_VERSION:
        older = "the sender" if version < PROTOCOL_VERSION_MIN else "this host"
        known = version_text(PROTOCOL_VERSION_MIN, PROTOCOL_VERSION)
        raise Rejected("version", f"expected protocol version {known}, got {version}: upgrade fedmq on {older}")


def check_arrays(arrays: Mapping[str, Array], expected: Expected) -> None:
    """Check that these are exactly the expected arrays, with finite numbers.

    Raises:
        Rejected: with the reason `arrays`, `dtype`, `shape` or `not-finite`.
    """
    if arrays.keys() != expected.keys():
        raise Rejected("arrays", f"expected {sorted(expected)}, got {sorted(arrays)}")
    for name, (shape, dtype) in expected.items():
        array = arrays[name]
        if array.dtype != dtype:
            raise Rejected("dtype", f"expected {name} of {dtype.__name__}, got {array.dtype}")
        if array.shape != shape and (
            array.ndim != len(shape)
            or any(want not in (-1, have) for want, have in zip(shape, array.shape, strict=True))
        ):
            raise Rejected("shape", f"expected {name} of shape {shape}, got {array.shape}")
        if array.dtype.kind == "f" and not all_finite(array):
            raise Rejected("not-finite", f"expected finite numbers in {name}")


def digest_of(infos: Iterable[ArrayInfo]) -> bytes:
    """Return the digest of a round's model or pool: SHA-256 over its arrays' SHA-256 in order, without `code`."""
    return hashlib.sha256(b"".join(info.sha256 for info in infos if info.name != CODE)).digest()


def model_digest_of(message: Round) -> bytes:
    """Return the digest of a round's model or pool, also of a round with a delta."""
    return digest_of(message.arrays) if message.delta is None else message.delta.result


_LARGEST = {CODE: CODE_BYTES_MAX, EVENTS: EVENTS_BYTES_MAX, VIEW: VIEW_BYTES_MAX, PARTS: PARTS_BYTES_MAX}


def _dtypes(name: str) -> frozenset[str]:
    """Return the dtypes that an array of this name may have."""
    return frozenset({BYTES_DTYPE}) if name in _LARGEST else DTYPES


def _bytes_max(name: str) -> int:
    return _LARGEST.get(name, FRAME_BYTES_MAX)


def _narrowest(array: Array) -> str:
    """Return the smallest dtype of the wire for these integers of int64."""
    if array.size >= NARROW_SIZE_MIN:
        smallest, largest = array.min(), array.max()
        for dtype, limit in NARROW.items():
            if -limit <= smallest and largest < limit:
                return dtype
    return "<i8"


def _array(info: ArrayInfo, blob: bytes) -> Array:
    """Return the array that `info` describes, a read-only view of `blob`; narrow integers as a copy of int64."""
    if info.dtype not in (dtypes := _dtypes(info.name)):
        raise Rejected("dtype", f"array {info.name}: expected one of {sorted(dtypes)}, got {info.dtype!r}")
    if len(info.shape) > DIMENSIONS_MAX:
        raise Rejected("shape", f"array {info.name}: expected at most 2 dimensions, got {len(info.shape)}")
    if max(info.shape, default=0) > LENGTH_MAX:
        raise Rejected("shape", f"array {info.name}: expected lengths up to {LENGTH_MAX}, got {info.shape}")
    nbytes = math.prod(info.shape) * int(info.dtype[2])
    if nbytes != info.nbytes or nbytes != len(blob) or nbytes > _bytes_max(info.name):
        raise Rejected(
            "nbytes",
            f"array {info.name}: expected {nbytes} bytes for {info.shape} of {info.dtype}, "
            f"got {info.nbytes} in the header and {len(blob)} in the frame",
        )
    if hashlib.sha256(blob).digest() != info.sha256:
        raise Rejected("sha256", f"array {info.name}: the SHA-256 of the frame is not the one in the header")
    array: Array = np.ndarray(info.shape, info.dtype, blob)
    if info.dtype[1] == "f" and not all_finite(array):
        raise Rejected("not-finite", f"array {info.name}: expected finite numbers, got NaN or infinity")
    if info.dtype in NARROW:
        array = array.astype(np.int64)
        array.flags.writeable = False
    return array
