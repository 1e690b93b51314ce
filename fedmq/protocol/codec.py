"""The wire format: messages to frames and back; the one decoder, with every limit before any allocation.

Knows nothing of sockets or of what a message is for. A message is a list of frames:

    topic | header | signature | array 0 | array 1 | ...

The header is msgpack (a closed set of structs, `messages`), at most 4 KiB. The signature is over the header (`seal`),
and empty as long as there are no keys. Arrays are raw little-endian bytes in C order that the header describes, each
with its SHA-256. Past `decode` nothing is half valid. Nothing that comes from the network is ever unpickled.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from fedmq.errors import ProtocolError, Rejected, one_line
from fedmq.models.arrays import all_finite
from fedmq.protocol.messages import ArrayInfo, Message
from fedmq.tasks.task import CODE_BYTES_MAX

HEAD_FRAMES = 3  # topic, header, signature
ARRAYS_MAX = 8
FRAMES_MAX = HEAD_FRAMES + ARRAYS_MAX
TOPIC_BYTES_MAX = 200
HEADER_BYTES_MAX = 4096
SIGNATURE_BYTES_MAX = 64  # Ed25519, RFC 8032
FRAME_BYTES_MAX = 32 << 20  # of one array frame, and of all together
MESSAGE_BYTES_MAX = FRAME_BYTES_MAX + (1 << 16)  # a connection that sends more without an end is cut
DIMENSIONS_MAX = 2
LENGTH_MAX = FRAME_BYTES_MAX // 4  # of a dimension; in bytes, an empty array could be of any length
DTYPES = frozenset({"<f8", "<f4", "<i8"})
CODE = "code"  # packed code, with the rounds of a task that is scored by it
EVENTS, VIEW = "events", "view"  # for observers
BYTES_DTYPE = "|u1"  # of the arrays that are no numbers, and of no other
EVENTS_BYTES_MAX = 1 << 20
VIEW_BYTES_MAX = 16 << 20

Array = np.ndarray
Frames = Sequence[bytes]
Shape = tuple[int, ...]
Expected = Mapping[str, tuple[Shape, type[np.generic]]]  # by array name; -1 in a shape: any length

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


class Packet(NamedTuple):
    """A decoded message: `topic` as it came, `message` one of the closed set, `arrays` by name (read-only).

    `frames` are the bytes that were checked: what is kept or verified is never a re-serialisation.
    """

    topic: str
    message: Message
    arrays: Mapping[str, Array]
    frames: Frames


def unsigned(_header: bytes) -> bytes:
    """The signature frame of those who have no keys."""
    return b""


def encode(
    topic: str,
    message: Message,
    arrays: Mapping[str, Array] | None = None,
    sign: Callable[[bytes], bytes] = unsigned,
) -> list[bytes]:
    """Frames of one message; `sign` makes the signature of its header.

    Raises:
        ProtocolError: an array or a header that the other side's decoder would refuse.
    """
    blobs: list[bytes] = []
    if arrays:
        described = [_describe(name, array) for name, array in arrays.items()]
        blobs = [blob for _, blob in described]
        message = msgspec.structs.replace(message, arrays=tuple(info for info, _ in described))
    header = _encoder.encode(message)
    if len(header) > HEADER_BYTES_MAX or len(blobs) > ARRAYS_MAX:
        raise ProtocolError(
            f"a {type(message).__name__} needs {len(header)} bytes of header and {len(blobs)} arrays: "
            f"at most {HEADER_BYTES_MAX} and {ARRAYS_MAX} can be sent"
        )
    if sum(map(len, blobs)) > FRAME_BYTES_MAX:
        raise ProtocolError(
            f"a {type(message).__name__} has {sum(map(len, blobs))} bytes of arrays: "
            f"at most {FRAME_BYTES_MAX} can be sent"
        )
    return [topic.encode(), header, sign(header), *blobs]


def decode(frames: Frames) -> Packet:
    """The message in `frames`.

    Raises:
        Rejected: with the reason `frames`, `header-size`, `header`, `dtype`, `shape`, `nbytes`, `sha256` or
            `not-finite`. Nothing larger than the frames themselves is allocated before they are checked.
    """
    if not HEAD_FRAMES <= len(frames) <= FRAMES_MAX:
        raise Rejected("frames", f"expected {HEAD_FRAMES} to {FRAMES_MAX} frames, got {len(frames)}")
    if sum(map(len, frames)) > MESSAGE_BYTES_MAX:
        raise Rejected("frames", f"expected at most {MESSAGE_BYTES_MAX} bytes, got {sum(map(len, frames))}")
    topic, header, signature = frames[:HEAD_FRAMES]
    if len(topic) > TOPIC_BYTES_MAX or len(signature) > SIGNATURE_BYTES_MAX:
        raise Rejected("frames", "the topic or the signature frame is too long")
    if len(header) > HEADER_BYTES_MAX:
        raise Rejected("header-size", f"expected at most {HEADER_BYTES_MAX} bytes of header, got {len(header)}")
    try:
        message = _decoder.decode(header)
        name = topic.decode()
    except Exception as error:
        # msgspec passes on whatever a struct's own checks raise, beside its DecodeError: all of it is the sender's.
        raise Rejected("header", one_line(error)[:200]) from error
    if len(message.arrays) != len(frames) - HEAD_FRAMES:
        raise Rejected("frames", f"the header describes {len(message.arrays)} arrays, {len(frames) - 3} came")
    arrays = {info.name: _array(info, blob) for info, blob in zip(message.arrays, frames[HEAD_FRAMES:], strict=True)}
    if len(arrays) != len(message.arrays):
        raise Rejected("header", "two arrays have one name")
    return Packet(name, message, arrays, frames)


def check_arrays(arrays: Mapping[str, Array], expected: Expected) -> None:
    """Nothing, if these are just the expected arrays, with finite numbers.

    Raises:
        Rejected: with the reason `arrays`, `dtype`, `shape` or `not-finite`.
    """
    if arrays.keys() != expected.keys():
        raise Rejected("arrays", f"expected {sorted(expected)}, got {sorted(arrays)}")
    for name, (shape, dtype) in expected.items():
        array = arrays[name]
        if array.dtype != dtype:
            raise Rejected("dtype", f"expected {name} of {dtype.__name__}, got {array.dtype}")
        if not _fits(array.shape, shape):
            raise Rejected("shape", f"expected {name} of shape {shape}, got {array.shape}")
        if not all_finite(array):
            raise Rejected("not-finite", f"expected finite numbers in {name}")


def _fits(shape: Shape, expected: Shape) -> bool:
    return shape == expected or (
        len(shape) == len(expected)
        and all(wanted in (-1, length) for length, wanted in zip(shape, expected, strict=True))
    )


def digest_of(infos: Iterable[ArrayInfo]) -> bytes:
    """What names the model or pool of a round: SHA-256 over the digests of its arrays but `code`, in their order."""
    return hashlib.sha256(b"".join(info.sha256 for info in infos if info.name != CODE)).digest()


def describe(arrays: Mapping[str, Array]) -> tuple[ArrayInfo, ...]:
    """How the header of a message describes these arrays.

    Raises:
        ProtocolError: as `encode`.
    """
    return tuple(_describe(name, array)[0] for name, array in arrays.items())


_LARGEST = {CODE: CODE_BYTES_MAX, EVENTS: EVENTS_BYTES_MAX, VIEW: VIEW_BYTES_MAX}


def _dtypes(name: str) -> frozenset[str]:
    """The dtypes that an array of this name may have."""
    return frozenset({BYTES_DTYPE}) if name in _LARGEST else DTYPES


def _bytes_max(name: str) -> int:
    return _LARGEST.get(name, FRAME_BYTES_MAX)


def _describe(name: str, array: Array) -> tuple[ArrayInfo, bytes]:
    dtype = array.dtype.newbyteorder("<").str
    if dtype not in _dtypes(name) or array.ndim > DIMENSIONS_MAX or array.nbytes > _bytes_max(name):
        raise ProtocolError(f"array {name}: {array.dtype} {array.shape} cannot be sent")
    blob = np.ascontiguousarray(array, dtype=dtype).tobytes()
    return ArrayInfo(name, dtype, array.shape, len(blob), hashlib.sha256(blob).digest()), blob


def _array(info: ArrayInfo, blob: bytes) -> Array:
    """The array that `info` describes, a read-only view on `blob`."""
    if info.dtype not in (dtypes := _dtypes(info.name)):
        raise Rejected("dtype", f"array {info.name}: expected one of {sorted(dtypes)}, got {info.dtype!r}")
    if len(info.shape) > DIMENSIONS_MAX:
        raise Rejected("shape", f"array {info.name}: expected at most 2 dimensions, got {len(info.shape)}")
    if max(info.shape, default=0) > LENGTH_MAX:
        raise Rejected("shape", f"array {info.name}: expected lengths up to {LENGTH_MAX}, got {info.shape}")
    nbytes = math.prod(info.shape) * int(info.dtype[2])
    if nbytes != info.nbytes or nbytes != len(blob) or nbytes > _bytes_max(info.name):
        raise Rejected(
            "nbytes", f"array {info.name}: shape {info.shape} of {info.dtype}, {info.nbytes} claimed, {len(blob)} came"
        )
    if hashlib.sha256(blob).digest() != info.sha256:
        raise Rejected("sha256", f"array {info.name}: the bytes are not those that the header describes")
    array: Array = np.ndarray(info.shape, info.dtype, blob)
    if info.dtype[1] == "f" and not all_finite(array):
        raise Rejected("not-finite", f"array {info.name} holds NaN or infinity")
    return array
