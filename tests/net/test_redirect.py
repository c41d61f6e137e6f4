"""Which redirects are followed, and where to."""

from __future__ import annotations

import pytest

from telemeter.net.redirect import RedirectError, is_redirect, redirect_target

URL = "https://source.test:8443/a/b?c=d"


def target(
    *locations: str | bytes,
    method: str = "GET",
    url: str = URL,
    status: int = 307,
    confidential: bool = True,
) -> str:
    raw = [each if isinstance(each, bytes) else each.encode() for each in locations]
    return redirect_target(method, url, status, raw, confidential=confidential)


def refusal(*locations: str | bytes, **others: object) -> str:
    with pytest.raises(RedirectError) as caught:
        target(*locations, **others)  # type: ignore[arg-type]
    return str(caught.value)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_get_is_sent_on(status: int) -> None:
    assert is_redirect(status)
    assert target("/x", status=status) == "https://source.test:8443/x"


@pytest.mark.parametrize("status", [200, 300, 304, 305, 306, 309, 399, 400])
def test_what_is_no_redirect(status: int) -> None:
    assert not is_redirect(status)


@pytest.mark.parametrize("status", [307, 308])
def test_a_post_is_sent_on_where_it_stays_one(status: int) -> None:
    assert target("/x", method="POST", status=status) == "https://source.test:8443/x"


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_post_is_not_made_a_get(status: int) -> None:
    assert refusal("/x", method="POST", status=status) == (
        f"status {status}, which points to https://source.test:8443/x and is not followed: "
        "after a POST only 307 and 308 are"
    )


@pytest.mark.parametrize(
    ("location", "followed"),
    [
        ("/x?y=z", "https://source.test:8443/x?y=z"),
        ("x", "https://source.test:8443/a/x"),
        ("../x", "https://source.test:8443/x"),
        ("?y", "https://source.test:8443/a/b?y"),
        ("//source.test:8443/x", "https://source.test:8443/x"),
        ("https://SOURCE.test:8443/x", "https://SOURCE.test:8443/x"),
        ("/x#fragment", "https://source.test:8443/x"),
        (" /x\t", "https://source.test:8443/x"),
        ("/\u00fc x", "https://source.test:8443/%C3%BC%20x"),
        (b"/\xfc", "https://source.test:8443/%FC"),
        ("/%2f%20", "https://source.test:8443/%2f%20"),
        ('/x?match[]={a="b"}', "https://source.test:8443/x?match%5B%5D=%7Ba=%22b%22%7D"),
        ("", "https://source.test:8443/a/b?c=d"),
    ],
)
def test_locations(location: str | bytes, followed: str) -> None:
    assert target(location) == followed


def test_a_default_port_is_the_same_port() -> None:
    assert target("https://x.test:443/", url="https://x.test/a") == "https://x.test:443/"
    assert target("http://x.test/", url="http://x.test:80/a") == "http://x.test/"


def test_ipv6() -> None:
    assert target("http://[::1]:90/x", url="http://[::1]:90/") == "http://[::1]:90/x"
    assert target("/x", url="http://[::1]/") == "http://[::1]/x"
    assert "zone" in refusal("http://[fe80::1%25eth0]/")


@pytest.mark.parametrize(
    "elsewhere",
    [
        "https://other.test:8443/a",
        "https://source.test/a",
        "http://source.test:8443/a",
        "//other.test/a",
        "https://source.test.other.test:8443/a",
    ],
)
def test_what_is_confidential_stays_at_its_origin(elsewhere: str) -> None:
    told = refusal(elsewhere)
    shown = elsewhere if elsewhere.startswith("http") else f"https:{elsewhere}"
    assert f"status 307, which points to {shown} and is not followed: tokens" in told
    assert target(elsewhere, confidential=False) == shown


@pytest.mark.parametrize("confidential", [False, True])
def test_a_target_with_a_user_is_refused_and_shown_without(confidential: bool) -> None:
    told = refusal("https://user:secret@source.test:8443/x?token=hidden", confidential=confidential)
    assert "https://source.test:8443/x" in told
    for secret in ("user:", "secret", "hidden"):
        assert secret not in told


@pytest.mark.parametrize(
    "location",
    [
        "ftp://source.test/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "https://:8443/",
        "https://x.test:0/",
        "https://x.test:99999/",
        "https://a%2eb/",
        b"https://\xfc.test/",
    ],
)
def test_what_is_no_target(location: str | bytes) -> None:
    assert "expected a URL" in refusal(location, confidential=False)


@pytest.mark.parametrize("location", ["https://[::1/", "//[x]/", f"//[{'1:' * 4000}]/"])
def test_a_malformed_target(location: str) -> None:
    told = refusal(location)
    assert "is not followed: it is no URL" in told
    assert len(told) < 200


def test_several_locations() -> None:
    assert "more than one" in refusal("/x", "/y")
    assert target("/x", "/x") == "https://source.test:8443/x"


def test_a_long_target_is_cut_off() -> None:
    assert len(refusal(f"https://other.test/{'x' * 10_000}")) < 500
