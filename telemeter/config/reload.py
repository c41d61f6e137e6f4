"""Reading files again while the daemon runs: all or nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from inspect import isawaitable
from typing import Final, TypeAlias

from prometheus_client import Gauge
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.usage import UsageError

from telemeter.config.disk import Disk
from telemeter.config.files import Signature, signature
from telemeter.loop.clocks import LONG_AGO, WallClock

SUCCESSFUL: Final = Gauge(
    "telemeter_config_last_reload_successful",
    "Whether the files could be used when they were last read: 1 or 0.",
    multiprocess_mode="mostrecent",
)
SUCCESS_TIME: Final = Gauge(
    "telemeter_config_last_reload_success_timestamp_seconds",
    "When the files were last read and could be used.",
    multiprocess_mode="mostrecent",
)
#: How often files are looked at for changes, in seconds.
WATCH_SECONDS: Final = 5.0
#: The least time between two reloads that signals asked for, in seconds: they may come in storms.
_PAUSE_SECONDS: Final = 0.5

#: What there is after a reload, by names, for the log.
Told: TypeAlias = Mapping[str, object] | None
#: Reads files again and uses them; raises `UsageError`, and then has changed nothing.
Reload: TypeAlias = Callable[[], Awaitable[Told] | Told]

log = Logger()


class NotReloadedError(ValueError):
    """The old configuration stays; the text says why, and has been logged."""


class Reloader(Service):
    """A service that reloads on request, and some files when they change.

    Files that belong together are replaced one after the other, and a look may fall in between. So
    what has just changed and cannot be used is no failure yet, but is read once more at the next
    look.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        wall: WallClock,
        disk: Disk,
        reload: Reload,
        watched: Sequence[str] = (),
        reload_watched: Reload | None = None,
        seen: Signature | None = None,
    ) -> None:
        """Make a reloader.

        Args:
            reactor: times looks.
            wall: tells the time of day.
            disk: looks at files.
            reload: reads all files again.
            watched: paths to look at for changes.
            reload_watched: the same as `reload`, for the watched files only.
            seen: their state before they were read the first time; None: that of now.
        """
        self._reactor = reactor
        self._wall = wall
        self._disk = disk
        self._reload = reload
        self._watched = [path for path in watched if path]
        self._reload_watched = reload_watched
        self._signature = signature(self._watched) if seen is None else seen
        self._look_again = False
        self._cannot_look = ""
        self._watch = LoopingCall(self._look)
        self._watch.clock = reactor
        self._failing: set[Reload] = set()
        self._one_at_a_time = DeferredLock()
        self._is_asked = False
        self._asked_at: float = LONG_AGO
        self._later: IDelayedCall | None = None

    def startService(self) -> None:
        super().startService()
        self._succeeded(self._reload)
        if self._watched:
            self._watch.start(WATCH_SECONDS, now=False).addErrback(
                lambda failure: log.failure("files are not watched any more", failure)
            )

    def stopService(self) -> None:
        super().stopService()
        if self._later is not None and self._later.active():
            self._later.cancel()
        if self._watch.running:
            self._watch.stop()

    async def reload(self) -> None:
        """Reload now; raises `NotReloadedError` if the old configuration stays."""
        await self._attempt(self._reload)

    async def _attempt(self, reload: Reload, *, just_changed: bool = False) -> None:
        await self._one_at_a_time.acquire()
        if reload is self._reload:
            self._is_asked = False
        try:
            told = reload()
            if isawaitable(told):
                told = await told
        except UsageError as error:
            reason = str(error)
            if just_changed:
                self._look_again = True
                log.info("changed files cannot be used yet", reason=reason)
            else:
                self._failed(reload)
                log.error("not reloaded, the old configuration stays", reason=reason)
            raise NotReloadedError(reason) from None
        except Exception:
            self._failed(reload)
            raise
        finally:
            self._one_at_a_time.release()
        self._succeeded(reload)
        log.info("reloaded", **(told or {}))

    def _failed(self, reload: Reload) -> None:
        self._failing.add(reload)
        SUCCESSFUL.set(0)

    def _succeeded(self, reload: Reload) -> None:
        """Record a success: that of all files makes up for any failure, others for their own."""
        if reload is self._reload:
            self._failing.clear()
        self._failing.discard(reload)
        if not self._failing:
            SUCCESSFUL.set(1)
            SUCCESS_TIME.set(self._wall.now())

    def reload_quietly(self) -> None:
        """Reload as soon as no other is under way, and soon after the last; it is logged."""
        if self._is_asked or (self._later is not None and self._later.active()):
            return  # that one has yet to read the files
        wait = self._asked_at + _PAUSE_SECONDS - self._reactor.seconds()
        if wait > 0:
            self._later = self._reactor.callLater(wait, self._reload_now)
        else:
            self._reload_now()

    def _reload_now(self) -> None:
        self._is_asked = True
        self._asked_at = self._reactor.seconds()
        self._attempt_quietly(self._reload)

    def _attempt_quietly(self, reload: Reload, *, just_changed: bool = False) -> None:
        attempt = Deferred.fromCoroutine(self._attempt(reload, just_changed=just_changed))
        # A refusal has been logged, and nobody is waiting for an answer.
        attempt.addErrback(lambda failure: failure.trap(NotReloadedError) and None)
        attempt.addErrback(lambda failure: log.failure("the reload broke off", failure))

    def _look(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._look_for_changes())

    async def _look_for_changes(self) -> None:
        try:
            seen = await self._disk.signature(self._watched, "a look for changed files")
        except UsageError as error:
            if not self._cannot_look:
                log.error("changes of files are not seen at present", reason=str(error))
            self._cannot_look = str(error)
            return
        if self._cannot_look:
            self._cannot_look = ""
            log.info("changes of files are seen again")
        if not self.running:
            return
        before, self._signature = self._signature, seen
        just_changed = before != self._signature
        if self._reload_watched is not None and (just_changed or self._look_again):
            self._look_again = False
            self._attempt_quietly(self._reload_watched, just_changed=just_changed)
