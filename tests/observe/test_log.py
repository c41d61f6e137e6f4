"""Log lines."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest
from twisted.logger import (
    ILogObserver,
    LogEvent,
    Logger,
    LogLevel,
    LogPublisher,
)
from twisted.logger._legacy import publishToNewObserver
from twisted.python.failure import Failure
from twisted.python.log import textFromEventDict
from zope.interface.verify import verifyObject

from telemeter.observe.log import LEVELS, level_of, logfmt, make_observer
from tests.web.site.test_site import fields_of

TIME = datetime(2026, 11, 23, 7, 5, 3, 4999, UTC).timestamp()


def event(message: str = "m", **fields: object) -> LogEvent:
    return {
        "log_time": TIME,
        "log_level": LogLevel.info,
        "log_namespace": "telemeter.test",
        "log_format": message,
        **fields,
    }


def line_of(message: str = "m", **fields: object) -> str:
    line = logfmt(event(message, **fields))
    assert line is not None
    assert line.endswith("\n")
    return line[:-1]


def test_a_line() -> None:
    line = line_of("two words", number=7, text="plain", nothing=None, yes=True)
    assert line == (
        "ts=2026-11-23T07:05:03.004Z level=info component=telemeter.test "
        'msg="two words" number=7 text=plain nothing=None yes=True'
    )


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("plain", "plain"),
        ("a/b?c&d:e,f;{g}[h]'i'", "a/b?c&d:e,f;{g}[h]'i'"),
        ("\u00fc", "\u00fc"),
        ("", '""'),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ('"', '"\\""'),
        ("\\", '"\\\\"'),
        ("\n", '"\\n"'),
        ("\r\n", '"\\r\\n"'),
        ("\t", '"\\t"'),
        ("\x00", '"\\u0000"'),
        ("\x1b[31m", '"\\u001b[31m"'),
        ("\x7f", '"\\u007f"'),
        ("\x85", '"\\u0085"'),
        ("\u2028", '"\\u2028"'),
        ("\u2029", '"\\u2029"'),
        ("\u202e", '"\\u202e"'),
        ("\u200b", '"\\u200b"'),
        ("\ud800", '"\\ud800"'),
        ("\ufeff", '"\\ufeff"'),
        ("\u00a0", '"\\u00a0"'),
    ],
)
def test_a_value(value: str, written: str) -> None:
    line = line_of(key=value)
    assert line.endswith(f" key={written}")
    assert fields_of(line)["key"] == value
    line.encode()


def test_the_message_is_quoted_too() -> None:
    assert 'msg="a\\nlevel=error"' in line_of("{text}", text="a\nlevel=error")


def test_braces_in_a_value_are_no_format() -> None:
    assert line_of(key="{x} {log_level}").endswith(' key="{x} {log_level}"')


def test_a_long_value_is_cut_off() -> None:
    line = line_of(key="x" * 100_000)
    assert line.endswith("x...")
    assert len(line) < 9000


def test_the_fields_of_twisted_are_not_repeated() -> None:
    line = line_of(log_source=object(), system="-", isError=0, time=1.0, format="x", why=None)
    assert fields_of(line).keys() == {"ts", "level", "component", "msg"}


def test_a_failure_has_its_traceback_in_the_line() -> None:
    try:
        raise KeyError("details")
    except KeyError:
        line = line_of("broken", log_failure=Failure())
    assert "\n" not in line
    traceback = fields_of(line)["traceback"]
    assert "KeyError: 'details'" in traceback
    assert "test_log.py" in traceback


def test_an_event_without_a_namespace() -> None:
    bare = event()
    del bare["log_namespace"]
    assert 'component="" msg=m' in (logfmt(bare) or "")


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["debug", "info", "warn", "error", "critical"]),
        ("info", ["info", "warn", "error", "critical"]),
        ("warn", ["warn", "error", "critical"]),
        ("error", ["error", "critical"]),
    ],
)
def test_levels(level: str, shown: list[str]) -> None:
    stream = io.StringIO()
    log = Logger("telemeter.test", observer=make_observer(stream, level))
    for each in ("debug", "info", "warn", "error", "critical"):
        getattr(log, each)("message")
    assert [fields_of(line)["level"] for line in stream.getvalue().splitlines()] == shown


@pytest.mark.parametrize("namespace", ["twisted.web.http", "log_legacy", "twisted"])
@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["debug", "info", "warn", "error"]),
        ("info", ["warn", "error"]),
        ("warn", ["warn", "error"]),
        ("error", ["error"]),
    ],
)
def test_what_twisted_says_is_for_those_who_ask(
    namespace: str, level: str, shown: list[str]
) -> None:
    stream = io.StringIO()
    log = Logger(namespace, observer=make_observer(stream, level))
    for each in ("debug", "info", "warn", "error"):
        getattr(log, each)("message")
    assert [fields_of(line)["level"] for line in stream.getvalue().splitlines()] == shown


def test_twisted_s_own_lines_keep_their_levels() -> None:
    """Also those of its former way to log: errors are critical, all else is information."""
    for level, shown in (("debug", ["info", "critical"]), ("info", ["critical"])):
        stream = io.StringIO()
        observer = make_observer(stream, level)
        for is_error in (0, 1):
            event = {"message": ("it",), "isError": is_error, "system": "-", "time": TIME}
            publishToNewObserver(observer, event, textFromEventDict)
        lines = [fields_of(line) for line in stream.getvalue().splitlines()]
        assert [(line["level"], line["msg"]) for line in lines] == [(each, "it") for each in shown]


def test_fields_that_all_lines_have() -> None:
    stream = io.StringIO()
    Logger("telemeter.test", observer=make_observer(stream, "info", worker=3)).info("m", one=1)
    fields = fields_of(stream.getvalue())
    assert (fields["one"], fields["worker"]) == ("1", "3")


@pytest.mark.parametrize("level", [*LEVELS, "critical"])
def test_the_level_of_a_line(level: str) -> None:
    line = line_of("level=info ", log_level=LogLevel.lookupByName(level))
    assert level_of(line) == LogLevel.lookupByName(level)


@pytest.mark.parametrize("line", ["", "level=error", "ts=x level=loud ", "Traceback: level=warn "])
def test_what_has_no_level_is_info(line: str) -> None:
    assert level_of(line) == LogLevel.info


def test_it_is_an_observer() -> None:
    observer = make_observer(io.StringIO(), "info")
    assert verifyObject(ILogObserver, observer)
    LogPublisher().addObserver(observer)


def test_every_level_of_the_flag_is_known() -> None:
    assert list(LEVELS) == ["debug", "info", "warn", "error"]
