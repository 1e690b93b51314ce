"""Whether this trainer runs the code that scores a run: the one door to the sandbox.

Knows nothing of how signatures are checked or how code is run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from fedmq.errors import CodeRefused, Rejected
from fedmq.models.code import Code
from fedmq.protocol.codec import CODE, Packet
from fedmq.protocol.messages import Round

if TYPE_CHECKING:
    from fedmq.tasks.shipping import Shipped


def unsigned(_packet: Packet) -> str | None:
    """Nobody has signed anything: a trainer without keys."""
    return None


@dataclass(frozen=True)
class CodePolicy:
    """Code runs when the operator allowed it (`--allow-code`) and a pinned aggregator key signed the round.

    `signer` says of a packet the fingerprint of the pinned aggregator key whose signature over it was verified; None
    when there is no such signature, or no keys at all. `own` is this machine's own copy of a task and its code: it is
    used, with nobody's leave, in place of what travels with a task of that name and shape.
    """

    allowed: bool = False
    signer: Callable[[Packet], str | None] = unsigned
    own: Shipped | None = None

    def code(self, packet: Packet) -> bytes:
        """The code to run for this round.

        Raises:
            CodeRefused: says which key and which flag would change that.
            Rejected: the round does not carry the code that its task names.
        """
        message = packet.message
        assert isinstance(message, Round)
        model = message.task.model
        assert isinstance(model, Code)
        if self.own is not None and self.own.code is not None and self._is_own(message.task.name, model):
            return self.own.code
        self._check(message, self.signer(packet))
        came = packet.arrays.get(CODE)
        if came is None or came.dtype != np.uint8:
            raise Rejected("arrays", f"expected {CODE!r} with the round, got {sorted(packet.arrays)}")
        code = came.tobytes()
        if sha256(code).digest() != model.sha256:
            raise Rejected("sha256", "the code that came is not the one that the task names")
        return code

    def _is_own(self, name: str, model: Code) -> bool:
        assert self.own is not None
        return self.own.task.name == name and replace(model, sha256=b"") == replace(self.own.task.model, sha256=b"")

    def _check(self, message: Round, signer: str | None) -> None:
        about = f"run {message.run} is scored by code, task {message.task.name}"
        if signer is None:
            also = "" if self.allowed else ", and start it with --allow-code"
            raise CodeRefused(
                f"{about}: expected the signature of a pinned aggregator key, got none: "
                f"join the aggregator's federation, which pins its key (fedmq trainer join TOKEN){also}; "
                "or review the file and name your own copy with --score FILE.py"
            )
        if not self.allowed:
            raise CodeRefused(
                f"{about}, signed by the pinned key {signer}: expected --allow-code, got none: "
                "start this trainer with --allow-code to run what that key signs; or review the file and name your "
                "own copy with --score FILE.py"
            )


NO_CODE = CodePolicy()
