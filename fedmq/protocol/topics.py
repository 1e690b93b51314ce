"""Topics of messages. The kind comes first, because a subscription is a prefix.

Trainers subscribe to `round/`, `beacon/` and their inbox `to/<trainer>/`; observers to `event/`, `snapshot/`, `beacon/`
and an inbox `watch/<token>/`; an aggregator to `up/<run>/` and `presence/`. A trainer pushes to `up/<run>`; the broker
appends the authenticated sender, which is empty without keys.
"""

from __future__ import annotations

ROUNDS = "round/"
BEACONS = "beacon/"
EVENTS = "event/"
SNAPSHOTS = "snapshot/"
WATCH = "watch/"
WATCHED = (EVENTS, SNAPSHOTS, BEACONS)  # subscriptions of an observer
INBOX = "to/"
UP = "up/"
PRESENCE = "presence/"


def round_of(run: str) -> str:
    """Return the topic of the rounds of `run`; the broker keeps the newest."""
    return ROUNDS + run


def beacon_of(run: str) -> str:
    """Return the topic of the beacons of `run`."""
    return BEACONS + run


def events_of(run: str) -> str:
    """Return the topic of the events of `run`."""
    return EVENTS + run


def snapshot_of(run: str) -> str:
    """Return the topic of the snapshots of `run`; the broker keeps the newest."""
    return SNAPSHOTS + run


def watch_of(token: str) -> str:
    """Return the inbox of one observer, for the newest snapshots; `token` is random and is no name."""
    return f"{WATCH}{token}/"


def inbox_of(trainer: str) -> str:
    """Return the private inbox of `trainer`; a trainer is present while it is subscribed to it.

    It ends with a slash, or the inbox of `al` would also receive messages for `alice`.
    """
    return f"{INBOX}{trainer}/"


def up_to(run: str) -> str:
    """Return the topic under which a trainer pushes messages to the aggregator of `run`."""
    return UP + run


def presence_of(trainer: str) -> str:
    """Return the topic of the Presence of `trainer`."""
    return PRESENCE + trainer
