"""Valid addresses of a broker."""

from __future__ import annotations

import pytest

from fedmq.errors import BadConfiguration
from fedmq.transport.address import full_address, parse_address


@pytest.mark.parametrize("host", ["127.0.0.1", "broker.example.org", "localhost", "my_host-2"])
def test_address_has_a_host_and_a_first_port(host: str) -> None:
    assert parse_address(f"tcp://{host}:5550") == (host, 5550)


@pytest.mark.parametrize("address", ["h:5550", "tcp://h:5550/", "h:5550/", "tcp://h:5550"])
def test_address_may_omit_its_scheme_and_end_with_a_slash(address: str) -> None:
    assert parse_address(address) == ("h", 5550)
    assert full_address(address) == "tcp://h:5550"


@pytest.mark.parametrize(
    "address",
    [
        *("tcp://*:5550", "tcp://a b:5550", "tcp://;:5550", "tcp://a/b:5550", "tcp://é:5550", "tcp://:5550"),
        *(
            "a",
            "ipc://a:5550",
            "http://a:5550",
            "tcp://a:5550//",
            "a:5550/b",
            "tcp://a",
            "tcp://a:0",
            "tcp://a:65532",
            "tcp://a:٥٥٥٠",
            "tcp://a:5550\n",
        ),
    ],
)
def test_invalid_address_is_an_error(address: str) -> None:
    with pytest.raises(BadConfiguration, match="expected a broker address like tcp://127"):
        parse_address(address)


@pytest.mark.parametrize("host", ["[::1]", "[fe80::1%eth0]"])
def test_ipv6_address_is_an_error(host: str) -> None:
    with pytest.raises(BadConfiguration, match="IPv6"):
        parse_address(f"tcp://{host}:5550")
