"""telemeter-authorizer: a stub of the authorization server, for development, demos and tests."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from twisted.application.service import IService
from twisted.logger import Logger
from twisted.python.usage import UsageError

from telemeter import __version__
from telemeter.config.flags import LOGGING, Flag, Flags, raw, read_file
from telemeter.config.listen import listen_address, plain_listener
from telemeter.devtools.authorizer import StubAuthorizer
from telemeter.loop.clocks import elapsed_reactor
from telemeter.tap.daemon import Daemon
from telemeter.web.site.routing import make_site

log = Logger()


class Options(Flags):
    """The flags of telemeter-authorizer."""

    program = "telemeter-authorizer"
    synopsis = "[flags] [[HOST:PORT] FILE]"
    longdesc = (
        "Answers whose a cluster is, from a file of tokens: not for production. HOST:PORT is the "
        "same as --listen, and FILE as --tokens."
    )
    flags: ClassVar = (
        Flag("listen", listen_address, "localhost:9001", "HOST:PORT to listen on."),
        Flag("tokens", raw, "", 'JSON file with the tokens to accept: [{"token": "a"}, ...].'),
        *LOGGING,
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
        try:
            entries: Any = json.loads(read_file("tokens", self["tokens"]))
            if not isinstance(entries, list):
                raise ValueError("no list")
            self.tokens = [entry["token"] for entry in entries]
            if not all(isinstance(token, str) and token for token in self.tokens):
                raise ValueError("a token is no text")
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UsageError(
                f'--tokens {self["tokens"]!r}: expected JSON such as [{{"token": "a"}}]'
            ) from None


def makeService(options: Options, reactor: Any = None) -> IService:
    """Return the service of the stub."""
    if reactor is None:
        reactor = elapsed_reactor()
    daemon = Daemon(options, reactor)
    site = make_site([StubAuthorizer(options.tokens).route()], reactor)
    listener = plain_listener(reactor, site, options["listen"], options.program)
    listener.setServiceParent(daemon)
    log.info("starting telemeter-authorizer", version=__version__, tokens=len(options.tokens))
    return daemon
