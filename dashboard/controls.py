"""Control requests from the page to live runs, signed with the key of the aggregator."""

from contextlib import closing
from pathlib import Path

import msgspec

from fedmq.errors import BadConfiguration
from fedmq.names import Name
from fedmq.protocol.messages import Action
from fedmq.runs.control_client import open_control_client
from fedmq.runs.control_commands import TRAINER_ACTIONS
from fedmq.runtime.clock import SystemClock
from fedmq.security.keyring import find_broker

CONFIRMATIONS: dict[Action, str] = {
    "pause": "paused: the open round is closed, and no other opens",
    "resume": "the run continues",
    "stop": "stopped: the report and the best model are written",
    "checkpoint": "the state is saved at the next close of a round",
    "drain": "drained: excluded from further rounds until the aggregator restarts",
    "ban": "banned: its messages are rejected until the aggregator restarts",
    "readmit": "takes part again",
}


class ControlRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request of the page."""

    action: Action
    trainer: Name | None = None

    def __post_init__(self) -> None:
        if (self.action in TRAINER_ACTIONS) is (self.trainer is None):
            raise ValueError("expected a trainer with drain, ban and readmit, and with no other action")


class Controls:
    """Sends control requests to runs at one broker."""

    def __init__(self, broker: str | None, keys: Path | None) -> None:
        try:
            self._address, self._credentials = find_broker(broker, keys, "aggregator")
        except BadConfiguration as error:
            raise BadConfiguration(f"--control: {error}") from error

    def send(self, run: str, request: ControlRequest) -> str:
        """Send a request until the run acknowledges it; return a confirmation for people. Blocks: call it in a thread.

        Raises:
            NotAuthorized: the broker rejects the key.
            Unreachable: the run did not acknowledge in time.
            BadConfiguration: the run is over.
        """
        clock = SystemClock()
        client, link = open_control_client(
            self._address, self._credentials, run, request.action, clock=clock, trainer=request.trainer
        )
        with closing(link):
            client.step()
            while not client.done:
                link.wait(client.wake_at - clock.now())
                client.step()
        return f"{request.trainer or run}: {CONFIRMATIONS[request.action]}"
