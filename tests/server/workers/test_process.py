"""A worker, without its process: what it makes of what its parent says."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from telemeter.config.server_options import Options
from telemeter.server.workers.process import Worker, WorkerOptions
from tests.fakes import FakeWall, has_fired, start
from tests.tap.world import FakeReactor

# --- Its flags, and its files ---------------------------------------------------------------------


def test_it_does_not_look_up_again_where_to_listen() -> None:
    flags = ["--listen", "no-such-host.invalid:1", "--listen-internal", "systemd:domain=INET"]
    options = WorkerOptions()
    options.parseOptions(flags)
    assert options["listen"] == "no-such-host.invalid:1"
    with pytest.raises(SystemExit):
        Options().parseOptions(flags)


class Reloaded:
    """A worker that has been configured."""

    def __init__(self, *flags: str) -> None:
        reactor = FakeReactor()
        self.worker = Worker(reactor, FakeWall(reactor), 0)
        self.used: list[Any] = []
        untyped: Any = self.worker
        untyped._options = WorkerOptions()
        untyped._options.parseOptions(list(flags))
        untyped._endpoints = self

    def reload(self, config: Any) -> None:
        self.used.append(config)

    @property
    def tls(self) -> Reloaded:
        return self


def test_other_files_are_used_when_that_is_decided(tmp_path: Any) -> None:
    path = tmp_path / "whitelist"
    path.write_text("one\n")
    reloaded = Reloaded("--whitelist-file", str(path))
    assert reloaded.worker.prepare({str(path): b"two\nthree\n"}, False) == ""
    assert reloaded.used == []
    reloaded.worker.commit()
    (config,) = reloaded.used
    assert len(config.samples.whitelist.selectors) == 2


def test_only_what_the_parent_has_read_is_there(tmp_path: Any) -> None:
    path = tmp_path / "whitelist"
    path.write_text("one\n")
    reloaded = Reloaded("--whitelist-file", str(path))
    assert "--whitelist-file" in reloaded.worker.prepare({}, False)
    assert "line 1" in reloaded.worker.prepare({str(path): b"{two\n"}, False)


def test_certificates_alone() -> None:
    reloaded = Reloaded()
    assert reloaded.worker.prepare({}, True) == ""
    reloaded.worker.commit()
    assert reloaded.used == [None]


# --- Its end --------------------------------------------------------------------------------------


class Finished:
    """Services that have stopped."""

    finished = 3

    async def stopService(self) -> None:
        """Have nothing to do."""


def test_it_does_not_end_while_it_reads_what_its_parent_says() -> None:
    reactor = FakeReactor()
    worker: Any = Worker(reactor, FakeWall(reactor), 0)
    reported: Deferred[None] = Deferred()
    worker.control.report = lambda kind, body: reported
    stopping = start(worker._finish(Finished()))
    reported.callback(None)
    assert not has_fired(stopping)
    reactor.advance(0)
    assert has_fired(stopping)
    assert reactor.getDelayedCalls() == []
