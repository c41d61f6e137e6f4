"""The commands between the parent and a worker: AMP over a pair of sockets.

AMP's values have up to 64 KiB, so what is larger goes ahead in pieces.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import ClassVar, Final

from twisted.protocols.amp import AMP, Boolean, Command, Float, Integer, String, Unicode

from telemeter.config.files import Contents

#: The descriptors that a worker inherits: the listening socket, its end of the control connection,
#: how many connections each has, the table of the rate limit, and its metrics.
LISTEN_FD: Final = 3
CONTROL_FD: Final = 4
CONNECTIONS_FD: Final = 5
TABLE_FD: Final = 6
METRICS_FD: Final = 7

#: The report of how many requests a worker let finish when it stopped: a number in decimals.
FINISHED: Final = "finished"

_PIECE_SIZE: Final = 60_000
#: The largest body of a `Report`.
MAX_REPORT: Final = _PIECE_SIZE
_MAX_TEXT: Final = 1000


# --- From the parent ------------------------------------------------------------------------------


class Piece(Command):
    """A part of what the next command is about."""

    arguments: ClassVar = [(b"data", String())]
    requiresAnswer = False


class Configure(Command):
    """Start to serve; the pieces are a `Setup`."""


class Prepare(Command):
    """Make what `files` are needed for, and keep it; the pieces are their contents."""

    arguments: ClassVar = [(b"only_certificates", Boolean())]
    response: ClassVar = [(b"problem", Unicode())]


class Commit(Command):
    """Use what was prepared."""


class Ping(Command):
    """Give a sign of life."""


class Stop(Command):
    """Accept nobody any more, finish the requests that are under way, and end."""


# --- From a worker --------------------------------------------------------------------------------


class Ready(Command):
    """A message of a worker that it wants requests, or wants them no longer."""

    arguments: ClassVar = [(b"ready", Boolean())]


class CheckToken(Command):
    """Ask the authorization server, or the memory of what it said.

    The answer is for how many seconds it holds, or with which status it refused, or why
    nobody can say.
    """

    arguments: ClassVar = [(b"question", String())]
    response: ClassVar = [
        (b"seconds", Float(optional=True)),
        (b"refused", Integer(optional=True)),
        (b"unavailable", Unicode(optional=True)),
    ]


class Report(Command):
    """Something of a kind that the parent knows what to do with."""

    arguments: ClassVar = [(b"kind", Unicode()), (b"body", String())]


# --- What goes in pieces --------------------------------------------------------------------------


@dataclass
class Setup:
    """The setup of a worker.

    Attributes:
        workers: how many there are.
        arguments: the command line.
        files: the files that it names.
        key: the private key (PKCS#8, DER) to sign with when no file has one.
        table_key: the key of the rate limit's table; empty: there is no limit.
    """

    workers: int
    arguments: list[str]
    files: Contents = field(repr=False)
    key: bytes = field(repr=False)
    table_key: bytes = field(repr=False)

    def encode(self) -> bytes:
        return json.dumps(
            {
                "workers": self.workers,
                "arguments": self.arguments,
                "files": _text(self.files),
                "secrets": _text({"key": self.key, "table_key": self.table_key}),
            }
        ).encode()

    @classmethod
    def decode(cls, data: bytes) -> Setup:
        values = json.loads(data)
        return cls(
            values["workers"],
            values["arguments"],
            _binary(values["files"]),
            **_binary(values["secrets"]),
        )


def encode_files(files: Contents) -> bytes:
    """Contents of files, for `Prepare`."""
    return json.dumps(_text(files)).encode()


def decode_files(data: bytes) -> Contents:
    """Return what was encoded."""
    return _binary(json.loads(data))


def _text(values: Contents) -> dict[str, str]:
    return {name: base64.b64encode(value).decode() for name, value in values.items()}


def _binary(values: dict[str, str]) -> Contents:
    return {name: base64.b64decode(value) for name, value in values.items()}


class Control(AMP):
    """An end of the connection."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces = bytearray()

    def send_pieces(self, data: bytes) -> None:
        """Send what the next command is about."""
        for at in range(0, len(data), _PIECE_SIZE):
            self.callRemote(Piece, data=data[at : at + _PIECE_SIZE])

    @Piece.responder
    def _piece(self, data: bytes) -> dict[str, object]:
        self._pieces += data
        return {}

    def take_pieces(self) -> bytes:
        """Return what the command that has come is about."""
        data = bytes(self._pieces)
        self._pieces.clear()
        return data


def short(text: object) -> str:
    """Return a text that AMP takes."""
    return str(text)[:_MAX_TEXT]
