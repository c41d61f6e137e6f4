"""Log lines: one event a line, as logfmt (`ts=... level=info msg="..." key=value`).

Everything that is logged may come from an untrusted sender, so values are quoted and escaped: no
value can start a line of its own or pass for another field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    formatEvent,
)

#: What `--log-level` takes.
LEVELS: Final = {
    "debug": LogLevel.debug,
    "info": LogLevel.info,
    "warn": LogLevel.warn,
    "error": LogLevel.error,
}
_LEVEL = re.compile(r"ts=\S+ level=(debug|info|warn|error|critical) ")
_PLAIN = re.compile(r"[^\s\"=\\]+")
_NOT_FIELDS = frozenset(("time", "message", "isError", "system", "format", "failure", "why"))
_MAX_VALUE = 8192


def logfmt(event: LogEvent) -> str | None:
    """Write an event as one line."""
    return " ".join(f"{key}={_quoted(value)}" for key, value in _fields(event)) + "\n"


def _fields(event: LogEvent) -> Iterator[tuple[str, str]]:
    stamp = datetime.fromtimestamp(event["log_time"], UTC)
    yield "ts", stamp.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    yield "level", event["log_level"].name
    yield "component", event.get("log_namespace", "")
    yield "msg", formatEvent(event)
    for key, value in event.items():
        if not key.startswith("log_") and key not in _NOT_FIELDS:
            yield key, value if isinstance(value, str) else str(value)
    failure = event.get("log_failure")
    if failure is not None:
        yield "traceback", failure.getTraceback()


def _quoted(value: str) -> str:
    if len(value) > _MAX_VALUE:
        value = value[:_MAX_VALUE] + "..."
    return value if _PLAIN.fullmatch(value) and value.isprintable() else json.dumps(value)


def level_of(line: str) -> Any:
    """Return the level of a line that `logfmt` has written; info if it is none."""
    found = _LEVEL.match(line)
    return LogLevel.lookupByName(found[1]) if found else LogLevel.info


class Stream(Protocol):
    """A stream that lines are written to."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...


def make_observer(stream: Stream, level: str, **fields: object) -> ILogObserver:
    """Return an observer that writes events from a level on, all with the same further fields.

    What Twisted itself has to say (a port opened, a connection's factory started) is for whoever
    asks for `debug`; its warnings and errors are for everybody.
    """
    predicate = LogLevelFilterPredicate(defaultLogLevel=LEVELS[level])
    if level != "debug":
        for namespace in ("twisted", "log_legacy"):
            predicate.setLogLevelForNamespace(namespace, max(LEVELS[level], LogLevel.warn))

    def write(event: LogEvent) -> str | None:
        return logfmt({**event, **fields})

    file: Any = stream
    observer: ILogObserver = FilteringLogObserver(FileLogObserver(file, write), [predicate])
    return observer
