"""The exceptions of fedmq: one root, and leaves with the exit code of the command that they end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

RejectReason = Literal[
    "frames",  # too few or too many frames
    "header-size",  # the header frame is longer than the limit
    "header",  # the header is no valid message
    "version",  # the message or the trainer needs a protocol version that this side does not read
    "signature",  # not signed by the key of the only sender that may send it
    "sender",  # in the name of another sender, or of no member
    "names",  # an invalid name in the header, or another one than in the topic
    "arrays",  # other arrays than this message has
    "dtype",  # a dtype outside the closed set
    "shape",  # more than two dimensions, a negative or an absurd one, or an unexpected one
    "nbytes",  # declared size, shape and frame disagree, or exceed the limit
    "sha256",  # the frame differs from the hash in the header
    "not-finite",  # NaN or infinity
    "values",  # impossible numbers: a negative loss, more correct rows than rows
    "run",  # another run than the receiver's
    "term",  # an old term, or one that has not started
    "round",  # a round that is not published yet, or too old
    "model-digest",  # computed from another model than the round's
    "barred",  # from a trainer that is banned from the run
    "duplicate",  # from one of several trainers that use one name
    "uninvited",  # from a trainer that the round or the run does not ask
    "query",  # a query of an unknown kind, or with wrong fields
    "code",  # Python code that this trainer does not run, or that failed
]

LeaveReason = Literal[
    "leaving",  # its operator stops it
    "rows",  # its rows do not fit the task
    "evaluations",  # its --max-evaluations are used up
    "code",  # Python code that it does not run, or that failed
    "query",  # a query of an unknown kind, or with wrong fields
    "work",  # its work failed: it diverged, raised an exception or used up the memory
    "limit",  # a round that asks for more memory or time than it gives
    "policy",  # a question that its site does not permit
    "duplicate",  # another process has its name
    "other",  # a reason that this version does not know
]

SEARCH_IS_GONE = (  # of a Task, in the files of users
    "search: expected the parameters of an algorithm, got search=Search(...): "
    'write Task(..., parameters={"evolution": {"population": 200}})'
)


RENAMED_KEYWORDS = {  # in the task files of users
    "search": SEARCH_IS_GONE,
    "genes": "genes: expected Code(num_parameters=...), got Code(genes=...): rename it",
}


class FedmqError(Exception):
    """Root of all errors of fedmq."""

    exit_code: ClassVar[int] = 1


class Unreachable(FedmqError):
    """The broker did not answer within `--connect-timeout`."""

    exit_code = 69


class RunFailed(FedmqError):
    """A run that cannot go on: its trainers declined it or left it, or their work fails."""

    exit_code = 70


class TooFewTrainers(FedmqError):
    """Not enough trainers were present within `--wait`; the same command may succeed later."""

    exit_code = 75


class NotAuthorized(FedmqError):
    """The broker refuses this key, or a connection without one."""

    exit_code = 77


class OutputClosed(FedmqError):
    """The reader of the output has gone, as after `| head -1`; no line reports it."""

    exit_code = 141  # as shells report SIGPIPE


class BadConfiguration(FedmqError):
    """A file, an option or rows that cannot be used: expected X, got Y, do Z."""

    exit_code = 78


class BadData(BadConfiguration):
    """The rows of a trainer cannot be used for the task.

    `public` is what other machines may learn about it: no value of a row, and no path.
    """

    def __init__(self, text: str, public: str = "the rows cannot be used") -> None:
        super().__init__(text)
        self.public = public


class BadTable(BadData):
    """The columns or cells of a table do not fit the task.

    `faults` has one line for each kind of fault in each column; the text has the first of them.
    """

    SHOWN_MAX: ClassVar[int] = 8

    def __init__(self, source: str, faults: Sequence[str], public: Sequence[str]) -> None:
        super().__init__(f"{source}: {self._joined(faults)}", self._joined(public))
        self.faults = tuple(faults)

    def _joined(self, lines: Sequence[str]) -> str:
        more = len(lines) - self.SHOWN_MAX
        return "; ".join(lines[: self.SHOWN_MAX]) + (f"; and {more} more faults" if more > 0 else "")


class StoreError(BadConfiguration):
    """The store of a run cannot be opened or does not belong to this run."""


class ProtocolError(FedmqError):
    """Local misuse: this process tried to send an invalid message."""


class Rejected(FedmqError):
    """Remote misbehavior: a received message is not acceptable.

    `reason` is one of a closed set, so that rejections can be counted.
    """

    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: RejectReason = reason
        self.detail = detail


class CodeRefused(Rejected):
    """This trainer does not run the code of a run; the detail names the option and the key that permit it."""

    def __init__(self, detail: str) -> None:
        super().__init__("code", detail)


class QueryRefused(Rejected):
    """This trainer cannot answer the query of a run: its kind is unknown, or its fields are wrong."""

    def __init__(self, detail: str) -> None:
        super().__init__("query", detail)


class LimitExceeded(Rejected):
    """A round asks for more memory or time than this machine gives."""

    def __init__(self, detail: str) -> None:
        super().__init__("values", detail)


class PolicyRefused(FedmqError):
    """A question that this site does not permit; the message has no cell of its rows."""


class WorkError(FedmqError):
    """The work of a round has no usable outcome: it diverged, or the model cannot be trained in this way."""


class LearnerFailed(WorkError):
    """The training or scoring code of this site failed; the text names file and line.

    `public` is what other machines may learn about it: no message of an exception, which may quote a row.
    """

    def __init__(self, text: str, public: str | None = None) -> None:
        super().__init__(text)
        self.public = text if public is None else public


class WorkCancelled(FedmqError):
    """A newer round made the local work obsolete."""


def leave_reason(reason: str) -> Literal["", LeaveReason]:
    """Return the reason of a Goodbye, or "other" if this version does not know it; "" is of an older trainer."""
    known: tuple[Literal["", LeaveReason], ...] = ("", *get_args(LeaveReason))
    return next((one for one in known if one == reason), "other")


def one_line(error: BaseException) -> str:
    """Return the message of an error without line breaks."""
    return " ".join(str(error).split())


def named(error: BaseException) -> str:
    """Return class and message of an error without line breaks: `KeyError: 'x'`."""
    return f"{type(error).__name__}: {one_line(error)}"
