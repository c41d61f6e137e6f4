"""Work that takes long: when it goes to a thread, so that the event loop stays free."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

from twisted.internet.threads import deferToThreadPool

#: Calls a function with arguments where it does not keep the reactor from its work.
Runner: TypeAlias = Callable[..., Awaitable[Any]]


def thread_runner(reactor: Any, input_error: type[Exception]) -> Runner:
    """Return what calls functions in the reactor's threads.

    Args:
        reactor: has the threads.
        input_error: raised by functions for input that is wrong, which is no fault of ours; its
            traceback is not kept, see `_call`.
    """

    async def run(function: Callable[..., Any], *arguments: Any) -> Any:
        pool = reactor.getThreadPool()
        result = await deferToThreadPool(reactor, pool, _call, input_error, function, arguments)
        if isinstance(result, input_error):
            try:
                raise result
            finally:
                del result  # it holds this frame from now on
        return result

    return run


def _call(
    input_error: type[Exception], function: Callable[..., Any], arguments: tuple[Any, ...]
) -> Any:
    """Call a function in a thread; what is wrong with the input is returned, without a traceback.

    Twisted's threads hold what was raised in a frame that this holds in turn. So it would stay
    until Python looks for such circles, and with it what its frames hold: the sender's large body.
    Nobody needs to know from where in our code a sender's fault was raised.
    """
    try:
        return function(*arguments)
    except input_error as error:
        error.__traceback__ = error.__context__ = error.__cause__ = None
        return error


class Converter(Protocol):
    """A conversion that a compiled module does, where it can, and a reference otherwise."""

    def compiled(self, *arguments: Any) -> Any:
        """Convert with the compiled module; None if only the reference can."""

    def reference(self, *arguments: Any) -> Any:
        """Convert with the reference."""

    def convert(self, *arguments: Any) -> Any:
        """Convert with the one, or else with the other."""


@dataclass(frozen=True, slots=True)
class ThreadPolicy:
    """Up to which sizes work is done at once: handing it to a thread would cost more.

    Attributes:
        compiled: up to how many bytes the compiled module is tried at once.
        reference: up to how many bytes the reference converts at once.
    """

    compiled: int
    reference: int

    async def convert(self, run: Runner, size: int, converter: Converter, *arguments: Any) -> Any:
        """Convert without keeping the reactor from its work for long.

        Args:
            run: calls functions in a thread.
            size: the bytes to convert.
            converter: converts.
            arguments: of the conversion.

        Raises:
            Exception: as of the converter.
        """
        convert = converter.convert
        if size <= self.compiled:
            converted = converter.compiled(*arguments)
            if converted is not None:
                return converted
            convert = converter.reference  # the compiled module has just been tried
        if size <= self.reference:
            return convert(*arguments)
        return await run(convert, *arguments)


#: The sizes of uploads and remote writes, decompressed, that are converted at once: compiled code
#: takes some milliseconds for 4 MiB, the reference a millisecond for 4 KiB.
CONVERTED_HERE: Final = ThreadPolicy(compiled=4 << 20, reference=4096)


def run_if_large(run: Runner, size: int, most: int) -> Runner:
    """Return what calls functions in a thread for more than so many bytes, and here otherwise."""
    return run if size > most else run_here


async def run_here(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function at once: for tests, and where there is nothing to keep waiting."""
    return function(*arguments)
