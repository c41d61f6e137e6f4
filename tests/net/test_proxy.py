"""The environment: which proxy is for what, and what is reached without one."""

from __future__ import annotations

import base64
from urllib.parse import urlsplit

import pytest

from telemeter.net.proxy import Proxies
from telemeter.net.url import DEFAULT_PORTS

PASSWORD = "pass/word@secret"
ENCODED = "pass%2Fword%40secret"
BASIC = b"Basic " + base64.b64encode(b"user:pass/word@secret")


def chosen(environ: dict[str, str], url: str = "http://example.com/") -> str | None:
    """The URL of the proxy that is chosen, without its password."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    port = parts.port or DEFAULT_PORTS[parts.scheme]
    proxy = Proxies.from_environment(environ).proxy_to(parts.scheme, parts.hostname, port)
    if proxy is None:
        return None
    return f"{'https' if proxy.secure else 'http'}://{proxy}"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("cache.example.com:1234", "http://cache.example.com:1234"),
        ("cache.example.com", "http://cache.example.com:80"),
        ("Cache.Example.COM:1234", "http://cache.example.com:1234"),
        ("localhost", "http://localhost:80"),
        ("proxy_1.cluster.local.:3128", "http://proxy_1.cluster.local.:3128"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://proxy:8080/", "http://proxy:8080"),
        ("HTTP://proxy:8080", "http://proxy:8080"),
        ("https://cache.example.com", "https://cache.example.com:443"),
        ("https://127.0.0.1:8080", "https://127.0.0.1:8080"),
        ("[2001:db8::1]:3128", "http://[2001:db8::1]:3128"),
        ("http://[2001:db8::1]", "http://[2001:db8::1]:80"),
        ("user@proxy:3128", "http://proxy:3128"),
        ("user:password@proxy:3128", "http://proxy:3128"),
        ("http://prøxy.test:1", "http://xn--prxy-hra.test:1"),
        ("  proxy:3128 ", "http://proxy:3128"),
        ("", None),
        ("  ", None),
    ],
)
def test_a_proxy(value: str, expected: str | None) -> None:
    assert chosen({"HTTP_PROXY": value}) == expected


MALFORMED = [
    "socks5://user:secret@proxy",
    "foo://secret@proxy",
    "http://",
    "http://user:secret@",
    "http://user:secret@:3128",
    "proxy:secret",
    "proxy:99999",
    "proxy:0",
    "proxy:-1",
    "user:sec/ret@proxy:3128",
    "user:12/secret@proxy:3128",
    "user:12#secret@proxy:3128",
    "user:12?secret@proxy:3128",
    "user:secret@proxy:3128/path",
    "user:secret@pro xy:3128",
    "user:sec\nret@proxy:3128",
    "http://[::1",
    "http://[fe80::1%25eth0]:3128",
    "[fe80::1%eth0]:3128",
    "http://[secret]:3128",
    "http://user:secret@pro|xy:3128",
    "http://user:secret@-proxy",
]


@pytest.mark.parametrize("value", MALFORMED)
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "https_proxy"])
def test_a_malformed_proxy_is_named_and_not_shown(variable: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"^{variable}: expected HOST:PORT, or a URL") as caught:
        Proxies.from_environment({variable: value})
    assert "secret" not in str(caught.value)
    assert "ret@" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("proxy", None),
        ("user@proxy", b"user:"),
        ("user:@proxy", b"user:"),
        (f"user:{ENCODED}@proxy", b"user:pass/word@secret"),
        (f"user:{PASSWORD.replace('/', '%2f')}@proxy", b"user:pass/word@secret"),
        ("us%3Aer:a:b@proxy", b"us:er:a:b"),
        ("us%C3%A9r:p%20+w@proxy", "usér:p +w".encode()),
    ],
)
def test_user_and_password(value: str, expected: bytes | None) -> None:
    proxy = Proxies.from_environment({"HTTPS_PROXY": value}).https
    assert proxy is not None
    if expected is None:
        assert proxy.authorization is None
    else:
        assert proxy.authorization == b"Basic " + base64.b64encode(expected)


def test_nothing_shows_a_password() -> None:
    url = f"https://user:{ENCODED}@proxy:3128"
    proxies = Proxies.from_environment({"HTTP_PROXY": url, "HTTPS_PROXY": url})
    for thing in (proxies, proxies.http, proxies.https):
        shown = f"{thing} {thing!r}"
        assert "proxy:3128" in shown or "port=3128" in shown
        for secret in (PASSWORD, ENCODED, BASIC.decode().split()[1]):
            assert secret not in shown


@pytest.mark.parametrize(
    ("environ", "url", "expected"),
    [
        ({"HTTP_PROXY": "a", "HTTPS_PROXY": "b"}, "http://x.test/", "http://a:80"),
        ({"HTTP_PROXY": "a", "HTTPS_PROXY": "b"}, "https://x.test/", "http://b:80"),
        ({"HTTP_PROXY": "a"}, "https://x.test/", None),
        ({"HTTPS_PROXY": "a"}, "http://x.test/", None),
        ({"ALL_PROXY": "a"}, "http://x.test/", None),
        ({"http_proxy": "a"}, "http://x.test/", "http://a:80"),
        ({"https_proxy": "a"}, "https://x.test/", "http://a:80"),
        # As for Go's programs, upper case wins.
        ({"http_proxy": "a", "HTTP_PROXY": "b"}, "http://x.test/", "http://b:80"),
        ({"https_proxy": "a", "HTTPS_PROXY": "b"}, "https://x.test/", "http://b:80"),
        ({"http_proxy": "a", "HTTP_PROXY": ""}, "http://x.test/", "http://a:80"),
        ({"HTTP_PROXY": "a", "no_proxy": "x.test"}, "http://x.test/", None),
        ({"HTTP_PROXY": "a", "NO_PROXY": "x.test"}, "http://x.test/", None),
        (
            {"HTTP_PROXY": "a", "no_proxy": "*", "NO_PROXY": "y.test"},
            "http://x.test/",
            "http://a:80",
        ),
        # Where web servers set it from a request's header, as for CGI, it still counts.
        ({"HTTP_PROXY": "a", "REQUEST_METHOD": "GET"}, "http://x.test/", "http://a:80"),
        ({}, "http://x.test/", None),
    ],
)
def test_variables(environ: dict[str, str], url: str, expected: str | None) -> None:
    assert chosen(environ, url) == expected


def test_the_variable_is_known_for_messages() -> None:
    proxies = Proxies.from_environment({"http_proxy": "a", "HTTPS_PROXY": "b"})
    assert proxies.http is not None
    assert proxies.https is not None
    assert (proxies.http.variable, proxies.https.variable) == ("http_proxy", "HTTPS_PROXY")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, False),
        ({"NO_PROXY": "x"}, False),
        ({"HTTP_PROXY": "a"}, True),
        ({"HTTPS_PROXY": "a"}, True),
        ({"HTTPS_PROXY": "a", "NO_PROXY": "x, *"}, False),
    ],
)
def test_whether_there_is_any_proxy(environ: dict[str, str], expected: bool) -> None:
    assert bool(Proxies.from_environment(environ)) is expected


# As in the tests of golang.org/x/net/http/httpproxy, which this has to agree with; and more.
NO_PROXY = (
    "foobar.com, .barbaz.net, *.wildcard.io, 192.168.1.1, 192.168.1.2:81, 192.168.1.3:80, "
    "10.0.0.0/30, 2001:db8::52:0:1, [2001:db8::52:0:2]:443, [2001:db8::52:0:3]:80, "
    "2002:db8:a::45/64, ported.com:8080, .below.com:8080, UPPER.com, ends.com., 示例.com, single"
)


@pytest.mark.parametrize(
    ("target", "proxied"),
    [
        # Never proxied.
        ("localhost", False),
        ("LOCALHOST", False),
        ("localhost:81", False),
        ("localhost.", False),
        ("127.0.0.1", False),
        ("127.0.0.2:9090", False),
        ("[::1]", False),
        ("[::ffff:127.0.0.1]", False),
        # These only look like it.
        ("[::2]", True),
        ("localhost.net", True),
        ("local.localhost", True),
        ("0.0.0.0", True),
        # Addresses, with and without ports.
        ("192.168.1.1", False),
        ("192.168.1.1:8080", False),
        ("[::ffff:192.168.1.1]", False),
        ("192.168.1.2", True),
        ("192.168.1.2:81", False),
        ("192.168.1.3", False),
        ("192.168.1.3:81", True),
        ("192.168.1.4", True),
        ("[2001:db8::52:0:1]", False),
        ("[2001:db8:0:0::52:0:1]", False),
        ("[2001:db8::52:0:2]", True),
        ("[2001:db8::52:0:2]:443", False),
        ("[2001:db8::52:0:3]", False),
        # Networks.
        ("10.0.0.2", False),
        ("10.0.0.2:8080", False),
        ("10.0.0.4", True),
        ("[::ffff:10.0.0.2]", False),
        ("[2002:db8:a::123]", False),
        ("[2002:db8:b::123]", True),
        ("[fe80::424b:c8be:1643:a1b6]", True),
        # Domains.
        ("foobar.com", False),
        ("FooBar.COM", False),
        ("foobar.com.", False),
        ("foobar.com:8080", False),
        ("www.foobar.com", False),
        ("a.b.foobar.com", False),
        ("foofoobar.com", True),
        ("foobar.com.net", True),
        ("baz.com", True),
        ("barbaz.net", True),
        ("www.barbaz.net", False),
        ("barbarbaz.net", True),
        ("wildcard.io", True),
        ("nested.wildcard.io", False),
        ("awildcard.io", True),
        ("ported.com", True),
        ("ported.com:8080", False),
        ("www.ported.com:8080", False),
        ("below.com:8080", True),
        ("www.below.com:8080", False),
        ("www.below.com", True),
        ("upper.com", False),
        ("ends.com", False),
        ("www.ends.com", False),
        ("single", False),
        ("www.single", False),
        ("singles", True),
        ("www.示例.com", False),
        ("xn--fsq092h.com", False),
        # A zone is no domain.
        ("[1000::%25.foobar.com]:123", True),
    ],
)
def test_no_proxy(target: str, proxied: bool) -> None:
    environ = {"HTTP_PROXY": "proxy", "NO_PROXY": NO_PROXY}
    assert (chosen(environ, f"http://{target}/path") is not None) is proxied
    assert chosen({**environ, "NO_PROXY": "x, *,"}, f"http://{target}/path") is None


@pytest.mark.parametrize(
    ("no_proxy", "url", "proxied"),
    [
        ("x.test:80", "http://x.test/", False),
        ("x.test:443", "http://x.test/", True),
        ("x.test:80", "https://x.test/", True),
        ("x.test:443", "https://x.test/", False),
        ("a.test,b.test", "https://b.test/", False),
        ("a.test, b.test", "https://b.test/", False),
        ("a.test b.test", "https://b.test/", False),
        (",, a.test,,", "https://a.test/", False),
        ("ample.com", "https://example.com/", True),
        (" ", "https://example.com/", True),
        ("0.0.0.0/0", "https://192.0.2.1/", False),
        ("0.0.0.0/0", "https://x.test/", True),
        ("::/0", "https://192.0.2.1/", True),
        ("192.0.2.1", "https://x192.0.2.1/", True),
        ("fe80::/10", "https://[fe80::1%25eth0]/", False),
        ("[fe80::1]:443", "https://[fe80::1]/", False),
        ("[2001:DB8::1]", "https://[2001:db8::1]:8443/", False),
        ("[2001:db8::1]", "https://[2001:db8::2]/", True),
    ],
)
def test_more_of_no_proxy(no_proxy: str, url: str, proxied: bool) -> None:
    environ = {"HTTP_PROXY": "p", "HTTPS_PROXY": "p", "NO_PROXY": no_proxy}
    assert (chosen(environ, url) is not None) is proxied


@pytest.mark.parametrize(
    "entry",
    [
        *(":1", ":80", ".", "*.", "a:b:c", "[::1", "[]:80", "[x.test]:80", "[]", "[10.0.0.1]"),
        *("x.test:", "x.test:http", "x.test:0", "x.test:65536"),
        *("10.0.0.0/33", "10.0.0.0/x", "x.test/8", "http://x.test"),
    ],
)
def test_a_malformed_no_proxy(entry: str) -> None:
    with pytest.raises(ValueError, match=r"^NO_PROXY: expected hosts, domains") as caught:
        Proxies.from_environment({"HTTPS_PROXY": "p", "NO_PROXY": f"y.test,{entry}"})
    assert repr(entry) in str(caught.value)
    # Where there is no proxy, nobody looks at it.
    assert not Proxies.from_environment({"NO_PROXY": entry})


@pytest.mark.parametrize("entry", [f"http://user:{ENCODED}@proxy:3128", f"user:{ENCODED},1@proxy"])
def test_a_proxy_in_place_of_its_exclusions_is_not_shown(entry: str) -> None:
    with pytest.raises(ValueError, match=r"^NO_PROXY: .*; one of them is none") as caught:
        Proxies.from_environment({"HTTPS_PROXY": "p", "NO_PROXY": entry})
    assert ENCODED.lower() not in str(caught.value).lower()
