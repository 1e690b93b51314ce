"""Checks of the connection to the broker: its name, its ports, access with or without keys, and published runs.

Each failure has its own advice: the name does not resolve, a port refuses or does not answer, access is denied.
"""

import errno
import socket
import time
from contextlib import closing

from fedmq import __version__
from fedmq.deploy.local_checks import CheckResult, ok, problem, warning
from fedmq.errors import Rejected
from fedmq.protocol import topics
from fedmq.protocol.codec import decode
from fedmq.protocol.messages import PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, Beacon
from fedmq.security.keyring import Credentials
from fedmq.transport.address import PORTS, parse_address
from fedmq.transport.link import Delivered, LinkDown, LinkRefused, LinkUp
from fedmq.transport.zeromq import SubscriberSockets

CONNECT_S = 2.0
HANDSHAKE_S = 4.0  # libzmq's own limit and one second
CLOSED_MAX = 3  # connections: a broker with other credentials reports that it refuses them, or only closes, at random
LISTEN_S = 1.0  # a live run sends a beacon four times a second
WITHOUT_KEYS = PORTS - 1


def check_ports(host: str, first: int) -> CheckResult | None:
    """Check that a broker can start on these ports; None if `host` is another machine."""
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
        found = f"in use on {host} by a process that is not a reachable broker: {', '.join(map(str, taken))}"
        advice = f"ss -ltnp 'sport = :{taken[0]}' names the process; stop it, or: fedmq broker --port {first + 100}"
        return problem("ports", found, advice)
    return ok("ports", f"{first} to {first + PORTS - 1} on {host} are free for a broker")


def check_reachable(address: str, *, wanted: bool, timeout_s: float = CONNECT_S) -> CheckResult:
    """Check that the broker's ports accept TCP; a missing broker is only a warning unless it is `wanted`."""
    host, first = parse_address(address)
    try:
        socket.getaddrinfo(host, first, type=socket.SOCK_STREAM)
    except OSError as error:
        advice = f"check its spelling (getent hosts {host}), or use its IP address"
        return problem("broker", f"{host}: the name does not resolve ({error.strerror})", advice)
    answers = {port: _connect(host, port, timeout_s) for port in range(first, first + WITHOUT_KEYS)}
    failed = {port: answer for port, answer in answers.items() if answer}
    if not failed:
        return ok("broker", f"{host}: ports {first} to {first + WITHOUT_KEYS - 1} are reachable")
    port, answer = next(iter(failed.items()))
    if answer != "refused":
        advice = f"allow TCP ports {first} to {first + PORTS - 1} in the firewalls between, and check the address"
        return problem("broker", f"{host}:{port}: {answer}", advice)
    if len(failed) < len(answers):
        advice = "check that --broker names the first of the ports"
        return problem("broker", f"{host}:{port} refuses, other ports do not", advice)
    advice = "start the broker (fedmq broker, systemctl start fedmq-broker), or give its address with --broker"
    return (problem if wanted else warning)("broker", f"{host}:{first}: connection refused", advice)


def _connect(host: str, port: int, timeout_s: float) -> str:
    """Return why a connection fails, "" if it succeeds."""
    try:
        socket.create_connection((host, port), timeout_s).close()
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return f"no answer in {timeout_s:g} s"
    except OSError as error:
        return str(error.strerror or error)
    return ""


def check_access(address: str, credentials: Credentials | None, wait_s: float = HANDSHAKE_S) -> list[CheckResult]:
    """Check that the broker accepts the connection, then report a published run."""
    with closing(SubscriberSockets(address, topics.BEACONS, credentials=credentials)) as link:
        deadline, closed = time.monotonic() + wait_s, 0
        while (left_s := deadline - time.monotonic()) > 0:
            link.wait(left_s)
            for event in link.receive():
                closed += isinstance(event, LinkDown)
                if isinstance(event, LinkUp):
                    return [ok("access", f"the broker at {address} accepts the connection"), _published_run(link)]
                if isinstance(event, LinkRefused) or closed >= CLOSED_MAX:
                    return [_refused(address, credentials)]
    found = f"{address} accepts TCP connections, but does not answer as a fedmq broker"
    advice = "check the address, and that the keys belong to its federation (fedmq trainer join)"
    return [problem("access", found, advice)]


def _refused(address: str, credentials: Credentials | None) -> CheckResult:
    if credentials is None:
        found = f"the broker at {address} requires keys, or is not a fedmq broker"
        return problem("access", found, "join its federation: fedmq trainer join, then --keys DIR")
    public = credentials.identity.public
    advice = f"on its machine: fedmq keys accept {public.fingerprint} (fedmq keys ls lists the members)"
    found = f"the broker at {address} rejects {public.role} {public.name}, runs without keys, or is not one of fedmq"
    return problem("access", found, advice)


def _published_run(link: SubscriberSockets) -> CheckResult:
    """Report the first beacon within LISTEN_S."""
    deadline = time.monotonic() + LISTEN_S
    while (left_s := deadline - time.monotonic()) > 0:
        link.wait(left_s)
        for event in link.receive():
            if not isinstance(event, Delivered):
                continue
            try:
                message = decode(event.frames).message
            except Rejected as rejected:
                versions = f"{PROTOCOL_VERSION_MIN} to {PROTOCOL_VERSION}"
                found = f"a published message is not readable ({rejected.reason}): expected protocol version {versions}"
                return problem("runs", found, f"install the same fedmq on all machines; here it is {__version__}")
            if isinstance(message, Beacon):
                return ok("runs", f"run {message.run} is at round {message.round}")
    return ok("runs", "no run is published now")
