"""The resource tree by itself, as any other site would serve it."""

from __future__ import annotations

from typing import Any

import pytest
from treq.testing import StubTreq
from twisted.internet.defer import Deferred
from twisted.web.iweb import IRequest

from telemeter.web.site.refused import Refused
from telemeter.web.site.routing import Route, make_resource
from tests.fakes import Log, has_fired, result_of


class Tree:
    """A tree with a route of each kind."""

    def __init__(self) -> None:
        self.late: Deferred[bytes] = Deferred()
        self.client: Any = StubTreq(
            make_resource(
                [
                    Route("/", lambda _: b"index"),
                    Route("/plain", lambda _: b"plain", ("GET", "POST")),
                    Route("/coroutine", self.coroutine),
                    Route("/late", lambda _: self.late),
                    Route("/empty", self.empty),
                    Route("/refused", self.refuses),
                    Route("/broken", self.breaks),
                    Route("/breaks/late", self.breaks_late),
                ]
            )
        )

    async def coroutine(self, request: IRequest) -> bytes:
        return b"coroutine"

    def empty(self, request: IRequest) -> bytes:
        request.setResponseCode(204)
        return b""

    def refuses(self, request: IRequest) -> bytes:
        raise Refused(409, "taken", {"X-By": "me"})

    def breaks(self, request: IRequest) -> bytes:
        raise KeyError("secret")

    async def breaks_late(self, request: IRequest) -> bytes:
        await self.late
        raise KeyError("secret")

    def ask(self, method: str, target: str) -> tuple[int, str, dict[str, str]]:
        response = result_of(self.client.request(method, f"http://x.test{target}"))
        text = result_of(self.client.text_content(response))
        headers = {
            name.decode().lower(): values[0].decode()
            for name, values in response.headers.getAllRawHeaders()
        }
        return response.code, text, headers


@pytest.fixture
def tree() -> Tree:
    return Tree()


@pytest.mark.parametrize(
    ("target", "text"), [("/", "index"), ("/plain", "plain"), ("/coroutine", "coroutine")]
)
def test_handlers_answer(tree: Tree, target: str, text: str) -> None:
    status, body, _ = tree.ask("GET", target)
    assert (status, body) == (200, text)


def test_a_handler_may_answer_late(tree: Tree) -> None:
    asked = tree.client.get("http://x.test/late")
    assert not has_fired(asked)
    tree.late.callback(b"late")
    tree.client.flush()
    assert result_of(tree.client.content(result_of(asked))) == b"late"


def test_an_answer_without_a_body_has_no_length(tree: Tree) -> None:
    status, body, headers = tree.ask("GET", "/empty")
    assert (status, body) == (204, "")
    assert "content-length" not in headers


def test_a_refusal(tree: Tree) -> None:
    status, body, headers = tree.ask("GET", "/refused")
    assert (status, body, headers["x-by"]) == (409, "taken\n", "me")
    assert headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize("late", [False, True])
def test_a_failure_is_500_with_a_number(tree: Tree, late: bool, log: Log) -> None:
    tree.late.callback(b"")
    status, body, _ = tree.ask("GET", "/breaks/late" if late else "/broken")
    assert status == 500
    (event,) = log.of("internal server error")
    assert body == f"Internal server error, requestid={event['requestid']}\n"
    log.errors_are_fine = True


@pytest.mark.parametrize("target", ["/nowhere", "/plain/", "/plain/x", "/%20"])
def test_nothing_there_is_404_in_plain_text(tree: Tree, target: str) -> None:
    status, body, headers = tree.ask("GET", target)
    assert (status, body) == (404, "not found\n")
    assert headers["content-type"] == "text/plain; charset=utf-8"


def test_another_method_is_405_in_plain_text(tree: Tree) -> None:
    status, body, headers = tree.ask("DELETE", "/plain")
    assert status == 405
    assert set(headers["allow"].split(", ")) >= {"GET", "POST"}
    assert body.startswith("this path takes ")
