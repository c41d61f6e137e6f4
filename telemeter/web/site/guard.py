"""The guard of a listener for operators, against strangers and against web pages of strangers.

A page on the web can make a browser send requests to any address that the browser can reach. If it
has its own name stand for such an address (DNS rebinding), it can read the answers, too. Such
requests carry that name as their `Host`.
"""

from __future__ import annotations

import hmac
import re
import socket
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from threading import Thread
from typing import Final
from urllib.parse import urlsplit

from twisted.web.iweb import IRequest

from telemeter.web.settings import OperatorSettings
from telemeter.web.site.admission import SiteRoute
from telemeter.web.site.refused import Refused

#: The methods that change nothing.
_SAFE: Final = frozenset((b"GET", b"HEAD"))
_SHOWN: Final = 100


class Guard:
    """The rules for requests to a listener for operators.

    Attributes:
        settings: who is let in; may be replaced.
    """

    def __init__(
        self, settings: OperatorSettings, names: Callable[[], Iterable[str]] | None = None
    ) -> None:
        """Make it.

        Args:
            settings: who is let in.
            names: returns the names of this machine, in lower case; None: asks the system.
        """
        self.settings = settings
        self._names = names or MachineNames()

    def check(self, request: IRequest, route: SiteRoute) -> None:
        """Let a request pass, or not.

        Raises:
            Refused: 401 without the right token, 403 for what comes from another site.
        """
        headers = request.requestHeaders
        hosts = headers.getRawHeaders(b"Host", ())
        host = hosts[0].decode("latin-1").strip().lower() if hosts else ""
        if not route.any_host and not self._is_ours(host):
            raise Refused(
                403,
                f"this listener answers to addresses, to localhost, to the machine's name, and to "
                f"what --internal-host names; the Host header names {host[:_SHOWN]!r}",
            )
        if request.method not in _SAFE:
            site = headers.getRawHeaders(b"Sec-Fetch-Site", (b"",))[0].strip().lower()
            origins = headers.getRawHeaders(b"Origin", ())
            if site == b"cross-site" or any(_host_of(each) != host for each in origins):
                raise Refused(403, "what changes something is not done for another web site")
        if self.settings.token and not route.any_caller:
            given = headers.getRawHeaders(b"Authorization", (b"",))[0]
            scheme, _, token = given.partition(b" ")
            expected = self.settings.token.encode()
            if scheme.lower() != b"bearer" or not hmac.compare_digest(token.strip(), expected):
                raise Refused(
                    401,
                    "expected the bearer token of --internal-token-file",
                    {"WWW-Authenticate": "Bearer"},
                )

    def _is_ours(self, host: str) -> bool:
        name = _name_of(host)
        return (
            not name
            or name == "localhost"
            or name in self.settings.hosts
            or _is_address(name)
            or name in self._names()
        )


class MachineNames:
    """The names of this machine: its own, and the full one, when the system has found it."""

    def __init__(self) -> None:
        own = socket.gethostname().lower()
        self._names = {own}
        # To find the full name may take as long as a name server likes.
        Thread(target=self._find_full_name, args=(own,), daemon=True).start()

    def __call__(self) -> Iterable[str]:
        return self._names

    def _find_full_name(self, own: str) -> None:
        self._names = {own, socket.getfqdn(own).lower()}


def _name_of(host: str) -> str:
    """Return the name or address in a Host header, without the port."""
    if host.startswith("["):
        name, _, port = host[1:].partition("]")
        return name if name and re.fullmatch(r"(:[0-9]*)?", port) else host
    name, _, port = host.rpartition(":")
    return (name if name and port.isdigit() and ":" not in name else host.rstrip(":")).rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


def _host_of(origin: bytes) -> str:
    """Return host and port of an Origin header, as a Host header has them; empty: it has none."""
    try:
        return urlsplit(origin.decode("latin-1").strip().lower()).netloc
    except ValueError:
        return ""
