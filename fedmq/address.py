"""A broker's address, `tcp://HOST:PORT`: one host, five consecutive ports.

Knows nothing of sockets; light enough for a command line to import.
"""

from __future__ import annotations

from fedmq.errors import BadConfiguration

DEFAULT_PORT = 5550
DEFAULT_ADDRESS = f"tcp://127.0.0.1:{DEFAULT_PORT}"
PORTS = 5  # XSUB, XPUB, PULL, XPUB, and with keys ROUTER


def parse_address(address: str) -> tuple[str, int]:
    """Host and first port of a broker's address.

    Raises:
        BadConfiguration: it is not such an address, one of IPv6, or the last of the consecutive ports does not exist.
    """
    scheme, _, rest = address.partition("://")
    host, _, port = rest.rpartition(":")
    if scheme != "tcp" or not host or not port.isdecimal() or not 1 <= int(port) <= 65536 - PORTS:
        raise BadConfiguration(f"expected a broker address like {DEFAULT_ADDRESS}, got {address!r}")
    if set(host) & set(":[]"):
        raise BadConfiguration(
            f"expected a broker's name or IPv4 address, got {host}: IPv6 is not spoken; use its name"
        )
    return host, int(port)
