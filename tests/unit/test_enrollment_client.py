"""The trainer's side of enrollment, on virtual time: how long it waits, and when it ends."""

from __future__ import annotations

from collections.abc import Iterator

from fedmq.protocol.codec import Frames
from fedmq.security.enrollment import RequestStatus, encode_status
from fedmq.security.enrollment_client import REFUSALS_MAX, SILENCE_MAX_S, EnrollmentClient
from fedmq.testing import VirtualClock
from fedmq.transport.link import Delivered, LinkEvent, LinkRefused, LinkUp


class FakeLink:
    """Delivers the events of a test, and records what is sent."""

    def __init__(self) -> None:
        self.events: list[LinkEvent] = []
        self.sent: list[Frames] = []

    def receive(self) -> Iterator[LinkEvent]:
        while self.events:
            yield self.events.pop(0)

    def send(self, frames: Frames) -> bool:
        self.sent.append(frames)
        return True


def client_on(link: FakeLink, clock: VirtualClock | None = None, expires: float | None = None) -> EnrollmentClient:
    return EnrollmentClient(
        link,
        [b"request"],
        clock=clock or VirtualClock(),
        broker="tcp://127.0.0.1:5550",
        connect_timeout_s=None,
        expires=expires,
        on_waiting=lambda _status: None,
    )


def refuse(client: EnrollmentClient, link: FakeLink, times: int) -> None:
    for _ in range(times):
        link.events.append(LinkRefused())
        client.step()


def test_client_retries_after_refusals_of_a_new_token() -> None:
    link = FakeLink()
    client = client_on(link)
    refuse(client, link, REFUSALS_MAX - 1)
    assert not client.done
    link.events.append(LinkUp())
    client.step()
    assert link.sent == [[b"request"]]


def test_client_ends_after_the_maximum_of_refusals() -> None:
    link = FakeLink()
    client = client_on(link)
    refuse(client, link, REFUSALS_MAX)
    assert (client.done, client.answer) == (True, None)


def test_client_waits_while_the_broker_answers_and_ends_when_it_is_silent() -> None:
    link, clock = FakeLink(), VirtualClock()
    client = client_on(link, clock)
    link.events.append(LinkUp())
    client.step()
    for _ in range(3):
        clock.move_to(clock.now() + SILENCE_MAX_S - 1)
        link.events.append(Delivered(encode_status(RequestStatus(state="waiting"))))
        client.step()
        assert not client.done
    clock.move_to(clock.now() + SILENCE_MAX_S)
    client.step()
    assert (client.done, client.answer) == (True, None)


def test_client_ends_when_the_token_expires() -> None:
    link, clock = FakeLink(), VirtualClock()
    client = client_on(link, clock, expires=clock.wall() + 60)
    clock.move_to(clock.now() + 59)
    client.step()
    assert not client.done
    clock.move_to(clock.now() + 1)
    client.step()
    assert client.answer == RequestStatus(state="expired")
