"""Checks of the way to the broker: its name, its ports, its door, and what is heard behind it.

Each failure has its own advice: a name that does not resolve, a port that refuses, one that is silent, a door that
stays shut. Knows nothing of runs but their names.
"""

from __future__ import annotations

import errno
import socket
import time

from fedmq import __version__
from fedmq.deploy.check_result import Finding, broken, fine, odd
from fedmq.errors import Rejected
from fedmq.protocol import topics
from fedmq.protocol.codec import decode
from fedmq.protocol.messages import PROTOCOL_VERSION, Beacon
from fedmq.security.keyring import Credentials
from fedmq.transport.address import PORTS, parse_address
from fedmq.transport.link import Delivered, LinkRefused, LinkUp
from fedmq.transport.zeromq import SubscriberSockets

CONNECT_S = 2.0
HANDSHAKE_S = 4.0  # libzmq's own patience, and a second
LISTEN_S = 1.0  # a live run sends a beacon four times a second
WITHOUT_KEYS = PORTS - 1


def check_ports(host: str, first: int) -> Finding | None:
    """Whether a broker could be started here; None when `host` is another machine."""
    taken = []
    for port in range(first, first + PORTS):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    return None
                taken.append(port)
    if taken:
        return broken(
            "ports",
            f"in use on {host}, and not by a broker that can be talked to: {', '.join(map(str, taken))}",
            f"ss -ltnp 'sport = :{taken[0]}' says by whom; end that, or: fedmq broker --port {first + 100}",
        )
    return fine("ports", f"{first} to {first + PORTS - 1} on {host} are free for a broker")


def check_way(address: str, *, wanted: bool, timeout_s: float = CONNECT_S) -> Finding:
    """Whether the broker's ports can be reached over TCP; that nobody is there is odd only, unless one was `wanted`."""
    host, first = parse_address(address)
    try:
        socket.getaddrinfo(host, first, type=socket.SOCK_STREAM)
    except OSError as error:
        return broken(
            "broker",
            f"{host}: the name does not resolve ({error.strerror})",
            f"check its spelling (getent hosts {host}), or use the number of its address",
        )
    answers = {port: _connect(host, port, timeout_s) for port in range(first, first + WITHOUT_KEYS)}
    failed = {port: answer for port, answer in answers.items() if answer}
    if not failed:
        return fine("broker", f"{host}: ports {first} to {first + WITHOUT_KEYS - 1} can be reached")
    port, answer = next(iter(failed.items()))
    if answer != "refused":
        return broken(
            "broker",
            f"{host}:{port}: {answer}",
            f"let TCP ports {first} to {first + PORTS - 1} through the firewalls between, and check the address",
        )
    if len(failed) < len(answers):
        return broken("broker", f"{host}:{port} refuses, others do not", "is --broker the first of its ports?")
    verdict = broken if wanted else odd
    return verdict(
        "broker",
        f"{host}:{first}: nobody listens",
        "start it there (fedmq broker, systemctl start fedmq-broker), or say with --broker where it is",
    )


def _connect(host: str, port: int, timeout_s: float) -> str:
    """How a connection fails; "" when it does not."""
    try:
        socket.create_connection((host, port), timeout_s).close()
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return f"no answer in {timeout_s:g} s"
    except OSError as error:
        return str(error.strerror or error)
    return ""


def check_door(address: str, credentials: Credentials | None, wait_s: float = HANDSHAKE_S) -> list[Finding]:
    """Whether the broker lets us in, and then what is heard there."""
    link = SubscriberSockets(address, topics.BEACONS, credentials=credentials)
    try:
        give_up_at = time.monotonic() + wait_s
        while (left_s := give_up_at - time.monotonic()) > 0:
            link.wait(left_s)
            for news in link.receive():
                if isinstance(news, LinkUp):
                    return [fine("door", f"the broker at {address} lets us in"), _listen(link)]
                if isinstance(news, LinkRefused):
                    return [_refused(address, credentials)]
    finally:
        link.close()
    return [
        broken(
            "door",
            f"something listens at {address}, and does not greet as a broker of fedmq does",
            "check the address; with keys, whether they are of this broker's federation (fedmq trainer join TOKEN)",
        )
    ]


def _refused(address: str, credentials: Credentials | None) -> Finding:
    if credentials is None:
        found = f"the broker at {address} wants keys, or is none"
        return broken("door", found, "join its federation: fedmq trainer join TOKEN, then --keys DIR")
    public = credentials.identity.public
    return broken(
        "door",
        f"the broker at {address} does not let in {public.role} {public.name}, or has no keys itself",
        f"on its machine: fedmq keys accept {public.fingerprint} (fedmq keys ls says who is in)",
    )


def _listen(link: SubscriberSockets) -> Finding:
    """What the first beacon says, if one comes."""
    give_up_at = time.monotonic() + LISTEN_S
    while (left_s := give_up_at - time.monotonic()) > 0:
        link.wait(left_s)
        for news in link.receive():
            if not isinstance(news, Delivered):
                continue
            try:
                message = decode(news.frames).message
            except Rejected as rejected:
                return broken(
                    "runs",
                    f"what is published cannot be read ({rejected.reason}): expected version {PROTOCOL_VERSION}",
                    f"install the same fedmq on all machines; here it is {__version__}",
                )
            if isinstance(message, Beacon):
                return fine("runs", f"run {message.run} is at round {message.round}")
    return fine("runs", "nobody publishes a run now")
