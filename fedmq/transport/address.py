"""A broker's address, `tcp://HOST:PORT` or `HOST:PORT`: one host, five consecutive ports.

Cheap to import for the command line.
"""

import re

from fedmq.errors import BadConfiguration

DEFAULT_PORT = 5550
DEFAULT_ADDRESS = f"tcp://127.0.0.1:{DEFAULT_PORT}"
PORTS = 5  # XSUB, XPUB, PULL, XPUB, and with keys ROUTER

_ADDRESS = re.compile(r"(?:tcp://)?(?P<host>[A-Za-z0-9._:%\[\]-]+):(?P<port>[0-9]{1,5})/?")


def parse_address(address: str) -> tuple[str, int]:
    """Return host and first port of a broker's address.

    Raises:
        BadConfiguration: it is no such address, is of IPv6, or its last port exceeds 65535.
    """
    parts = _ADDRESS.fullmatch(address)
    if parts is None or not 1 <= int(parts["port"]) <= 65536 - PORTS:
        raise BadConfiguration(f"expected a broker address like {DEFAULT_ADDRESS}, got {address!r:.80}")
    host = parts["host"]
    if set(host) & set(":[]%"):
        raise BadConfiguration(f"expected a broker's name or IPv4 address, got {host:.80}: IPv6 is not supported")
    return host, int(parts["port"])


def full_address(address: str) -> str:
    """Return the address in the form `tcp://HOST:PORT`.

    Raises:
        BadConfiguration: as `parse_address`.
    """
    host, port = parse_address(address)
    return f"tcp://{host}:{port}"
