"""Gates and admissions: who decides on a request by its headers, and what takes its body."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.web.iweb import IRequest


class Admission(Protocol):
    """A request that was admitted by its headers, and takes its body."""

    @property
    def allowed(self) -> Deferred[None] | None:
        """Return what the body has to wait for: no more of it is read before that has fired.

        It fires with None, or fails with `Refused`, which is the answer then. None: the body need
        not wait.
        """
        ...

    def write(self, data: bytes) -> None:
        """Take a piece of the body.

        Raises:
            Refused: the body is too long, say.
        """

    def abandoned(self) -> None:
        """Undo what admitting the request did: its sender left before the body was complete."""

    def over(self) -> None:
        """Hold nothing any longer: the request has its answer, or its sender has left."""


class Gate(Protocol):
    """A decision about a request by its headers."""

    def __call__(self, request: IRequest, length: int | None) -> Admission:
        """Admit a request.

        Args:
            request: with its headers; its body is not there yet.
            length: of the body in bytes; None if the sender does not say.

        Raises:
            Refused: it is not admitted.
        """
        ...


class SiteRoute(Protocol):
    """A route as the site sees it."""

    @property
    def path(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def methods(self) -> tuple[str, ...]: ...
    @property
    def gate(self) -> Gate | None: ...
    @property
    def any_host(self) -> bool: ...
    @property
    def any_caller(self) -> bool: ...


_Admitted = TypeVar("_Admitted", bound=Admission)


def admit(request: IRequest, gate: Callable[[IRequest, int | None], _Admitted]) -> _Admitted:
    """Return the admission of a request whose body is complete.

    The site has asked the gate already, unless there was no body to guard against (or another site
    serves the resource, as in tests); then the gate is asked now.
    """
    admission: _Admitted | None = getattr(request, "admission", None)
    if admission is None:
        body = request.content.read()
        admission = gate(request, len(body))
        admission.write(body)
    return admission
