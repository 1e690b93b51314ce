"""Decides whether this trainer runs the code of a task; only this code reaches the sandbox."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from fedmq.errors import CodeRefused, Rejected
from fedmq.models.networks import Code
from fedmq.protocol.codec import CODE, Packet
from fedmq.protocol.messages import Round

if TYPE_CHECKING:
    from fedmq.tasks.shipping import Shipped


def no_signer(_packet: Packet) -> str | None:
    """Return None: without keys no packet is signed."""
    return None


@dataclass(frozen=True)
class CodePolicy:
    """Code runs if `--allow-code` is set and a pinned aggregator key signed the round.

    `signer` returns the fingerprint of the pinned aggregator key that signed a packet, or None. `own` is a local copy
    of a task and its code: it replaces the received code of a task of the same name and shape, without a signature.
    """

    allowed: bool = False
    signer: Callable[[Packet], str | None] = no_signer
    own: Shipped | None = None

    def code(self, packet: Packet) -> bytes:
        """Return the code to run for this round.

        Raises:
            CodeRefused: names the key and the flag that would allow it.
            Rejected: the round does not carry the code of its task.
        """
        message = packet.message
        assert isinstance(message, Round)
        model = message.task.model
        assert isinstance(model, Code)
        own = self.own
        if (
            own is not None
            and own.code is not None
            and own.task.name == message.task.name
            and replace(own.task.model, sha256=b"") == replace(model, sha256=b"")
        ):
            return own.code
        if not model.sha256:
            raise CodeRefused(
                f"run {message.run}, task {message.task.name}: expected code of this site that scores its models, "
                "got none: start this trainer with --learner FILE.py:fit, a file that defines evaluate, too"
            )
        self._check(message, self.signer(packet))
        received = packet.arrays.get(CODE)
        if received is None or received.dtype != np.uint8:
            raise Rejected("arrays", f"expected {CODE!r} with the round, got {sorted(packet.arrays)}")
        code = received.tobytes()
        if sha256(code).digest() != model.sha256:
            raise Rejected("sha256", "expected the code with the digest in the task, got another")
        return code

    def _check(self, message: Round, signer: str | None) -> None:
        about = f"run {message.run} is scored by code, task {message.task.name}"
        if signer is None:
            also = "" if self.allowed else ", and start it with --allow-code"
            raise CodeRefused(
                f"{about}: expected the signature of a pinned aggregator key, got none: "
                f"join the aggregator's federation, which pins its key (fedmq trainer join){also}; "
                "or review the file and name your own copy with --score FILE.py"
            )
        if not self.allowed:
            raise CodeRefused(
                f"{about}, signed by the pinned key {signer}: expected --allow-code, got none: "
                "start this trainer with --allow-code to run what that key signs; or review the file and name your "
                "own copy with --score FILE.py"
            )


NO_CODE = CodePolicy()
