"""POST /authorize: every row of docs/protocol.md, "Authorize"."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import jwt
import pytest
from twisted.internet import error as errors

from telemeter.auth.authorization_server import AcceptEveryone, AuthorizationServer
from telemeter.auth.fnv import fnv1a_base32
from telemeter.auth.keys import generate_key, load_key
from telemeter.auth.token import TokenIssuer
from telemeter.loop.timeouts import TIMEOUTS
from telemeter.web.authorize import Authorize
from telemeter.web.site.routing import make_site
from tests.fakes import (
    NOW,
    SILENCE,
    Answer,
    Broken,
    FakeWall,
    Growth,
    Log,
    Reply,
    Wire,
    ask,
    clock_at,
    json_reply,
    request_of,
)
from tests.web.server import ACCOUNT, CLUSTER, KEY, Caller, Server

BEARER = {"Authorization": "Bearer the-token"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}

Ask = Callable[[Server], Caller]


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture(params=["site", "resource tree"])
def caller(server: Server, request: pytest.FixtureRequest) -> Caller:
    """How to ask the server: through its site, or its resource tree alone."""
    return server.ask if request.param == "site" else server.ask_tree


def claims_of(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(
        token,
        KEY.public,
        algorithms=["ES256"],
        audience="telemeter-client",
        options={"verify_exp": False},
    )
    return claims


def assert_number_only(answer: Answer, log: Log) -> str:
    """Check that a 503 tells nothing but a number; return what the log has under it."""
    assert (answer.status, answer.headers["retry-after"]) == (503, "30")
    text, _, number = answer.text.rstrip("\n").partition("=")
    assert text == "authorization is not available at present, requestid"
    assert number.isdigit()
    (line,) = (line for line in log.lines if f"requestid={number}" in line)
    return line


# --- It is accepted -------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201])
def test_accepted(server: Server, caller: Caller, status: int) -> None:
    server.tollbooth.reply = json_reply({"account_id": ACCOUNT}, status)
    answer = caller("POST", f"/authorize?id={CLUSTER}", BEARER)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    token = answer.json.pop("token")
    assert answer.json == {
        "version": 1,
        "token": token,
        "expiresInSeconds": 86400,
        "labels": {"_id": CLUSTER},
    }
    assert claims_of(token) == {
        "iss": "telemeter.selfsigned",
        "aud": ["telemeter-client"],
        "sub": ACCOUNT,
        "iat": NOW,
        "nbf": NOW,
        "exp": NOW + 86400,
        "telemeter.openshift.io": {"labels": {"_id": CLUSTER}},
    }


def test_what_the_authorization_server_is_asked(server: Server, caller: Caller) -> None:
    caller("POST", f"/authorize?id={CLUSTER}", BEARER)
    question = server.tollbooth.only
    assert (question.method, question.target) == ("POST", "/tb")
    assert question.headers["content-type"] == "application/json"
    assert question.headers["accept"] == "application/json"
    assert question.json == {"cluster_id": CLUSTER, "authorization_token": "the-token"}


def test_required_labels_are_in_the_answer_and_in_the_token() -> None:
    server = Server(required={"tier": "gold", "env": "prod"})
    answer = server.ask("POST", f"/authorize?id={CLUSTER}", BEARER).json
    labels = {"_id": CLUSTER, "tier": "gold", "env": "prod"}
    assert answer["labels"] == labels
    assert claims_of(answer["token"])["telemeter.openshift.io"] == {"labels": labels}


def test_another_partition_label() -> None:
    server = Server(partition_label="cluster")
    answer = server.ask("POST", f"/authorize?id={CLUSTER}", BEARER).json
    assert answer["labels"] == {"cluster": CLUSTER}


def test_another_lifetime() -> None:
    server = Server(lifetime=60)
    answer = server.ask("POST", f"/authorize?id={CLUSTER}", BEARER).json
    assert answer["expiresInSeconds"] == 60
    assert claims_of(answer["token"])["exp"] == NOW + 60


def test_the_token_is_good_for_an_upload(server: Server) -> None:
    token = server.ask("POST", f"/authorize?id={CLUSTER}", BEARER).json["token"]
    assert server.upload(token=token, body=b"").status == 200


def test_keys_can_be_exchanged_while_it_runs() -> None:
    clock = clock_at()
    first, second = generate_key(), generate_key()
    endpoint = Authorize(AcceptEveryone(), TokenIssuer(first, 60), FakeWall(clock), "_id", {})
    site = make_site([endpoint.route()], clock)
    for key in (first, second):
        endpoint.reload(TokenIssuer(key, 60))
        token = ask(site, "POST", "/authorize?id=c", BEARER).json["token"]
        jwt.decode(
            token,
            key.public,
            algorithms=["ES256"],
            audience="telemeter-client",
            options={"verify_exp": False},
        )


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "beareR"])
def test_the_scheme_is_case_insensitive(server: Server, caller: Caller, scheme: str) -> None:
    headers = {"Authorization": f"{scheme} the-token"}
    assert caller("POST", f"/authorize?id={CLUSTER}", headers).status == 200


def test_without_an_authorization_server_every_token_is_accepted() -> None:
    server = Server(authorize=False)
    answer = server.ask("POST", f"/authorize?id={CLUSTER}", BEARER)
    assert answer.status == 200
    assert claims_of(answer.json["token"])["sub"] == fnv1a_base32("the-token")
    assert server.ask("POST", f"/authorize?id={CLUSTER}").status == 401


# --- The parameter id -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "form", "cluster"),
    [
        ("id=a", None, "a"),
        ("id=a", b"", "a"),
        ("", b"id=a", "a"),
        ("id=query", b"id=form", "form"),
        ("id=query", b"other=x", "query"),
        ("id=a&id=b", None, "a"),
        ("x=y&id=a&z", None, "a"),
        ("id=a+b%20c", None, "a b c"),
        ("id=%C3%BC", None, "\u00fc"),
        ("id=\u00fc", None, None),
        ("id=a%26b%3Dc", None, "a&b=c"),
        ("id=a=b", None, "a=b"),
        ("id=%0A", None, "\n"),
        ("", b"id=%00", "\x00"),
        ("%69d=a", None, "a"),
        # Its label would have a server refuse every sample.
        ("id=" + "x" * 255, None, "x" * 255),
        ("id=" + "x" * 256, None, None),
        ("id=" + "%C3%BC" * 128, None, None),
        ("", b"id=" + b"x" * 256, None),
        # Missing, empty, or in another spelling.
        ("", None, None),
        ("", b"", None),
        ("id", None, None),
        ("id=", None, None),
        ("", b"id=", None),
        ("ID=a", None, None),
        ("cluster=a", None, None),
        ("id=&id=b", None, None),
        ("id=a", b"id=", None),
        # Cannot be parsed.
        ("id=%", None, None),
        ("id=a&x=%zz", None, None),
        ("id=%ff", None, None),
        ("id=%ED%A0%80", None, None),
        ("id=a;b=c", None, None),
        ("", b"id=%", None),
        ("", b"\xff\xfe", None),
        ("id=a", b"x=%zz", None),
        ("id=a", b"id=b;c", None),
        ("id=a&" + "&".join(f"x{n}=y" for n in range(200)), None, None),
    ],
)
def test_where_the_id_comes_from(
    server: Server, query: str, form: bytes | None, cluster: str | None
) -> None:
    headers = {**BEARER, **(FORM if form is not None else {})}
    wire = Wire(server.site)
    # Written as it is, because a client in good order would not send some of these.
    wire.send(request_of("POST", f"/authorize?{query}".rstrip("?"), headers, form))
    if cluster is None:
        assert wire.answer.status == 400
        assert server.tollbooth.received == []
    else:
        assert wire.answer.json["labels"] == {"_id": cluster}
        assert server.tollbooth.only.json["cluster_id"] == cluster


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/x-www-form-urlencoded", 200),
        ("application/x-www-form-urlencoded; charset=utf-8", 200),
        ("Application/X-WWW-Form-Urlencoded", 200),
        ("multipart/form-data; boundary=x", 400),
        ("application/json", 400),
        ("text/plain", 400),
        ("", 400),
    ],
)
def test_only_forms_are_read(server: Server, content_type: str, status: int) -> None:
    headers = {**BEARER, "Content-Type": content_type}
    assert server.ask("POST", "/authorize", headers, b"id=a").status == status


@pytest.mark.parametrize(("size", "status"), [(4096, 200), (4097, 400), (100_000, 400)])
def test_a_body_has_4_kib_at_most(server: Server, caller: Caller, size: int, status: int) -> None:
    body = b"id=a&x=".ljust(size, b"y")
    answer = caller("POST", "/authorize", {**BEARER, **FORM}, body)
    assert answer.status == status
    assert ("4096 bytes (fixed), it has" in answer.text) is (status == 400)


@pytest.mark.parametrize(("fields", "status"), [(100, 200), (101, 400), (2000, 400)])
def test_so_many_fields_and_no_more(server: Server, fields: int, status: int) -> None:
    form = "&".join(["id=a", *["x"] * (fields - 1)])
    answer = server.ask("POST", "/authorize", {**BEARER, **FORM}, form.encode())
    assert answer.status == status
    if status == 400:
        expected = f"the form cannot be parsed: it may have 100 fields (fixed), it has {fields}"
        assert answer.text == expected + "\n"


def test_a_body_is_bounded_whatever_it_is(server: Server, caller: Caller) -> None:
    assert caller("POST", "/authorize?id=a", BEARER, bytes(4097)).status == 400


# --- Who is it? -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [None, "", "Bearer", "Bearer ", "Bearer   ", "Basic YTpi", "the-token", "Bearer\tx"]
)
def test_no_token_is_401(server: Server, caller: Caller, value: str | None) -> None:
    headers = {} if value is None else {"Authorization": value}
    answer = caller("POST", f"/authorize?id={CLUSTER}", headers)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "the-token" not in answer.text
    assert server.tollbooth.received == []


@pytest.mark.parametrize("value", [None, "", "Bearer", "Basic YTpi"])
def test_no_token_beside_a_form_is_401(server: Server, caller: Caller, value: str | None) -> None:
    headers = FORM if value is None else {**FORM, "Authorization": value}
    answer = caller("POST", "/authorize", headers, b"id=" + CLUSTER.encode())
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"


# --- What the authorization server says -----------------------------------------------------------


@pytest.mark.parametrize("content_type", ["application/json", "text/html", "", "nonsense"])
@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, "unauthorized"),
        (403, "forbidden"),
        (404, "not found"),
        (409, "already in use under a different account or is not sufficiently random"),
    ],
)
def test_a_no_passes_with_a_plain_reason(
    server: Server, caller: Caller, status: int, reason: str, content_type: str
) -> None:
    server.tollbooth.reply = Reply(status, b"<secret details>", {"Content-Type": content_type})
    answer = caller("POST", f"/authorize?id={CLUSTER}", BEARER)
    assert answer.status == status
    assert reason in answer.text
    assert "secret" not in answer.text
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert "retry-after" not in answer.headers


def test_429_is_for_five_minutes(server: Server, caller: Caller) -> None:
    server.tollbooth.reply = Reply(429, b"secret", {"Retry-After": "7"})
    answer = caller("POST", f"/authorize?id={CLUSTER}", BEARER)
    assert (answer.status, answer.headers["retry-after"]) == (429, "300")
    assert "secret" not in answer.text


@pytest.mark.parametrize("status", [400, 402, 405, 410, 413, 418, 422, 451, 499])
def test_another_4xx_passes(server: Server, caller: Caller, status: int) -> None:
    server.tollbooth.reply = Reply(status, b"secret")
    answer = caller("POST", f"/authorize?id={CLUSTER}", BEARER)
    assert answer.status == status
    assert answer.text.strip()
    assert "secret" not in answer.text


def as_json(text: str | bytes, status: int = 200) -> Reply:
    body = text if isinstance(text, bytes) else text.encode()
    return Reply(status, body, {"Content-Type": "application/json"})


BROKEN_REPLIES: dict[str, tuple[Reply, str]] = {
    "500": (json_reply({"account_id": "a"}, 500), "500"),
    "503": (Reply(503, b"secret"), "503"),
    "599": (Reply(599), "599"),
    "302": (Reply(302, headers={"Location": "http://elsewhere.test/"}), "302"),
    "204": (Reply(204), "204"),
    "299": (json_reply({"account_id": "a"}, 299), "299"),
    "no content type": (Reply(200, b'{"account_id": "a"}', {"Content-Type": ""}), "json"),
    "another content type": (
        json_reply({"account_id": "a"}, content_type="text/html"),
        "text/html",
    ),
    "a binary content type": (
        Reply(200, b'{"account_id": "a"}', {"Content-Type": b"\xff"}),
        "expected application/json",
    ),
    "no JSON": (as_json("secret"), "malformed"),
    "an empty body": (as_json(""), "malformed"),
    "half of it": (as_json('{"account_id": "a"'), "malformed"),
    "not UTF-8": (as_json(b'{"account_id": "\xff"}'), "malformed"),
    "deep JSON": (as_json("[" * 20_000), "malformed"),
    "no account": (as_json("{}"), "account_id"),
    "an empty account": (as_json('{"account_id": ""}'), "account_id"),
    "a null account": (as_json('{"account_id": null}'), "account_id"),
    "a number as account": (as_json('{"account_id": 7}'), "account_id"),
    "a list as account": (as_json('{"account_id": ["a"]}'), "account_id"),
    "a list": (as_json('[{"account_id": "a"}]'), "account_id"),
    "a string": (as_json('"account_id"'), "account_id"),
    "null": (as_json("null"), "account_id"),
    "over 32 KiB": (as_json(json.dumps({"x": "y" * 40_000, "account_id": "a"})), "malformed"),
}


@pytest.mark.parametrize("name", BROKEN_REPLIES)
def test_what_is_broken_there_is_503_here(
    server: Server, caller: Caller, name: str, log: Log
) -> None:
    server.tollbooth.reply, word = BROKEN_REPLIES[name]
    answer = caller("POST", f"/authorize?id={CLUSTER}", BEARER)
    if caller == server.ask:
        line = assert_number_only(answer, log)
        assert word in line
        assert "the authorization server" in line
        assert "the-token" not in line
    assert (answer.status, answer.headers["retry-after"]) == (503, "30")
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    "error",
    [errors.ConnectionRefusedError(), errors.DNSLookupError("tollbooth.internal"), OSError("tls")],
    ids=["refused", "no host", "TLS"],
)
def test_a_server_that_cannot_be_reached_is_503(error: Exception, log: Log) -> None:
    clock = clock_at()
    authorizer = AuthorizationServer(Broken(error), clock, "http://tollbooth.test")
    endpoint = Authorize(authorizer, TokenIssuer(KEY, 60), FakeWall(clock), "_id", {})
    answer = ask(make_site([endpoint.route()], clock), "POST", "/authorize?id=c", BEARER)
    assert_number_only(answer, log)
    assert "tollbooth" not in answer.text


def test_a_server_that_does_not_answer_is_503_after_10_seconds(server: Server, log: Log) -> None:
    server.tollbooth.reply = SILENCE
    wire = Wire(server.site)
    wire.send(request_of("POST", f"/authorize?id={CLUSTER}", BEARER))
    server.clock.advance(9.9)
    assert wire.written == b""
    server.clock.advance(0.1)
    assert "no answer in time" in assert_number_only(wire.answer, log)


def test_every_503_has_a_number_of_its_own(server: Server) -> None:
    server.tollbooth.reply = Reply(500)
    texts = {server.ask("POST", f"/authorize?id={CLUSTER}", BEARER).text for _ in range(5)}
    assert len(texts) == 5


def test_up_to_32_kib_of_the_answer_are_read(server: Server) -> None:
    text = json.dumps({"account_id": "a", "x": ""})
    server.tollbooth.reply = as_json(text[:-2] + "y" * (32 * 1024 - len(text)) + text[-2:])
    assert server.ask("POST", f"/authorize?id={CLUSTER}", BEARER).status == 200


def test_a_client_that_gives_up_leaves_no_error(server: Server, log: Log) -> None:
    server.tollbooth.reply = SILENCE
    wire = Wire(server.site)
    wire.send(request_of("POST", f"/authorize?id={CLUSTER}", BEARER))
    wire.vanish()
    assert [event["status"] for event in log.requests()] == [499]
    server.clock.advance(TIMEOUTS.request)
    assert server.clock.getDelayedCalls() == []


# --- Which comes first ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "FOO"])
def test_another_method_is_405_with_allow(server: Server, method: str) -> None:
    for body in (None, bytes(5000)):
        answer = server.ask(method, "/authorize", body=body)
        assert (answer.status, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("headers", "body"), [({}, bytes(5000)), (FORM, b"%"), ({}, None)], ids=["long", "form", "id"]
)
def test_400_comes_before_401(
    server: Server, caller: Caller, headers: Mapping[str, str], body: bytes | None
) -> None:
    assert caller("POST", "/authorize", headers, body).status == 400


def test_401_comes_before_the_authorization_server(server: Server, caller: Caller) -> None:
    server.tollbooth.reply = Reply(503)
    assert caller("POST", "/authorize?id=c").status == 401


# --- What is logged -------------------------------------------------------------------------------


def test_the_cluster_is_logged_and_the_token_is_not(server: Server, log: Log) -> None:
    answer = server.ask("POST", f"/authorize?id={CLUSTER}", BEARER)
    (event,) = log.requests()
    assert event["cluster"] == CLUSTER
    text = "".join(log.lines)
    assert "the-token" not in text
    assert answer.json["token"] not in text


def test_the_requests_to_the_authorization_server_are_counted(server: Server) -> None:
    growth = Growth()
    server.ask("POST", f"/authorize?id={CLUSTER}", BEARER)
    server.tollbooth.reply = Reply(403)
    server.ask("POST", f"/authorize?id={CLUSTER}", BEARER)
    for code in ("200", "403"):
        labels = {"client": "authorize", "method": "post"}
        assert growth.of("client_api_requests_total", code=code, **labels) == 1
    assert growth.of("request_duration_seconds_count", client="authorize", method="post") == 2
    assert growth.of("client_in_flight_requests", client="authorize") == 0


def test_a_key_in_another_format_signs_as_well() -> None:
    # What --shared-key reads is tested with the keys; here, that the endpoint does not care.
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    private = rsa.generate_private_key(65537, 2048)
    der = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    clock = clock_at()
    issuer = TokenIssuer(load_key(der), 60)
    endpoint = Authorize(AcceptEveryone(), issuer, FakeWall(clock), "_id", {})
    answer = ask(make_site([endpoint.route()], clock), "POST", "/authorize?id=c", BEARER)
    assert jwt.get_unverified_header(answer.json["token"])["alg"] == "RS256"
