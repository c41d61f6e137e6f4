"""The flags of telemeter-demo-source, and the configuration that they make."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import ClassVar

from twisted.python.usage import UsageError

from telemeter.config.flag_parser import Flag, Flags, Group
from telemeter.config.groups import LOGGING
from telemeter.config.listen_address import listen_address
from telemeter.config.values import duration, text


@dataclass(frozen=True, slots=True)
class DemoSourceConfig:
    """The whole configuration of a telemeter-demo-source.

    Attributes:
        program: the name that messages begin with.
        listen: where to listen.
        instance: the label `instance` of every series.
        interval: seconds between two readings of the machine's figures.
    """

    program: str
    listen: str
    instance: str
    interval: float


class Options(Flags):
    """The flags of telemeter-demo-source."""

    program = "telemeter-demo-source"
    synopsis = "[flags]"
    longdesc = (
        "Serves figures of this machine at /federate and /metrics, as a Prometheus that scrapes "
        "it would: for demos, where there is no Prometheus. Needs psutil (telemeter[demo])."
    )
    groups: ClassVar = (
        Group(
            "Listening",
            Flag("listen", listen_address, "localhost:9090", "HOST:PORT to listen on."),
        ),
        Group(
            "What is shown",
            Flag(
                "instance",
                text,
                "",
                "The label instance of every series.",
                shown="the name of this machine",
            ),
            Flag(
                "interval",
                duration,
                1.0,
                "How often the machine is asked for its figures.",
                shown="1s",
            ),
        ),
        LOGGING,
    )

    def check(self) -> None:
        """See that there is something to ask the machine with."""
        self.require_listen("listen")
        if not self["interval"]:
            raise UsageError("--interval 0: expected a duration above 0, such as 1s")
        try:
            from telemeter.observe import machine
        except ImportError as error:
            raise UsageError(f"psutil is needed: pip install 'telemeter[demo]' ({error})") from None
        self.figures = machine.figures
        self.config = DemoSourceConfig(
            self.program,
            self["listen"],
            self["instance"] or socket.gethostname(),
            self["interval"],
        )
