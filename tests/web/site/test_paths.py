"""Paths that have to be cleaned; tests of the site show them at work."""

from __future__ import annotations

import time

import pytest

from telemeter.web.site.paths import clean, moved


@pytest.mark.parametrize("path", [b"/", b"/a", b"/a/", b"/a/b", b"/...", b"/.a", b"/a..", b"/~"])
def test_what_is_clean_stays(path: bytes) -> None:
    assert clean(path) == path


@pytest.mark.parametrize(
    ("path", "cleaned"),
    [
        (b"//", b"/"),
        (b"/./", b"/"),
        (b"/..", b"/"),
        (b"/../", b"/"),
        (b"//a//b//", b"/a/b/"),
        (b"/a/.", b"/a"),
        (b"/a/./", b"/a/"),
        (b"/a/../../b", b"/b"),
    ],
)
def test_the_rest_as_go_cleans_it(path: bytes, cleaned: bytes) -> None:
    assert clean(path) == cleaned


def test_a_long_path_takes_little_time() -> None:
    began = time.process_time()
    assert clean(b"/a/.." * 4000) == b"/"
    assert time.process_time() - began < 0.1


@pytest.mark.parametrize(
    ("query", "encoded"),
    [
        (b"?a=b%20c&d=%ff?/", "?a=b%20c&d=%ff?/"),
        (b"?", "?"),
        (b"", ""),
        (b"?a\r\nSet-Cookie: b", "?a%0D%0ASet-Cookie:%20b"),
        (b"?\x00\x7f\xff", "?%00%7F%FF"),
    ],
)
def test_nothing_in_a_query_ends_the_header(query: bytes, encoded: str) -> None:
    refused = moved(b"/a", b"//a" + query)
    assert (refused.status, refused.headers) == (307, {"Location": f"/a{encoded}"})
