"""Reading files while the daemon runs, from disks that may hang."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.python.usage import UsageError

from telemeter.config import disk as disk_module
from telemeter.config.disk import Disk
from telemeter.config.files import from_disk, reading_from, signature
from telemeter.config.reading import read_file
from telemeter.config.reload import WATCH_SECONDS, Reloader
from telemeter.loop.threads import in_daemon_thread
from tests.fakes import FakeWall, Log, result_of, run, start
from tests.reactor import in_reactor, reactor
from tests.tap.world import FakeReactor


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    """Three files, of which the second is not there."""
    found = [tmp_path / name for name in ("one", "two", "three")]
    for path in (found[0], found[2]):
        path.write_text(path.name)
    return [str(path) for path in found]


class Hanging:
    """A disk that hangs with one file.

    Attributes:
        path: the file.
        threads: those that it holds.
    """

    def __init__(self, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.threads: list[threading.Thread] = []
        self._over = threading.Event()
        monkeypatch.setattr(disk_module, "from_disk", self._holding(from_disk))
        monkeypatch.setattr(disk_module, "signature", self._holding(signature))

    def _holding(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def hold(what: Any) -> Any:
            if what in (self.path, [self.path]):
                self.threads.append(threading.current_thread())
                self._over.wait()
            return function(what)

        return hold

    def is_over(self) -> None:
        """Let everybody go on."""
        self._over.set()
        for thread in self.threads:
            thread.join()


@pytest.fixture
def hanging(paths: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Hanging]:
    """A disk that hangs with the third file."""
    hanging = Hanging(paths[2], monkeypatch)
    yield hanging
    hanging.is_over()


def test_what_there_is_and_what_is_wrong(paths: list[str]) -> None:
    disk = Disk(FakeReactor(), 10)
    with reading_from(run(disk.read(paths, "a test"))):
        for path in paths:
            Path(path).write_text("too late")
        assert read_file("flag", paths[0]) == b"one"
        with pytest.raises(UsageError, match=r"--flag .*expected a readable file: No such file"):
            read_file("flag", paths[1])
        assert read_file("flag", paths[2]) == b"three"


def test_the_state_of_files(paths: list[str]) -> None:
    disk = Disk(FakeReactor(), 10)
    assert run(disk.signature(paths, "a test")) == signature(paths)
    assert run(disk.signature([], "a test")) == ()


@in_reactor
async def test_a_thread_does_it() -> None:
    found = await in_daemon_thread(reactor, threading.current_thread)
    assert found.daemon
    assert found is not threading.main_thread()
    with pytest.raises(KeyError):
        await in_daemon_thread(reactor, lambda: dict[str, str]()["x"])


@in_reactor
async def test_nobody_waits_for_ever(paths: list[str], hanging: Hanging) -> None:
    disk = Disk(reactor, 0.05)
    for doing in (disk.read, disk.signature):
        with pytest.raises(UsageError) as caught:
            await doing(paths, "the reload")
        text = f"the reload: {hanging.path!r} could not be read within 0.05 seconds"
        assert str(caught.value) == text
    # Others can be read meanwhile.
    assert dict(await disk.read(paths[:1], "the reload")) == {paths[0]: b"one"}


@in_reactor
async def test_threads_that_hang_are_counted(paths: list[str], hanging: Hanging) -> None:
    disk = Disk(reactor, 0.01)
    for _ in range(disk_module._MOST_THREADS):
        with pytest.raises(UsageError, match="could not be read"):
            await disk.read(paths, "the reload")
    with pytest.raises(UsageError) as caught:
        await disk.read(paths[:1], "the reload")
    assert str(caught.value) == (
        f"the reload: 10 attempts to read files have not ended, the last one with {hanging.path!r}"
    )
    assert len(hanging.threads) == 10
    hanging.is_over()
    while True:  # the test has a deadline
        try:
            assert len(await disk.read(paths, "the reload")) == 3
        except UsageError:
            await deferLater(reactor, 0.001, lambda: None)
        else:
            break


@in_reactor
async def test_who_waits_may_give_up(paths: list[str], hanging: Hanging) -> None:
    reading: Deferred[Any] = start(Disk(reactor, 10).read(paths, "the reload"))
    reading.cancel()
    with pytest.raises(CancelledError):
        result_of(reading)


# --- Those who look for changes -------------------------------------------------------------------


class Stuck(Disk):
    """A disk that hangs from time to time."""

    is_stuck = False

    async def signature(self, *arguments: Any) -> Any:
        if self.is_stuck:
            raise UsageError("'x' could not be read within 10 seconds")
        return await super().signature(*arguments)


def test_looks_for_changes_go_on_when_the_disk_does(paths: list[str], log: Log) -> None:
    world, reloads = FakeReactor(), []
    disk = Stuck(world, 10)
    reloader = Reloader(
        world, FakeWall(world), disk, lambda: None, paths, lambda: reloads.append(1)
    )
    reloader.startService()
    disk.is_stuck = True
    Path(paths[0]).write_text("changed, and longer")
    world.pump([WATCH_SECONDS] * 3)
    (event,) = log.of("changes of files are not seen at present")
    assert event["reason"] == "'x' could not be read within 10 seconds"
    assert reloads == []
    disk.is_stuck = False
    world.pump([WATCH_SECONDS] * 3)
    assert reloads == [1]
    assert len(log.of("changes of files are seen again")) == 1
    reloader.stopService()
    log.errors_are_fine = True
