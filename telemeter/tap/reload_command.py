"""telemeter-reload: has a running daemon read its files again, and says whether it did.

A signal tells nobody what came of it. `systemctl reload` fails when its command does, so the units
in `etc/` run this one.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import sys
import time
from contextlib import closing
from dataclasses import dataclass, replace
from http.client import (
    BadStatusLine,
    HTTPConnection,
    HTTPException,
    HTTPSConnection,
    IncompleteRead,
    RemoteDisconnected,
    UnknownProtocol,
)
from typing import Any, Final

from twisted.internet.protocol import Factory

from telemeter.config.flag_parser import Flags
from telemeter.config.listen_address import endpoint_maker

PROGRAM: Final = "telemeter-reload"
_USAGE: Final = f"""\
Usage: {PROGRAM} telemeter-server|telemeter-client [flags]
Has a running daemon read its files again. The flags are the daemon's own: they say where it
listens. Exits with status 0 if it did, and with 1 and the reason on standard error if the old
configuration stays. A daemon that cannot be asked, an agent without --listen for example, gets
SIGHUP instead, if the environment has its process number as MAINPID; what comes of that is in its
log only.
"""
#: The listener that takes the request, and the certificate that has it speak TLS, by flag.
_LISTENERS: Final = {
    "telemeter-server": ("listen-internal", "internal-tls-crt"),
    "telemeter-client": ("listen", ""),
}
#: A daemon that has just been started may take so many seconds to listen, ...
_START_SECONDS: Final = 10.0
#: ... and any so many to connect, and to reload: workers have ten to agree.
_CONNECT_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 60.0
_MOST: Final = 4096
#: So much of what is no HTTP is shown.
_SHOWN: Final = 64


class _NotAskedError(Exception):
    """There is no listener to ask; the text says why."""


class _FailedError(Exception):
    """The daemon did not reload, or nobody knows; the text says why."""


@dataclass(frozen=True)
class Address:
    """An address that a daemon listens at.

    Attributes:
        host: an address of this machine; empty: it is a socket in the file system.
        port: the port.
        path: of that socket.
        tls: whether it speaks TLS.
    """

    host: str = ""
    port: int = 0
    path: str = ""
    tls: bool = False

    def __str__(self) -> str:
        if self.path:
            return self.path
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"


class _Recorder:
    """A stand-in for a reactor, to learn where an endpoint would listen."""

    def __init__(self) -> None:
        self.found: Address | None = None

    def listenTCP(self, port: int, *_: Any, interface: str = "", **more: Any) -> None:
        self._listens(port, interface, tls=False)

    def listenSSL(self, port: int, *_: Any, interface: str = "", **more: Any) -> None:
        self._listens(port, interface, tls=True)

    def listenUNIX(self, address: str | bytes, *_: Any, **more: Any) -> None:
        self.found = Address(path=os.fsdecode(address))

    def _listens(self, port: int, interface: str, *, tls: bool) -> None:
        if not port:  # it was free when the daemon started, and is in its log only
            return
        # Who listens everywhere listens here.
        host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(interface, interface)  # noqa: S104
        self.found = Address(host, port, tls=tls)


def address_of(options: Flags, listener: str, certificate: str) -> Address:
    """Return where to ask a daemon with these flags.

    Args:
        options: the flags.
        listener: the one that says where it listens.
        certificate: the one that has it speak TLS there; empty: there is none.

    Raises:
        _NotAskedError: it cannot be asked there.
    """
    where = options[listener]
    if not where:
        raise _NotAskedError(f"--{listener} is empty")
    recorder = _Recorder()
    if not where.startswith("haproxy:"):  # that one waits for the header of a proxy
        endpoint_maker(where)(recorder).listen(Factory()).addErrback(lambda _: None)
    if recorder.found is None:
        raise _NotAskedError(f"--{listener} {where!r} is nothing to connect to")
    has_certificate = bool(certificate and options[certificate])
    return replace(recorder.found, tls=recorder.found.tls or has_certificate)


class _LocalConnection(HTTPConnection):
    """A connection to a socket in the file system."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_CONNECT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _connection(address: Address) -> HTTPConnection:
    if address.path:
        return _LocalConnection(address.path)
    if not address.tls:
        return HTTPConnection(address.host, address.port, timeout=_CONNECT_SECONDS)
    # The certificate may be the one that is about to be replaced, for whatever name. Nothing is
    # sent that others may not see, and nobody else listens on this machine's own address.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return HTTPSConnection(address.host, address.port, timeout=_CONNECT_SECONDS, context=context)


