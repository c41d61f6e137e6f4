"""The flags of telemeter-authorizer, and the configuration that they and their file make."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from twisted.python.usage import UsageError

from telemeter.config.flag_parser import Flag, Flags, Group
from telemeter.config.groups import LOGGING
from telemeter.config.listen_address import listen_address
from telemeter.config.reading import read_file
from telemeter.config.values import raw


@dataclass(frozen=True, slots=True)
class AuthorizerConfig:
    """The whole configuration of a telemeter-authorizer.

    Attributes:
        program: the name that messages begin with.
        listen: where to listen.
        tokens: the tokens that it accepts.
    """

    program: str
    listen: str
    tokens: Sequence[str] = field(repr=False)


class Options(Flags):
    """The flags of telemeter-authorizer."""

    program = "telemeter-authorizer"
    synopsis = "[flags] [[HOST:PORT] FILE]"
    longdesc = (
        "Answers whose a cluster is, from a file of tokens: not for production. HOST:PORT is the "
        "same as --listen, and FILE as --tokens."
    )
    groups: ClassVar = (
        Group(
            "Listening",
            Flag("listen", listen_address, "localhost:9001", "HOST:PORT to listen on."),
        ),
        Group(
            "Who is accepted",
            Flag("tokens", raw, "", 'JSON file with the tokens to accept: [{"token": "a"}, ...].'),
        ),
        LOGGING,
    )

    def parseArgs(self, *words: str) -> None:
        """Take HOST:PORT and FILE, as the original does."""
        if len(words) > 2:
            raise UsageError(f"expected HOST:PORT and one FILE with tokens, saw {' '.join(words)}")
        if len(words) == 2:
            self["listen"] = words[0]
        if words:
            self["tokens"] = words[-1]

    def check(self) -> None:
        """Read the tokens."""
        self.require_listen("listen")
        if not self["tokens"]:
            raise UsageError("--tokens is required: a JSON file with the tokens to accept")
        self.config = AuthorizerConfig(self.program, self["listen"], self._read_tokens())

    def _read_tokens(self) -> Sequence[str]:
        try:
            entries: Any = json.loads(read_file("tokens", self["tokens"]))
            if not isinstance(entries, list):
                raise ValueError("no list")
            tokens = [entry["token"] for entry in entries]
            if not all(isinstance(token, str) and token for token in tokens):
                raise ValueError("a token is no text")
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UsageError(
                f'--tokens {self["tokens"]!r}: expected JSON such as [{{"token": "a"}}]'
            ) from None
        return tuple(tokens)
