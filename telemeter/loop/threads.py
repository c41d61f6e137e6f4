"""Work that takes long: when it goes to a thread, so that the event loop stays free."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final, ParamSpec, Protocol, TypeVar

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorFromThreads, IReactorThreads, IReactorTime
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure

from telemeter.loop.turns import turn

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_Converted = TypeVar("_Converted", covariant=True)


class Runner(Protocol):
    """A caller of functions, perhaps in a thread, that does not keep the reactor from its work."""

    def __call__(
        self,
        function: Callable[_Arguments, _Result],
        *arguments: _Arguments.args,
        **named: _Arguments.kwargs,
    ) -> Awaitable[_Result]: ...


def thread_runner(reactor: IReactorThreads, input_error: type[Exception]) -> Runner:
    """Return what calls functions in the reactor's threads.

    Args:
        reactor: has the threads.
        input_error: raised by functions for input that is wrong, which is no fault of ours; its
            traceback is not kept, see `_call`.
    """

    async def run(
        function: Callable[_Arguments, _Result],
        *arguments: _Arguments.args,
        **named: _Arguments.kwargs,
    ) -> _Result:
        pool = reactor.getThreadPool()
        call = partial(function, *arguments, **named)
        result = await deferToThreadPool(reactor, pool, _call, input_error, call)
        if isinstance(result, _Wrong):
            error = result.error
            try:
                raise error
            finally:
                del result, error  # they hold this frame from now on
        return result

    return run


class _Wrong:
    """An input that is wrong, and why."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _call(input_error: type[Exception], call: Callable[[], _Result]) -> _Result | _Wrong:
    """Call a function in a thread; what is wrong with the input is returned, without a traceback.

    Twisted's threads hold what was raised in a frame that this holds in turn. So it would stay
    until Python looks for such circles, and with it what its frames hold: the sender's large body.
    Nobody needs to know from where in our code a sender's fault was raised.
    """
    try:
        return call()
    except input_error as error:
        error.__traceback__ = error.__context__ = error.__cause__ = None
        return _Wrong(error)


@dataclass(frozen=True, slots=True)
class Runners:
    """The runners of work that takes more than a millisecond, each for one thing after the other.

    Attributes:
        thread: calls functions in a thread.
        turn: calls functions here, one in a turn of the event loop.
    """

    thread: Runner
    turn: Runner


def one_at_a_time(run: Runner, clock: IReactorTime) -> Runners:
    """Return runners that do one thing after the other.

    Conversions in several threads would only take Python's lock from each other, and from the event
    loop; and several in one turn of the event loop keep all others waiting. Who gives up waiting is
    not served.

    Args:
        run: calls functions in threads.
        clock: calls later.
    """
    lock = DeferredLock()

    async def run_alone(
        function: Callable[_Arguments, _Result],
        *arguments: _Arguments.args,
        **named: _Arguments.kwargs,
    ) -> _Result:
        await lock.acquire()
        running = Deferred.fromCoroutine(_awaited(run(function, *arguments, **named)))
        running.addBoth(_release, lock)  # when the thread is done, whoever still waits for it
        # Cancelled, the thread goes on all the same, and the next has to wait for it.
        waiting: Deferred[_Result] = Deferred()
        running.chainDeferred(waiting)
        return await waiting

    async def run_in_turn(
        function: Callable[_Arguments, _Result],
        *arguments: _Arguments.args,
        **named: _Arguments.kwargs,
    ) -> _Result:
        await lock.acquire()
        try:
            await turn(clock)
            return function(*arguments, **named)
        finally:
            lock.release()

    return Runners(run_alone, run_in_turn)


async def _awaited(awaitable: Awaitable[_Result]) -> _Result:
    return await awaitable


def _release(result: _Result, lock: DeferredLock) -> _Result:
    lock.release()
    return result


