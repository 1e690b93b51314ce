"""Who asks for a place in a federation: a broker that does not know its token yet may learn of it a moment later."""

from __future__ import annotations

from collections.abc import Iterator

from fedmq.network import LinkRefused, LinkUp, News
from fedmq.testing import VirtualClock
from fedmq.wire import Frames
from trainer.joiner import REFUSALS_MAX, Joiner


class FakeLink:
    """Hands over what a test puts into it, and keeps what is sent."""

    def __init__(self) -> None:
        self.news: list[News] = []
        self.sent: list[Frames] = []

    def receive(self) -> Iterator[News]:
        while self.news:
            yield self.news.pop(0)

    def send(self, frames: Frames) -> bool:
        self.sent.append(frames)
        return True


def joiner(link: FakeLink) -> Joiner:
    return Joiner(
        link,
        [b"asks"],
        clock=VirtualClock(),
        broker="tcp://127.0.0.1:5550",
        connect_timeout_s=None,
        expires=None,
        tell=lambda _standing: None,
    )


def refuse(one: Joiner, link: FakeLink, times: int) -> None:
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
    assert (one.done, one.standing) == (True, None)
