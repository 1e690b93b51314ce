"""Whose name the `Host` of a request may be: no page of another site gets here by a name of its own (DNS rebinding).

Knows what a server is bound to, nothing of what it serves.
"""

from __future__ import annotations

import ipaddress
import socket


def names_of(host: str, address: str) -> set[str]:
    """The names and addresses of a server that was to listen on `host`, and is bound to `address`."""
    bound = ipaddress.ip_address(address)
    names = {host.lower(), f"[{address}]" if bound.version == 6 else address}
    if bound.is_loopback or bound.is_unspecified:
        names.add("localhost")
    if not bound.is_loopback:
        names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
    return names


def is_ours(host: str, names: set[str], *, any_address: bool) -> bool:
    """Whether a request with this `Host` is meant for a server of these names; with `any_address`, of all addresses."""
    name = _without_port(host).lower()
    if name in names:
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return any_address  # an address is nobody's name: it cannot be bound again to another


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.rpartition(":")[0] if host.count(":") == 1 else host
