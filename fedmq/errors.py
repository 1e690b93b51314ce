"""The exceptions of fedmq: one root, one-sentence leaves, each with the exit code of the command that ends by it.

Knows nothing of the parts that raise them.
"""

from __future__ import annotations

from typing import ClassVar, Literal

RejectReason = Literal[
    "frames",  # too few or too many frames for the message
    "header-size",  # the header frame is longer than the limit
    "header",  # the header is no valid message
    "version",  # the message or the trainer needs a protocol version that this side does not read
    "signature",  # not signed by the key of who alone may say it
    "sender",  # in the name of somebody else, or of nobody who is let in
    "names",  # a name in the header is not a legal name, or not the one that the topic says
    "arrays",  # the arrays are not those that this kind of message has
    "dtype",  # a dtype outside of the closed set
    "shape",  # more than two dimensions, a negative or an absurd one, or not the one expected here
    "nbytes",  # the claimed size, the shape and the frame disagree, or are over the limit
    "sha256",  # the frame's bytes are not those that the header describes
    "not-finite",  # NaN or infinity
    "values",  # numbers that cannot be: a negative loss, more correct rows than rows
    "run",  # another run than the one that listens
    "term",  # from an older life of the aggregator, or from one that has not been yet
    "round",  # a round that has not been published, or is too old to be used
    "model-digest",  # computed on another model than the round published
    "barred",  # of a trainer that an operator keeps out of the run
    "query",  # a query of a kind that this trainer does not know, or with wrong fields
    "code",  # Python code that this trainer does not run, or that failed when it did
]

SEARCH_IS_GONE = (  # of a Task, in the files of users
    "search: expected the parameters of an algorithm, got search=Search(...): "
    'write Task(..., parameters={"evolution": {"population": 200}})'
)


class FedmqError(Exception):
    """Root of all errors of fedmq."""

    exit_code: ClassVar[int] = 1


class Unreachable(FedmqError):
    """The broker did not answer within the time that was allowed."""

    exit_code = 69


class NotAuthorized(FedmqError):
    """The broker does not let this key in, or wants one where there is none."""

    exit_code = 77


class BadConfiguration(FedmqError):
    """A file, a flag or rows that cannot be used: says what was expected, what came and what to do."""

    exit_code = 78


class BadData(BadConfiguration):
    """The rows of a trainer cannot be used for the task."""


class StoreError(BadConfiguration):
    """The store of a run cannot be opened or does not belong to this run."""


class ProtocolError(FedmqError):
    """Local misuse: this side tried to send what the protocol does not allow."""


class Rejected(FedmqError):
    """Remote misbehaviour: what came over the wire is not acceptable.

    `reason` is one of a closed set, so that rejections can be counted; the text is for people.
    """

    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: RejectReason = reason
        self.detail = detail


class CodeRefused(Rejected):
    """This trainer does not run the code that scores a run: says which flag and which key would change that."""

    def __init__(self, detail: str) -> None:
        super().__init__("code", detail)


class QueryRefused(Rejected):
    """This trainer cannot answer the query of a run: an unknown kind, or fields that are wrong for it."""

    def __init__(self, detail: str) -> None:
        super().__init__("query", detail)


class WorkCancelled(FedmqError):
    """A newer round made the local work needless."""


def one_line(error: BaseException) -> str:
    """What an error says, without line breaks."""
    return " ".join(str(error).split())


def named(error: BaseException) -> str:
    """Of which kind an error is and what it says, without line breaks: `KeyError: 'x'`."""
    return f"{type(error).__name__}: {one_line(error)}"
