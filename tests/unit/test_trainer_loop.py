"""The trainer's loop: rows that do not fit, unknown and refused messages, usage of the process."""

from __future__ import annotations

import msgspec
import numpy as np
import psutil
import pytest
from msgspec import structs
from test_spool_lives import ROUND, Life

from fedmq.errors import BadData, WorkError
from fedmq.protocol.messages import Beacon, Refused
from fedmq.secure_sums.ledger import Entry
from fedmq.trainer.machine import LedgerFailed, Outgoing, Output
from fedmq.trainer.service import usage_of_process
from fedmq.trainer.spool import MemorySpool
from fedmq.trainer.worker import Done
from fedmq.transport.link import Delivered


@pytest.mark.parametrize(
    "error", [BadData("they do not fit"), WorkError("it diverged"), MemoryError(), SystemExit(78)], ids=repr
)
def test_failed_work_of_a_first_run_declines_it_and_the_trainer_stays(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    life = Life(MemorySpool(), [])
    life.hear(ROUND, model=np.zeros(3))
    life.outside.finished.append(Done("run", ROUND.round, error, 0.1))
    life.trainer.step()
    assert life.order[-1] == "goodbye"
    assert caplog.messages[-1].startswith("takes no part in run run: ")
    assert not life.trainer.done
    life.works_on(structs.replace(ROUND, run="other"))
    assert life.order[-1] == f"send {ROUND.round}"


def test_unknown_kind_of_message_is_rejected_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    life = Life(MemorySpool(), [])
    life.works_on(ROUND)
    header = {"t": "deferred", "v": 2, "run": "run", "term": ROUND.term, "trainer": "bob", "round": ROUND.round}
    for _ in range(3):
        life.news(Delivered([b"to/bob/", msgspec.msgpack.encode(header), b""]))
    session = life.trainer.session
    assert session.runs["run"].pending.keys() == {ROUND.round}
    assert session.rejections == {"header": 3}
    assert len(caplog.messages) == 1
    assert "deferred" in caplog.messages[0]


def test_refused_hello_is_logged_once_and_not_repeated_at_once(caplog: pytest.LogCaptureFixture) -> None:
    life = Life(MemorySpool(), [])
    life.works_on(ROUND)
    refused = Refused(run="run", term=ROUND.term, trainer="bob", round=0, reason="version", detail="got 3")
    life.hear(refused)
    beacon = Beacon(run="run", term=ROUND.term, round=ROUND.round, open=True)
    hellos = life.outside.hellos
    for _ in range(20):
        life.later(0.5)
        life.hear(beacon)
    assert life.outside.hellos == hellos
    assert [line for line in caplog.messages if "version: got 3" in line] == caplog.messages[:1]
    assert life.trainer.session.runs["run"].pending, "a refused Hello is no answer to a result"


def test_refusals_for_unknown_reasons_are_counted_together() -> None:
    life = Life(MemorySpool(), [])
    life.works_on(ROUND)
    for reason in ("later-1", "later-2"):
        life.hear(Refused(run="run", term=ROUND.term, trainer="bob", round=ROUND.round, reason=reason, detail=""))
    assert life.trainer.session.refusals == {"other": 2}
    assert not life.trainer.session.runs["run"].pending


def test_usage_is_that_of_this_process() -> None:
    cpu_s, memory = usage_of_process()
    process = psutil.Process()
    assert 0.0 < cpu_s < sum(process.cpu_times()[:2]) + 1.0
    assert process.memory_info().rss / 2 < memory < process.memory_info().rss * 100, "bytes, at the most so far"


def test_nothing_is_sent_of_a_run_whose_ledger_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life(MemorySpool(), [])
    life.works_on(ROUND)
    life.order.clear()
    (result,) = life.outside.sent
    entry = Entry(bytes(32), bytes(32), (1, 1))
    sends = [Outgoing(f"up/{run}", structs.replace(result, run=run, arrays=())) for run in ("run", "other")]
    asked = [Output(entries=[("run", entry)], sends=sends), Output()]
    taken: list[object] = []
    monkeypatch.setattr(life.trainer.session, "step", lambda event, _now: (taken.append(event), asked.pop(0))[1])
    monkeypatch.setattr(life.trainer._spool, "record", lambda _run, _entry: False, raising=False)
    life.trainer.stop()
    assert life.order == [f"send {ROUND.round}"]
    assert life.outside.sent[-1].run == "other"
    assert taken[1:] == [LedgerFailed("run")]
