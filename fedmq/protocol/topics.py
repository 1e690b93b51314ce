"""Topics of messages: a prefix, and the name of a run or a trainer. A subscription is a prefix, too.

Trainers subscribe to `round/`, `beacon/`, `sum/` and their inbox `to/<trainer>/`; observers to `event/`, `snapshot/`,
`beacon/` and an inbox `watch/<token>/`; an aggregator to `up/<run>/` and `presence/`. A trainer pushes to `up/<run>`;
the broker appends the authenticated sender, which is empty without keys. Its first message over a new connection is
`here`.
"""

ROUNDS = "round/"  # + run; the broker keeps the newest
BEACONS = "beacon/"  # + run
SUMS = "sum/"  # + run; the broker keeps none
PUBLISHED = (ROUNDS, BEACONS, SUMS)  # subscriptions of a trainer, beside its inbox
EVENTS = "event/"  # + run
SNAPSHOTS = "snapshot/"  # + run; the broker keeps the newest
WATCH = "watch/"
WATCHED = (EVENTS, SNAPSHOTS, BEACONS)  # subscriptions of an observer
INBOX = "to/"
UP = "up/"  # + run
PRESENCE = "presence/"  # + trainer
HERE = "here"  # the only frame: the broker learns whose connection it is, and keeps it when it has to close some


def watch_of(token: str) -> str:
    """Return the inbox of one observer, for the newest snapshots; `token` is random and is no name."""
    return f"{WATCH}{token}/"


def inbox_of(trainer: str) -> str:
    """Return the private inbox of `trainer`; a trainer is present while it is subscribed to it.

    It ends with a slash, or the inbox of `al` would also receive messages for `alice`.
    """
    return f"{INBOX}{trainer}/"
