"""Topics: the names that messages travel under. The kind goes first, because a subscription is a prefix.

Trainers subscribe to `round/`, `beacon/` and their own inbox `to/<trainer>/`; observers to `event/`, `snapshot/`,
`beacon/` and an inbox `watch/<token>/`; an aggregator to `up/<run>/` and `presence/`. A trainer pushes to `up/<run>`,
and the broker appends the sender that it has authenticated (nothing as long as there are no keys).
"""

from __future__ import annotations

ROUNDS = "round/"
BEACONS = "beacon/"
EVENTS = "event/"
SNAPSHOTS = "snapshot/"
WATCH = "watch/"
WATCHED = (EVENTS, SNAPSHOTS, BEACONS)  # what an observer hears
INBOX = "to/"
UP = "up/"
PRESENCE = "presence/"


def round_of(run: str) -> str:
    """Where the rounds of `run` are published; the broker keeps the newest."""
    return ROUNDS + run


def beacon_of(run: str) -> str:
    """Where the beacons of `run` are published."""
    return BEACONS + run


def events_of(run: str) -> str:
    """Where what happens in `run` is told."""
    return EVENTS + run


def snapshot_of(run: str) -> str:
    """Where all that has happened in `run` is told at once, from time to time; the broker keeps the newest."""
    return SNAPSHOTS + run


def watch_of(token: str) -> str:
    """An inbox of one observer, for the newest snapshots; `token` is its own choice, and nobody's name."""
    return f"{WATCH}{token}/"


def inbox_of(trainer: str) -> str:
    """The private inbox of `trainer`; having it subscribed is what presence means.

    It ends with a slash: else who has the inbox of `al` would hear what is for `alice`.
    """
    return f"{INBOX}{trainer}/"


def up_to(run: str) -> str:
    """Where a trainer pushes what is for the aggregator of `run`."""
    return UP + run


def presence_of(trainer: str) -> str:
    """Where the broker says that `trainer` came or went."""
    return PRESENCE + trainer
