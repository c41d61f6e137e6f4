"""Groups of flags that several daemons have, and what is said about them at the start."""

from __future__ import annotations

from typing import Final

from twisted.logger import Logger

from telemeter.config.flag_parser import Flag, Flags, Group
from telemeter.config.reading import read_secret_file
from telemeter.config.values import choice, fraction, host_name, integer, raw, text
from telemeter.web.settings import OperatorSettings

#: The flags that name the servers that `policy_flags` are about.
_TARGETS: Final = {"forward": "forward-url", "authorize": "authorize"}

log = Logger()


def log_level(options: Flags) -> str:
    """Return the lowest level that a daemon logs."""
    return "debug" if options["verbose"] else str(options["log-level"])


def warn_of_empty(flags: Flags) -> None:
    """Say which flags that protect something were given with an empty value."""
    for flag in flags.flags:
        if flag.warns and flag.name in flags.empty and not flags[flag.name]:
            log.warn(f"--{flag.name} is empty, and counts as not given", flag=f"--{flag.name}")


def tracing_flags(service_name: str) -> Group:
    """Return the original Telemeter's flags for traces, so that its manifests keep working.

    Traces are not written yet: see `warn_of_tracing`.
    """
    return Group(
        "Traces",
        Flag("internal.tracing.service-name", text, service_name, "Reserved for traces."),
        Flag("internal.tracing.endpoint", text, "", "Reserved for traces; none are written yet."),
        Flag("internal.tracing.sampling-fraction", fraction, 0.1, "Reserved for traces."),
        Flag(
            "internal.tracing.endpoint-type",
            choice("agent", "collector", "otel"),
            "agent",
            "Reserved for traces.",
        ),
    )


def warn_of_tracing(flags: Flags) -> None:
    """Say that somebody who asks for traces gets none."""
    if flags["internal.tracing.endpoint"]:
        log.warn("--internal.tracing.endpoint is ignored: traces are not written yet")


def policy_flags(target: str) -> tuple[Flag, ...]:
    """Return the flags for TLS towards a server."""
    return (
        Flag(
            f"{target}-ca-file",
            raw,
            "",
            f"File with CA certificates (PEM) to trust for --{_TARGETS[target]}, in addition to "
            "the system's.",
        ),
        Flag(
            f"{target}-tls-crt",
            raw,
            "",
            f"File with a client certificate (PEM) to show to --{_TARGETS[target]}.",
            warns=True,
        ),
        Flag(f"{target}-tls-key", raw, "", "File with its private key (PEM).", warns=True),
    )


def operator_flags(listen: str) -> tuple[Flag, ...]:
    """Return the flags of who is let in at a listener for operators.

    Args:
        listen: the flag that says where that listens.
    """
    return (
        Flag(
            "internal-host",
            host_name,
            [],
            f"A name under which --{listen} may be asked, besides addresses, localhost and the "
            "machine's name. Others get 403, but for /metrics and health: a web page could have a "
            "browser ask.",
            repeated=True,
        ),
        Flag(
            "internal-token-file",
            raw,
            "",
            f"File with the bearer token that --{listen} expects, but for health.",
            guards="let everybody in",
        ),
    )


def read_operators(flags: Flags) -> OperatorSettings:
    """Return who is let in at a listener for operators; raises `UsageError`."""
    token = ""
    if flags["internal-token-file"]:
        token = read_secret_file(flags, "internal-token-file")
    return OperatorSettings(frozenset(flags["internal-host"]), token)


LOGGING: Final = Group(
    "Log",
    Flag(
        "log-level",
        choice("debug", "info", "warn", "error"),
        "info",
        "What to log: debug, info, warn or error and above.",
    ),
    Flag("verbose", None, False, "The same as --log-level=debug.", short="v"),
    Flag(
        "rotate-log-bytes",
        integer(0),
        0,
        "Before the file of twistd's --logfile has more bytes, it is renamed to FILE.1, and a new "
        "one begins; 0: never.",
    ),
    Flag(
        "rotate-log-files",
        integer(1, 1000),
        5,
        "With --rotate-log-bytes: how many such old files are kept.",
    ),
)
