"""An operator's word from the page to a live run, with the keys of the aggregator.

Knows nothing of HTTP; blocks for as long as the run takes to heed, so it is asked in a thread.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from fedmq.errors import BadConfiguration
from fedmq.names import Name
from fedmq.protocol.messages import Action
from fedmq.runs.control_client import open_operator
from fedmq.runtime.clock import SystemClock
from fedmq.security.keyring import find_broker

OF_A_TRAINER = ("drain", "ban", "readmit")
TOLD: dict[Action, str] = {
    "pause": "paused: the open round is closed, and no other is opened",
    "resume": "the run goes on",
    "stop": "stopped: the report and the best model are written",
    "checkpoint": "the state is kept at the next close of a round",
    "drain": "drained: invited to no further round, as long as this life of the aggregator lasts",
    "ban": "banned: refused from now on, as long as this life of the aggregator lasts",
    "readmit": "takes part again",
}


class Word(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the page sends."""

    action: Action
    trainer: Name | None = None

    def __post_init__(self) -> None:
        if (self.action in OF_A_TRAINER) is (self.trainer is None):
            raise ValueError("expected a trainer with drain, ban and readmit, and with nothing else")


class Controls:
    """Says words to runs at one broker.

    Raises:
        BadConfiguration: there are no keys of the aggregator in the folder.
    """

    def __init__(self, broker: str | None, keys: Path | None) -> None:
        try:
            self._address, self._credentials = find_broker(broker, keys, "aggregator")
        except BadConfiguration as error:
            raise BadConfiguration(f"--control: {error}") from error

    def say(self, run: str, word: Word) -> str:
        """Say it until the run heeds; what the reader is told then.

        Raises:
            NotAuthorized: the broker does not let us in.
            Unreachable: the run did not heed in time.
            BadConfiguration: the run is over.
        """
        clock = SystemClock()
        operator, link = open_operator(
            self._address, self._credentials, run, word.action, clock=clock, trainer=word.trainer
        )
        try:
            operator.step()
            while not operator.done:
                link.wait(operator.wake_at - clock.now())
                operator.step()
        finally:
            link.close()
        return f"{word.trainer or run}: {TOLD[word.action]}"
