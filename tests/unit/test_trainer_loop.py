"""The trainer's loop: how it ends when the rows do not fit, and what it says of the process."""

from __future__ import annotations

import numpy as np
import psutil
import pytest
from msgspec import structs
from test_spool import ROUND, Life

from fedmq.errors import BadData
from trainer.service import usage_of_process
from trainer.spool import MemorySpool
from trainer.worker import Done


def test_rows_that_do_not_fit_end_it_at_once_although_a_result_is_not_acknowledged() -> None:
    life = Life(MemorySpool(), [])
    life.works_on(ROUND)
    life.hear(structs.replace(ROUND, round=6), model=np.zeros(3))
    life.outside.finished.append(Done("run", 6, BadData("they do not fit"), 0.1))
    with pytest.raises(BadData):
        life.trainer.step()
    assert life.trainer.done
    assert life.order[-1] == "goodbye"


def test_a_result_says_what_this_process_has_used() -> None:
    cpu_s, memory = usage_of_process()
    process = psutil.Process()
    assert 0.0 < cpu_s < sum(process.cpu_times()[:2]) + 1.0
    assert process.memory_info().rss / 2 < memory < process.memory_info().rss * 100, "bytes, at the most so far"
