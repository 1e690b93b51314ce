"""A trainer's new key takes the place of its old one: asked for over the old one's connection, and signed by both.

The new key lies beside the old one until it is accepted, so that whatever happens meanwhile, doing it again goes on.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedmq.security.keyring import NEXT_SUFFIX, adopt_next, drop_next, read_credentials, read_identity, write_identity
from fedmq.security.keys import Identity

if TYPE_CHECKING:
    from fedmq.security.enrollment import RequestStatus


def rotate_trainer(folder: Path, timeout_s: float | None) -> tuple[Identity, RequestStatus | None]:
    """The new identity, and how its request ended; None when the broker lets in neither key.

    Raises:
        BadConfiguration: there is no trainer's key in the folder.
        Unreachable: the broker was not there in the time that was allowed.
    """
    from fedmq.security.enrollment_client import ask_broker
    from fedmq.transport.zeromq import TransportKeys

    federation, old = read_credentials(folder, "trainer")
    new = read_identity(folder, "trainer", NEXT_SUFFIX)
    if new is None:
        new = Identity.new(old.role, old.name)
        write_identity(folder, new, NEXT_SUFFIX)

    def tell(status: RequestStatus) -> None:
        click.echo(f"waiting: {status.detail}")

    # The old key first; over the new one, if only the answer was lost.
    for signers in ((new, old), (new,)):
        asks = signers[-1]
        keys = TransportKeys(asks.public.transport, asks.transport_secret, federation.broker_key)
        last = ask_broker(federation, keys, signers, tell, timeout_s=timeout_s)
        if last.interrupted:
            click.echo("not replaced yet; the same command goes on", err=True)
            raise SystemExit(1)
        if last.answer is not None and last.answer.state != "rejected":
            break
    status = last.answer
    if status is not None and status.state == "accepted":
        adopt_next(folder, "trainer")
    elif status is not None:
        drop_next(folder, "trainer")
    return new, status
