"""What is said at the broker's fifth port: somebody asks for a place in the federation, and hears how that stands.

A closed set of its own: who asks here is nobody yet. Every request is signed by the key that it asks a place for, over
the federation and the key of the connection too, so that it proves the possession of that key and is good nowhere else.
Knows nothing of sockets or of who decides.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from fedmq.errors import Rejected
from fedmq.protocol.codec import Frames
from fedmq.protocol.messages import PROTOCOL_VERSION, Text
from fedmq.security.keys import Identity, PublicIdentity

PURPOSE = b"fedmq enrollment, version 1\0"
ASK_FRAMES_MAX = 3  # the request, its signature, and that of the key which it is to replace
ASK_BYTES_MAX = 1024  # of each frame

_T = TypeVar("_T")
RequestState = Literal[
    "waiting",  # for somebody to accept or reject it
    "accepted",  # the key is let in
    "rejected",  # somebody said no, or has revoked the key
    "expired",  # the token is not good any more
    "refused",  # it can not even be asked for: `detail` says why
]


class JoinRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="t", tag="join"):
    """Somebody asks for a place. Over the connection of a member: to be put in its own place."""

    v: Annotated[int, Meta(ge=PROTOCOL_VERSION, le=PROTOCOL_VERSION)] = PROTOCOL_VERSION
    public: PublicIdentity


class RequestStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="t", tag="status"):
    """How a request stands, as far as the broker knows."""

    v: Annotated[int, Meta(ge=PROTOCOL_VERSION, le=PROTOCOL_VERSION)] = PROTOCOL_VERSION
    state: RequestState
    detail: Text = ""


class SignedRequest(msgspec.Struct, frozen=True):
    """A request as it came, and what its signatures must be over."""

    public: PublicIdentity
    signed: bytes
    signatures: tuple[bytes, ...]

    def is_signed_by(self, public: PublicIdentity, place: int) -> bool:
        """Whether the holder of this key has signed it; 0 is the place of the key that asks."""
        return place < len(self.signatures) and public.verifies(self.signatures[place], self.signed)


def ask(federation: bytes, connection: bytes, *identities: Identity) -> Frames:
    """The frames of a request for the first identity, over a connection with this public key; signed by all."""
    header = msgspec.msgpack.encode(JoinRequest(public=identities[0].public))
    signed = PURPOSE + federation + connection + header
    return [header, *(identity.sign(signed) for identity in identities)]


def decode_request(federation: bytes, connection: bytes, frames: Frames) -> SignedRequest:
    """The request in these frames; its signatures are still to be checked.

    Raises:
        Rejected: it is none.
    """
    if not 2 <= len(frames) <= ASK_FRAMES_MAX or max(map(len, frames)) > ASK_BYTES_MAX:
        raise Rejected("frames", f"expected 2 to {ASK_FRAMES_MAX} frames of at most {ASK_BYTES_MAX} bytes")
    join = _decode(frames[0], JoinRequest)
    return SignedRequest(join.public, PURPOSE + federation + connection + frames[0], tuple(frames[1:]))


def answer(status: RequestStatus) -> Frames:
    """The frames of an answer."""
    return [msgspec.msgpack.encode(status)]


def decode_status(frames: Frames) -> RequestStatus:
    """The answer in these frames.

    Raises:
        Rejected: it is none.
    """
    if len(frames) != 1 or len(frames[0]) > ASK_BYTES_MAX:
        raise Rejected("frames", f"expected one frame of at most {ASK_BYTES_MAX} bytes")
    return _decode(frames[0], RequestStatus)


def _decode(header: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.msgpack.decode(header, type=kind)
    except msgspec.MsgspecError as error:
        raise Rejected("header", str(error)) from None
