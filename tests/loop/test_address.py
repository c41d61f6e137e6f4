"""Addresses as getaddrinfo finds them."""

from __future__ import annotations

import pytest

from telemeter.loop.address import host_of


@pytest.mark.parametrize(
    ("address", "host"),
    [
        (("192.0.2.1", 80), "192.0.2.1"),
        (("2001:db8::1", 80, 0, 0), "2001:db8::1"),
        (("fe80::1", 80, 0, 4), "fe80::1%4"),
        (("fe80::1%eth0", 80, 0, 4), "fe80::1%eth0"),
    ],
)
def test_a_host(address: tuple[object, ...], host: str) -> None:
    assert host_of(address) == host