def _connect(address: Address, patience: float) -> HTTPConnection:
    """Connect, and wait for a daemon that has yet to listen."""
    deadline = time.monotonic() + patience
    while True:
        connection = _connection(address)
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            if not isinstance(error, ConnectionRefusedError | FileNotFoundError):
                raise
            if time.monotonic() > deadline:
                raise _FailedError(
                    f"nobody listens there: {error.strerror}. If the flags have changed since the "
                    "start, a restart is needed"
                ) from None
            time.sleep(0.1)
        else:
            return connection


def ask(address: Address, patience: float = _START_SECONDS) -> None:
    """Have the daemon at an address reload; raises `_FailedError` if it does not."""
    try:
        with closing(_connect(address, patience)) as connection:
            connection.sock.settimeout(_ANSWER_SECONDS)
            connection.request("POST", "/-/reload", body=b"")
            with connection.getresponse() as answer:
                text = answer.read(_MOST).decode("utf-8", "replace").strip()
    except TimeoutError:
        raise _FailedError("no answer came in time; the log may say more") from None
    except (OSError, HTTPException) as error:
        raise _FailedError(f"no usable answer: {_in_words(error)}") from None
    shown = "".join(each if each.isprintable() else "?" for each in text)
    if answer.status == 500 and shown:
        raise _FailedError(shown)
    if answer.status != 200 or text != "reloaded":
        raise _FailedError(f"expected a telemeter daemon, saw status {answer.status}: {shown!r}")


def _in_words(error: OSError | HTTPException) -> str:
    """Say why there is no answer, without the names of Python's classes."""
    match error:
        case RemoteDisconnected():  # a BadStatusLine, too
            return "the connection was closed without one"
        case BadStatusLine(args=[line]):
            return f"expected HTTP, saw {_quote(str(line))}"
        case UnknownProtocol(args=[version]):
            return f"expected HTTP/1.1, saw {_quote(str(version))}"
        case IncompleteRead():
            return "it ended too early"
        case ssl.SSLError():
            return f"expected TLS: {(error.reason or 'it broke off').replace('_', ' ').lower()}"
        case OSError():
            return error.strerror or "the connection broke off"
    return str(error) or "it is no HTTP"


def _quote(text: str) -> str:
    line = text.rstrip("\r\n")
    return ascii(line[:_SHOWN]) + ("..." if len(line) > _SHOWN else "")


def _options(program: str, flags: list[str]) -> Flags:
    """Return the flags of a daemon; ends the program with one line if they are wrong."""
    options: Flags
    if program == "telemeter-server":
        from telemeter.config import server_options

        options = server_options.Options()
    else:
        from telemeter.config import agent_options

        options = agent_options.Options()
    options.read(flags)
    return options


def main(arguments: list[str] | None = None) -> int:
    """Do it; returns the exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] not in _LISTENERS:
        asked = bool(words) and words[0] in ("-h", "--help")
        print(_USAGE, end="", file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    try:
        address = address_of(_options(words[0], words[1:]), *_LISTENERS[words[0]])
    except _NotAskedError as error:
        return _signal(str(error))
    try:
        ask(address)
    except _FailedError as error:
        print(f"{PROGRAM}: {address}: {error}", file=sys.stderr)
        return 1
    print("reloaded")
    return 0


def _signal(why: str) -> int:
    """Send SIGHUP instead, because the daemon cannot be asked."""
    number = os.environ.get("MAINPID", "")
    if not number.isdigit() or not int(number):
        print(f"{PROGRAM}: {why}, and MAINPID names no process to send SIGHUP to", file=sys.stderr)
        return 1
    try:
        os.kill(int(number), signal.SIGHUP)
    except OSError as error:
        print(f"{PROGRAM}: {why}, and SIGHUP to {number}: {error.strerror}", file=sys.stderr)
        return 1
    print(f"{PROGRAM}: {why}: sent SIGHUP, see the log for what came of it", file=sys.stderr)
    return 0
