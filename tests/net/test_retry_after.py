"""Retry-After in all its forms."""

from __future__ import annotations

import pytest
from twisted.web.http_headers import Headers

from telemeter.loop.clocks import Wall
from telemeter.net.retry_after import http_date, retry_after, retry_after_seconds

#: Sun, 06 Nov 1994 08:49:37 GMT
MOMENT = Wall(784111777.0)
DATES = [
    "Sun, 06 Nov 1994 08:49:37 GMT",
    "Sunday, 06-Nov-94 08:49:37 GMT",
    "Sun Nov  6 08:49:37 1994",
]


def headers(value: str | bytes, **others: str) -> Headers:
    value = value if isinstance(value, bytes) else value.encode()
    found = Headers({b"Retry-After": [value]})
    for name, text in others.items():
        found.setRawHeaders(name, [text])
    return found


@pytest.mark.parametrize("date", DATES)
def test_the_three_forms_of_a_date(date: str) -> None:
    assert http_date(date) == MOMENT
    assert retry_after(headers(date)) == date
    assert retry_after_seconds(headers(date), Wall(MOMENT - 90)) == 90


@pytest.mark.parametrize("date", DATES)
def test_a_date_counts_from_that_of_the_answer(date: str) -> None:
    # Our own clock is years off.
    answer = headers(date, Date="Sun, 06 Nov 1994 08:47:37 GMT")
    assert retry_after_seconds(answer, Wall(MOMENT + 1e9)) == 120
    answer = headers(date, Date="no date")
    assert retry_after_seconds(answer, Wall(MOMENT - 7)) == 7


def test_a_date_that_has_passed() -> None:
    assert retry_after_seconds(headers(DATES[0]), Wall(MOMENT + 1)) == 0


def test_a_leap_second() -> None:
    assert http_date("Sat, 31 Dec 2016 23:59:60 GMT") == http_date("Sat, 31 Dec 2016 23:59:59 GMT")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("300", 300),
        (" 300\t", 300),
        ("0300", 300),
        ("999999999", 999_999_999),
        ("9" * 60, 1e12),
    ],
)
def test_seconds(value: str, seconds: float) -> None:
    assert retry_after_seconds(headers(value), Wall(0)) == seconds
    assert retry_after(headers(value)) == value.strip()


@pytest.mark.parametrize(
    "value",
    [
        "",
        "-1",
        "+1",
        "1.5",
        "1e3",
        "1_0",
        "\u0663",
        "soon",
        b"\xff",
        "9" * 65,
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49:37 CET",
        "Sun, 06 Nov 1994 08:49:37 +0100",
        "Sun, 32 Nov 1994 08:49:37 GMT",
        "Sun, 06 Xov 1994 08:49:37 GMT",
        "sun, 06 nov 1994 08:49:37 gmt",
        "1994-11-06T08:49:37Z",
    ],
)
def test_what_is_malformed_says_nothing(value: str | bytes) -> None:
    assert retry_after(headers(value)) is None
    assert retry_after_seconds(headers(value), Wall(0)) is None


def test_no_header() -> None:
    assert retry_after(Headers()) is None
    assert retry_after_seconds(Headers(), Wall(0)) is None
