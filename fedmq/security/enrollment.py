"""Messages at the broker's port for enrollment: a request for membership, and its answer.

A closed set of its own, because the sender is not a member yet. The key that asks for membership signs the request. The
signature also covers the federation and the key of the connection, so it proves possession of the key and is valid
nowhere else.

Decoders raise Rejected.
"""

from typing import Literal, TypeVar

import msgspec

from fedmq.errors import Rejected
from fedmq.protocol.codec import Frames
from fedmq.protocol.messages import Text, Version
from fedmq.runtime.malformed import MALFORMED
from fedmq.security.keys import Identity, PublicIdentity

PURPOSE = b"fedmq enrollment, version 1\0"
REQUEST_FRAMES_MAX = 3  # the request, its signature, and the signature of the key to replace
REQUEST_BYTES_MAX = 1024  # of each frame

_T = TypeVar("_T")
RequestState = Literal[
    "waiting",  # for a user to accept or reject it
    "accepted",  # the key is a member
    "rejected",  # a user rejected the request or revoked the key
    "expired",  # the token is not valid anymore
    "refused",  # the request is not possible: `detail` states why
]


class JoinRequest(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="join"):
    """Request membership. Over the connection of a member: request that a new key replaces the member's key."""

    v: Version = 2  # lowest version that can read it
    public: PublicIdentity


class RequestStatus(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="status"):
    """The status of a request at the broker."""

    v: Version = 2  # lowest version that can read it
    state: RequestState
    detail: Text = ""


class SignedRequest(msgspec.Struct, frozen=True):
    """A received request, the bytes that its signatures cover, and the signatures."""

    public: PublicIdentity
    signed: bytes
    signatures: tuple[bytes, ...]

    def is_signed_by(self, public: PublicIdentity, position: int) -> bool:
        """Return whether the signature at `position` is by this key; 0 is the signature of the requesting key."""
        return position < len(self.signatures) and public.verifies(self.signatures[position], self.signed)


def encode_request(federation: bytes, connection: bytes, *identities: Identity) -> Frames:
    """Return the frames of a request for the first identity, signed by all of them.

    `connection` is the public transport key of the connection that sends them.
    """
    header = msgspec.msgpack.encode(JoinRequest(public=identities[0].public))
    signed = PURPOSE + federation + connection + header
    return [header, *(identity.sign(signed) for identity in identities)]


def decode_request(federation: bytes, connection: bytes, frames: Frames) -> SignedRequest:
    """Return the request of these frames, with its signatures unverified."""
    if not 2 <= len(frames) <= REQUEST_FRAMES_MAX or max(map(len, frames)) > REQUEST_BYTES_MAX:
        raise Rejected("frames", f"expected 2 to {REQUEST_FRAMES_MAX} frames of at most {REQUEST_BYTES_MAX} bytes")
    request = _decode(frames[0], JoinRequest)
    return SignedRequest(request.public, PURPOSE + federation + connection + frames[0], tuple(frames[1:]))


def encode_status(status: RequestStatus) -> Frames:
    """Return the frames of an answer."""
    return [msgspec.msgpack.encode(status)]


def decode_status(frames: Frames) -> RequestStatus:
    """Return the answer of these frames."""
    if len(frames) != 1 or len(frames[0]) > REQUEST_BYTES_MAX:
        raise Rejected("frames", f"expected one frame of at most {REQUEST_BYTES_MAX} bytes")
    return _decode(frames[0], RequestStatus)


def _decode(header: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.msgpack.decode(header, type=kind)
    except MALFORMED as error:
        raise Rejected("header", str(error)) from None
