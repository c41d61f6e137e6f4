"""The proxies that the environment names: HTTP_PROXY, HTTPS_PROXY and NO_PROXY.

They mean what they mean to programs written in Go (golang.org/x/net/http/httpproxy), with two
differences: spaces separate too, and what cannot be understood is an error, where Go goes on
without it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

from telemeter.net.url import DEFAULT_PORTS

_HOST: Final = re.compile(r"[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?\.?")
_HOST_AND_PORT: Final = re.compile(r"(?:\[(?P<six>[^\[\]]+)\]|(?P<host>[^:\[\]]*)):(?P<port>.*)")

Address = IPv4Address | IPv6Address


@dataclass(frozen=True)
class Proxy:
    """A proxy.

    Attributes:
        host: its name or IP address.
        port: its TCP port.
        secure: whether it is spoken to over TLS.
        variable: the environment variable that names it, for messages.
        authorization: the value of Proxy-Authorization, if it is to be given. It is a secret.
    """

    host: str
    port: int
    secure: bool = False
    variable: str = "HTTPS_PROXY"
    authorization: bytes | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """HOST:PORT."""
        return host_and_port(self.host, self.port)


@dataclass(frozen=True)
class Exclusion:
    """One entry of NO_PROXY: a host, a domain or a network that is reached directly.

    Attributes:
        network: the addresses; None: it is about names.
        domain: the end of the names, with a dot at its beginning; empty: it is about addresses.
        itself: whether the domain itself is meant too, and not only what is below it.
        port: the only port that is meant; None: all.
    """

    network: IPv4Network | IPv6Network | None = None
    domain: str = ""
    itself: bool = False
    port: int | None = None

    def covers(self, host: str, address: Address | None, port: int) -> bool:
        """Return whether a target is meant: a host name in lower case, or an address."""
        if self.port not in (None, port):
            return False
        if address is not None:
            return self.network is not None and address in self.network
        return bool(self.domain) and (
            host.endswith(self.domain) or (self.itself and host == self.domain[1:])
        )


class Proxies:
    """The proxies for http and https, and what is reached without them."""

    def __init__(
        self,
        http: Proxy | None = None,
        https: Proxy | None = None,
        exclusions: tuple[Exclusion, ...] = (),
        *,
        exclude_all: bool = False,
    ) -> None:
        """Make a choice of proxies.

        Args:
            http: for URLs that begin with http://.
            https: for URLs that begin with https://.
            exclusions: what is reached directly, in addition to localhost and loopback addresses.
            exclude_all: use no proxy at all.
        """
        self.http = None if exclude_all else http
        self.https = None if exclude_all else https
        self._exclusions = exclusions

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Proxies:
        """Return what HTTP_PROXY, HTTPS_PROXY and NO_PROXY say.

        Each may be written in lower case; upper case wins. An empty one counts as none.

        Raises:
            ValueError: one of them is malformed. The message names it, and shows no password.
        """
        proxies: dict[str, Proxy | None] = {}
        for scheme in ("http", "https"):
            variable, value = _read(environ, f"{scheme}_proxy")
            proxies[scheme] = _parse_proxy(variable, value) if value else None
        if not any(proxies.values()):
            return cls()  # NO_PROXY says nothing then.
        variable, value = _read(environ, "no_proxy")
        entries = [entry for entry in re.split(r"[,\s]+", value.lower()) if entry]
        exclusions = []
        for entry in entries:
            try:
                if entry != "*":
                    exclusions.append(_parse_exclusion(entry))
            except ValueError:
                # Somebody may have mistaken it for the variable of a proxy with its password.
                shown = "one of them" if "@" in value else repr(entry)
                raise ValueError(
                    f"{variable}: expected hosts, domains, IP addresses or networks such as "
                    "10.0.0.0/8, each with or without :PORT, with commas between them, or *; "
                    f"{shown} is none of these"
                ) from None
        return cls(proxies["http"], proxies["https"], tuple(exclusions), exclude_all="*" in entries)

    def __bool__(self) -> bool:
        """Return whether there is any proxy."""
        return self.http is not None or self.https is not None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(http={self.http}, https={self.https})"

    def proxy_to(self, scheme: str, host: str, port: int) -> Proxy | None:
        """Return the proxy for a server; None: it is reached directly.

        Args:
            scheme: http or https.
            host: a name, or an IP address without brackets.
            port: a TCP port.
        """
        proxy = {"http": self.http, "https": self.https}.get(scheme)
        if proxy is None:
            return None
        host = _ascii(host.lower()).removesuffix(".")
        address = _address(host)
        if host == "localhost" or (address is not None and address.is_loopback):
            return None
        if any(exclusion.covers(host, address, port) for exclusion in self._exclusions):
            return None
        return proxy


def host_and_port(host: str, port: int) -> str:
    """HOST:PORT, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _read(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    """Return the variable that counts, and its value."""
    for variable in (name.upper(), name):
        if value := environ.get(variable, "").strip():
            return variable, value
    return name.upper(), ""


def _parse_proxy(variable: str, value: str) -> Proxy:
    """Parse a proxy's URL; no error shows a part of it, since any may be of the password."""
    problem = ValueError(
        f"{variable}: expected HOST:PORT, or a URL such as http://USER:PASSWORD@HOST:PORT (http or "
        "https, no path; special characters of user and password percent-encoded)"
    )
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        host, port = _ascii((parts.hostname or "").lower()), parts.port
    except ValueError:
        raise problem from None
    if (
        parts.scheme not in DEFAULT_PORTS
        or "%" in host  # the zone of an IPv6 address
        or not (_HOST.fullmatch(host) or _address(host))
        or port == 0
        or parts.path not in ("", "/")
        or "?" in value
        or "#" in value
        or not value.isprintable()
    ):
        raise problem
    return Proxy(
        host,
        port or DEFAULT_PORTS[parts.scheme],
        secure=parts.scheme == "https",
        variable=variable,
        authorization=_authorization(parts),
    )


def _authorization(parts: SplitResult) -> bytes | None:
    if parts.username is None:
        return None
    pair = unquote_to_bytes(parts.username) + b":" + unquote_to_bytes(parts.password or "")
    return b"Basic " + base64.b64encode(pair)


def _parse_exclusion(entry: str) -> Exclusion:
    """One entry of NO_PROXY, in lower case; raises ValueError."""
    if "/" in entry:
        return Exclusion(ip_network(entry, strict=False))
    if address := _address(_without_brackets(entry)):
        return Exclusion(ip_network(address))
    host, port = entry, None
    if parts := _HOST_AND_PORT.fullmatch(entry):
        host, port = parts["host"], _port(parts["port"])
        if address := _address(parts["six"] or host):
            return Exclusion(ip_network(address), port=port)
        if host is None:
            raise ValueError
    host = host.removeprefix("*")
    if not host.strip(".") or set(host) & set(":[]@"):
        raise ValueError
    domain = _ascii(host.removesuffix("."))
    if domain.startswith("."):
        return Exclusion(domain=domain, port=port)
    return Exclusion(domain=f".{domain}", itself=True, port=port)


def _without_brackets(entry: str) -> str:
    """Return an IPv6 address as it is, also where it is written as in a URL."""
    inside = entry[1:-1]
    return inside if entry == f"[{inside}]" and ":" in inside else entry


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 0 < int(text) < 65536:
        raise ValueError
    return int(text)


def _address(host: str) -> Address | None:
    """Return the IP address that a text is, if it is one.

    An IPv4 address in the clothes of IPv6 counts as what it is.
    """
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _ascii(name: str) -> str:
    """Return a host name as DNS has it: other letters than ASCII's encoded."""
    if name.isascii():
        return name
    try:
        return "".join(
            part if part == "." else part.encode("idna").decode("ascii")
            for part in re.split(r"(\.)", name)
            if part
        )
    except UnicodeError:
        return name
