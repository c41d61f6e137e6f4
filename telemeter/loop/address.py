"""Addresses as `socket.getaddrinfo` finds them."""

from __future__ import annotations


def host_of(address: tuple[object, ...]) -> str:
    """Return the IP address of a socket address; one of IPv6 has its zone behind it, if it has one.

    Args:
        address: the last field of an entry of `socket.getaddrinfo`. Its host has no zone in it.
    """
    host = str(address[0])
    zone = address[3] if len(address) > 3 else 0
    return f"{host}%{zone}" if zone and "%" not in host else host
