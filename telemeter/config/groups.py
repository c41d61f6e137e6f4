"""Groups of flags that several daemons have, and what is said about them at the start."""

from __future__ import annotations

from typing import Final

from twisted.logger import Logger

from telemeter.config.flag_parser import Flag, Flags, Group
from telemeter.config.values import choice, fraction, integer, raw, text

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
