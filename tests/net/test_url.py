"""URLs as flags give them."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

import pytest

from telemeter.net.url import (
    add_query,
    check_http_url,
    default_path,
    extend_path,
    replace_path,
    shown,
    split_credentials,
    to_request,
)


@pytest.mark.parametrize(
    "url",
    [
        "http://x",
        "https://x",
        "HTTP://X",
        "http://x:1",
        "http://x:65535/",
        "http://[::1]:9090/p?q=r#f",
        "http://127.0.0.1/a/b",
        "http://user:pass@x/p",
        "http://x/?a=%20",
        "http://x?a=b",
        "http://xn--bcher-kva.example/",
        "http://[::1]",
        "http://[::1]:",
        "http://[2001:db8::7]:9090",
        "http://[0:0:0:0:0:0:0:1]/",
        "http://[::ffff:192.0.2.1]:80/",
        "https://user:pass@[::1]:9090/p",
        "http://some_container:80/",
    ],
)
def test_a_url(url: str) -> None:
    assert check_http_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "x:9090",
        "localhost:9090/metrics",
        "/path",
        "//x/path",
        "http:",
        "http://",
        "http:///path",
        "http:x",
        "ftp://x",
        "file:///etc/passwd",
        "http://x:port",
        "http://x:0",
        "http://x:65536",
        "http://x:-1",
        "http://[::1",
        "http://[nonsense]",
        "http://x/a b",
        " http://x",
        "http://x/\n",
        "http://x/\x00",
        "http://b\u00fccher.example",
        "http://x/\u00fc",
        "http://@",
        "http://user@",
        "http://:80",
        "http://::1",
        "http://::1:9090/",
        "http://2001:db8::7:9090/",
        "http://[::1]x:9090/",
        "http://[::1]9090/",
        "http://x[::1]/",
        "http://[127.0.0.1]/",
        "http://[v1.x]/",
        "http://[fe80::1%25eth0]/",
        "http://[fe80::1%eth0]:9090/",
        "http://a%2eb/",
    ],
)
def test_no_url(url: str) -> None:
    with pytest.raises(ValueError, match="expected a URL"):
        check_http_url(url)


@pytest.mark.parametrize(
    ("url", "extended"),
    [
        ("http://x", "http://x/seg"),
        ("http://x/", "http://x/seg"),
        ("http://x/a", "http://x/a/seg"),
        ("http://x/a/", "http://x/a/seg"),
        ("http://x/a//", "http://x/a/seg"),
        ("http://x/a?b=c", "http://x/a/seg?b=c"),
        ("http://x?b=c", "http://x/seg?b=c"),
        ("http://x/a#f", "http://x/a/seg"),
        ("http://u:p@x:1/a", "http://u:p@x:1/a/seg"),
        ("http://x/%2F%20", "http://x/%2F%20/seg"),
    ],
)
def test_extend_path(url: str, extended: str) -> None:
    assert extend_path(url, "seg") == extended


@pytest.mark.parametrize(
    ("url", "result"),
    [
        ("http://x", "http://x/federate"),
        ("http://x/", "http://x/federate"),
        ("http://x?a=b", "http://x/federate?a=b"),
        ("http://x/own", "http://x/own"),
        ("http://x/own/", "http://x/own"),
        ("http://x/own?a=b#f", "http://x/own?a=b"),
        ("http://x//", "http://x/federate"),
    ],
)
def test_default_path(url: str, result: str) -> None:
    assert default_path(url, "/federate") == result


@pytest.mark.parametrize(
    ("url", "path", "result"),
    [
        ("http://x", "/p", "http://x/p"),
        ("http://x/a?b=c#d", "/p", "http://x/p"),
        ("https://u:p@x:1/a", "/p?q=r", "https://u:p@x:1/p?q=r"),
    ],
)
def test_replace_path(url: str, path: str, result: str) -> None:
    assert replace_path(url, path) == result


SELECTORS = [
    'up{job="a+b&c=d"}',
    '{__name__=~"a|b",x!~"100%25 \\"quoted\\""}',
    "{__name__='single'}",
    '{x="#;?/@:"}',
    '{x="\u00fc\n"}',
    "",
]


@pytest.mark.parametrize("selector", SELECTORS)
def test_a_selector_survives_a_query(selector: str) -> None:
    url = add_query("http://x/federate", [("match[]", selector)])
    assert url.isascii()
    assert " " not in url
    assert parse_qsl(urlsplit(url).query, keep_blank_values=True) == [("match[]", selector)]


def test_all_selectors_are_in_the_query_in_their_order() -> None:
    url = add_query("http://x/federate", [("match[]", each) for each in SELECTORS])
    found = parse_qsl(urlsplit(url).query, keep_blank_values=True)
    assert found == [("match[]", each) for each in SELECTORS]


@pytest.mark.parametrize(
    ("url", "result"),
    [
        ("http://x/a", "http://x/a?id=1"),
        ("http://x/a?", "http://x/a?id=1"),
        ("http://x/a?b=%26&c", "http://x/a?b=%26&c&id=1"),
        ("http://x", "http://x?id=1"),
        ("http://x/a?id=0", "http://x/a?id=0&id=1"),
    ],
)
def test_what_is_in_a_query_stays(url: str, result: str) -> None:
    assert add_query(url, [("id", "1")]) == result


def test_nothing_to_add() -> None:
    assert add_query("http://x/a?b=c", []) == "http://x/a?b=c"
    assert add_query("http://x/a", []) == "http://x/a"


@pytest.mark.parametrize(
    ("url", "bare", "header"),
    [
        ("http://x/a", "http://x/a", None),
        ("http://x/a?b=@", "http://x/a?b=@", None),
        ("http://user:pass@x:1/a?b=c", "http://x:1/a?b=c", "Basic dXNlcjpwYXNz"),
        ("http://user@x", "http://x", "Basic dXNlcjo="),
        ("http://:pass@x", "http://x", "Basic OnBhc3M="),
        ("http://us%3Aer:p%40ss@x", "http://x", "Basic dXM6ZXI6cEBzcw=="),
        ("http://a:b:c@x", "http://x", "Basic YTpiOmM="),
        ("http://a:b@c@x", "http://x", "Basic YTpiQGM="),
        ("http://%C3%BC:@x", "http://x", "Basic w7w6"),
        ("http://@x", "http://x", "Basic Og=="),
        ("http://u:p@[::1]:80/", "http://[::1]:80/", "Basic dTpw"),
    ],
)
def test_credentials(url: str, bare: str, header: str | None) -> None:
    assert split_credentials(url) == (bare, header)


@pytest.mark.parametrize(
    ("url", "result"),
    [
        ("", ""),
        ("http://x/a", "http://x/a"),
        ("http://user:secret@x:1/a?token=secret", "http://x:1/a"),
        ("https://secret@x", "https://x"),
        ("http://x?secret", "http://x"),
    ],
)
def test_what_is_shown(url: str, result: str) -> None:
    assert shown(url) == result
    assert "secret" not in shown(url)


@pytest.mark.parametrize("url", ["http://::1:9090/", "http://2001:db8::7/"])
def test_an_ipv6_address_without_brackets_is_told(url: str) -> None:
    with pytest.raises(ValueError, match=r"an IPv6 address is written as \[::1\]"):
        check_http_url(url)


@pytest.mark.parametrize("url", ["http://[fe80::1%25eth0]:90/", "http://[fe80::1%eth0]/"])
def test_a_zone_is_told(url: str) -> None:
    with pytest.raises(ValueError, match="with a zone"):
        check_http_url(url)


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("http://x", "http://x"),
        ("http://user:pass@x:1/a?b#c", "http://x:1/a?b"),
        ("http://x:/", "http://x/"),
        ("http://[::1]:/", "http://[::1]/"),
        ("http://[::1]:90/a?b=[c]", "http://[::1]:90/a?b=%5Bc%5D"),
        ('http://x/{a}?m={b="c|d"}', "http://x/%7Ba%7D?m=%7Bb=%22c%7Cd%22%7D"),
        ("http://x/%2F%20?%5B", "http://x/%2F%20?%5B"),
    ],
)
def test_to_request(url: str, asked: str) -> None:
    assert to_request(url) == asked
    assert split_credentials(url)[0] == asked