class Converter(Protocol[_Arguments, _Converted]):
    """A conversion that a compiled module does, where it can, and a reference otherwise."""

    def compiled(
        self, *arguments: _Arguments.args, **named: _Arguments.kwargs
    ) -> _Converted | None:
        """Convert with the compiled module; None if only the reference can."""

    def reference(self, *arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Converted:
        """Convert with the reference."""
        ...

    def convert(self, *arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Converted:
        """Convert with the one, or else with the other."""
        ...


@dataclass(frozen=True, slots=True)
class ThreadPolicy:
    """The sizes up to which work is done at once: to hand it to a thread would cost more.

    Attributes:
        at_once: up to how many bytes the compiled module is tried without waiting for a turn.
        compiled: up to how many bytes it is tried here.
        reference: up to how many bytes the reference converts at once.
    """

    at_once: int
    compiled: int
    reference: int

    async def convert(
        self,
        run: Runners,
        size: int,
        converter: Converter[_Arguments, _Result],
        *arguments: _Arguments.args,
        **named: _Arguments.kwargs,
    ) -> _Result:
        """Convert without keeping the reactor from its work for long.

        Args:
            run: calls functions in a thread, and in turns.
            size: the bytes to convert.
            converter: converts.
            arguments: of the conversion.
            named: likewise.

        Raises:
            Exception: as of the converter.
        """
        convert = converter.convert
        if size <= self.compiled:
            if size <= self.at_once:
                converted = converter.compiled(*arguments, **named)
            else:
                converted = await run.turn(converter.compiled, *arguments, **named)
            if converted is not None:
                return converted
            convert = converter.reference  # the compiled module has just been tried
        if size <= self.reference:
            return convert(*arguments, **named)
        return await run.thread(convert, *arguments, **named)


#: The sizes of uploads and remote writes, decompressed, that are converted here: compiled code
#: takes a millisecond for 256 KiB, some for 4 MiB, and the reference a millisecond for 4 KiB.
CONVERTED_HERE: Final = ThreadPolicy(at_once=256 << 10, compiled=4 << 20, reference=4096)


def run_if_large(run: Runner, size: int, most: int) -> Runner:
    """Return what calls functions in a thread for more than so many bytes, and here otherwise."""
    return run if size > most else run_here


async def run_here(
    function: Callable[_Arguments, _Result],
    *arguments: _Arguments.args,
    **named: _Arguments.kwargs,
) -> _Result:
    """Call a function at once: for tests, and where there is nothing to keep waiting."""
    return function(*arguments, **named)


# --- What may never end ---------------------------------------------------------------------------


def in_daemon_thread(
    reactor: IReactorFromThreads, function: Callable[[], _Result]
) -> Deferred[_Result]:
    """Call a function in a thread of its own, which does not keep the process from its end.

    The reactor's own threads would: it waits for them when it stops.
    """
    done: Deferred[_Result] = Deferred()

    def call() -> None:
        try:
            result = function()
        except Exception:
            reactor.callFromThread(done.errback, Failure())
        else:
            reactor.callFromThread(done.callback, result)

    start_daemon_thread(reactor, call)
    return done


class DaemonThread:
    """A thread that calls functions one after the other, and that no end of a process waits for."""

    def __init__(self, reactor: IReactorFromThreads) -> None:
        self._reactor = reactor
        self._calls: SimpleQueue[tuple[Callable[[], Any], Deferred[Any]]] | None = None

    async def run(
        self,
        function: Callable[_Arguments, _Result],
        *arguments: _Arguments.args,
        **named: _Arguments.kwargs,
    ) -> _Result:
        """Call a function in it; a `Runner`."""
        if self._calls is None:
            self._calls = SimpleQueue()
            start_daemon_thread(self._reactor, partial(self._call_all, self._calls))
        done: Deferred[_Result] = Deferred()
        self._calls.put((partial(function, *arguments, **named), done))
        return await done

    def _call_all(self, calls: SimpleQueue[tuple[Callable[[], Any], Deferred[Any]]]) -> None:
        while True:
            call, done = calls.get()
            try:
                result = call()
            except Exception:
                self._reactor.callFromThread(done.errback, Failure())
            else:
                self._reactor.callFromThread(done.callback, result)
            del call, done  # they hold what was worked on until the next comes


def start_daemon_thread(reactor: object, call: Callable[[], None]) -> None:
    """Start a thread; a seam for reactors of tests, which have none."""
    Thread(target=call, daemon=True).start()


#: For tests, and where there is nothing to keep waiting.
HERE: Final = Runners(run_here, run_here)
