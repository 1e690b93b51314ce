"""Check of the `Host` header: no page of another site can call a server under its own name (DNS rebinding)."""

import ipaddress
import socket


def names_of_host(host: str, address: str) -> set[str]:
    """Return the names and addresses of a server that was asked to listen on `host` and is bound to `address`."""
    bound = ipaddress.ip_address(address)
    names = {host.lower(), f"[{address}]" if bound.version == 6 else address}
    if bound.is_loopback or bound.is_unspecified:
        names.add("localhost")
    if not bound.is_loopback:
        names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
    return names


def is_allowed_host(host: str, names: set[str], *, any_address: bool) -> bool:
    """Return whether a `Host` header is one of `names`, or, with `any_address`, any IP address."""
    name = host.lower()
    if name.startswith("["):
        name = name.partition("]")[0] + "]"
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    if name in names:
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return any_address  # DNS cannot rebind an IP address
