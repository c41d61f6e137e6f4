"""POST /-/reload."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from telemeter.web.reload import reload_route
from telemeter.web.site.routing import make_site
from tests.fakes import ask


class Reloading:
    """A site that can be told to reload."""

    def __init__(self, clock: Clock) -> None:
        self.reloads = 0
        self.problem = ""
        self.site = make_site([reload_route(self.reload)], clock)

    async def reload(self) -> None:
        if self.problem:
            raise ValueError(self.problem)
        self.reloads += 1


@pytest.fixture
def reloading(clock: Clock) -> Reloading:
    return Reloading(clock)


def test_reload(reloading: Reloading) -> None:
    answer = ask(reloading.site, "POST", "/-/reload")
    assert (answer.status, answer.text) == (200, "reloaded\n")
    assert reloading.reloads == 1
    assert ask(reloading.site, "POST", "/-/reload", body=b"ignored").status == 200
    assert reloading.reloads == 2


def test_a_reload_that_fails_says_why(reloading: Reloading) -> None:
    reloading.problem = "--match-file 'm': line 2"
    answer = ask(reloading.site, "POST", "/-/reload")
    assert answer.status == 500
    reason = "not reloaded, the old configuration stays: --match-file 'm': line 2\n"
    assert answer.text == reason


@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD", "DELETE"])
def test_reload_takes_post_only(reloading: Reloading, method: str) -> None:
    answer = ask(reloading.site, method, "/-/reload")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert reloading.reloads == 0
