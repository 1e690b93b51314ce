"""Why a trainer takes no part in a run: a reason of a closed set, and one line for the operator of the run.

The line leaves this machine, so it holds nothing of the rows: words of fedmq, and of foreign exceptions the class only.
What code of a task reports about its failure is sent too; `Session` omits it where the evaluations are limited.
"""

from typing import NamedTuple

from fedmq.errors import (
    BadData,
    CodeRefused,
    FedmqError,
    LearnerFailed,
    LeaveReason,
    LimitExceeded,
    PolicyRefused,
    QueryRefused,
    Rejected,
    one_line,
)

DETAIL_MAX = 200  # characters, as in `fedmq.protocol.messages.Text`


class Decline(NamedTuple):
    """The reason and detail of a Goodbye."""

    reason: LeaveReason
    detail: str = ""

    @property
    def is_final(self) -> bool:
        """Whether neither a new term of the run nor new rows can change it."""
        return self.reason == "evaluations"


def decline_of(error: BaseException) -> Decline:
    """Return why work that ended with this error is declined."""
    match error:
        case BadData():
            return _decline("rows", error.public)
        case LearnerFailed():
            return _decline("code", error.public)
        case LimitExceeded():
            return _decline("limit", error.detail)
        case PolicyRefused():
            return _decline("policy", str(error))
        case CodeRefused() | Rejected(reason="code"):
            return _decline("code", error.detail)
        case QueryRefused():
            return _decline("query", error.detail)
        case Rejected():
            return _decline("query", str(error))
        case FedmqError():
            return _decline("work", one_line(error))
        case _:
            return _decline("work", f"{type(error).__name__} in the work")


def _decline(reason: LeaveReason, detail: str) -> Decline:
    return Decline(reason, detail[:DETAIL_MAX])
