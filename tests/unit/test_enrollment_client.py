"""Who asks for a place in a federation: a broker that does not know its token yet may learn of it a moment later."""

from __future__ import annotations

from collections.abc import Iterator

from fedmq.protocol.codec import Frames
from fedmq.security.enrollment import RequestStatus, answer
from fedmq.security.enrollment_client import REFUSALS_MAX, SILENT_S, EnrollmentClient
from fedmq.testing import VirtualClock
from fedmq.transport.link import Delivered, LinkEvent, LinkRefused, LinkUp


class FakeLink:
    """Hands over what a test puts into it, and keeps what is sent."""

    def __init__(self) -> None:
        self.news: list[LinkEvent] = []
        self.sent: list[Frames] = []

    def receive(self) -> Iterator[LinkEvent]:
        while self.news:
            yield self.news.pop(0)

    def send(self, frames: Frames) -> bool:
        self.sent.append(frames)
        return True


def joiner(link: FakeLink, clock: VirtualClock | None = None, expires: float | None = None) -> EnrollmentClient:
    return EnrollmentClient(
        link,
        [b"asks"],
        clock=clock or VirtualClock(),
        broker="tcp://127.0.0.1:5550",
        connect_timeout_s=None,
        expires=expires,
        tell=lambda _standing: None,
    )


def refuse(one: EnrollmentClient, link: FakeLink, times: int) -> None:
    for _ in range(times):
        link.news.append(LinkRefused())
        one.step()


def test_a_refusal_may_come_before_the_broker_has_seen_the_token() -> None:
    link = FakeLink()
    one = joiner(link)
    refuse(one, link, REFUSALS_MAX - 1)
    assert not one.done
    link.news.append(LinkUp())
    one.step()
    assert link.sent == [[b"asks"]]


def test_a_broker_that_goes_on_refusing_is_believed() -> None:
    link = FakeLink()
    one = joiner(link)
    refuse(one, link, REFUSALS_MAX)
    assert (one.done, one.answer) == (True, None)


def test_a_broker_that_answers_is_waited_for_and_one_that_falls_silent_is_not() -> None:
    link, clock = FakeLink(), VirtualClock()
    one = joiner(link, clock)
    link.news.append(LinkUp())
    one.step()
    for _ in range(3):
        clock.move_to(clock.now() + SILENT_S - 1)
        link.news.append(Delivered(answer(RequestStatus(state="waiting"))))
        one.step()
        assert not one.done
    clock.move_to(clock.now() + SILENT_S)
    one.step()
    assert (one.done, one.answer) == (True, None)


def test_the_wait_ends_with_the_token() -> None:
    link, clock = FakeLink(), VirtualClock()
    one = joiner(link, clock, expires=clock.wall() + 60)
    clock.move_to(clock.now() + 59)
    one.step()
    assert not one.done
    clock.move_to(clock.now() + 1)
    one.step()
    assert one.answer == RequestStatus(state="expired")
