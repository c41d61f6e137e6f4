"""The check of remote-write tokens: here, in memcached, or by the parent process."""

from __future__ import annotations

from typing import Final

from twisted.internet.defer import succeed
from twisted.internet.interfaces import IReactorTime

from telemeter.auth.authorization_server import AcceptEveryone, AuthorizationServer, RefusedError
from telemeter.auth.cache import (
    AnswerCache,
    Asker,
    AskParent,
    CachingAsker,
    Expiring,
    MemoryCache,
    RemoteAsker,
)
from telemeter.auth.memcached import Memcached
from telemeter.auth.settings import AuthorizationSettings
from telemeter.web.receive import TokenCheck

#: The most positive answers that a worker keeps besides its parent.
_MOST_OF_WORKER: Final = 10_000


def token_check(
    settings: AuthorizationSettings,
    reactor: IReactorTime,
    authorizer: AcceptEveryone | AuthorizationServer,
    memcached: Memcached | None,
    ask: AskParent | None,
) -> TokenCheck:
    """Return the function that checks the token of a remote-write sender.

    Args:
        settings: for how long answers are kept.
        reactor: tells ages.
        authorizer: the authorization server.
        memcached: keeps positive answers for all replicas; None: there is none.
        ask: asks the parent process, which keeps answers for its workers; None: there is none.
    """
    if isinstance(authorizer, AcceptEveryone):
        return lambda question: succeed(None)
    if memcached is not None:
        return _caching(settings, reactor, authorizer, memcached).check
    if ask is not None:
        size = min(settings.most_answers, _MOST_OF_WORKER)
        return RemoteAsker(ask, reactor, size).check
    return _caching(settings, reactor, authorizer, _memory_cache(settings, reactor)).check


def answers_for_workers(
    settings: AuthorizationSettings,
    reactor: IReactorTime,
    authorizer: AcceptEveryone | AuthorizationServer,
) -> AskParent | None:
    """Return the function that answers what workers ask; None if every token is accepted."""
    if isinstance(authorizer, AcceptEveryone):
        return None
    store = _memory_cache(settings, reactor)
    asker = _caching(settings, reactor, authorizer, store)

    async def ask(question: bytes) -> float:
        await asker.check(question)
        return store.remaining(question)

    return ask


def _memory_cache(settings: AuthorizationSettings, reactor: IReactorTime) -> MemoryCache:
    return MemoryCache(reactor, settings.positive_seconds, settings.most_answers)


def _caching(
    settings: AuthorizationSettings, reactor: IReactorTime, asker: Asker, store: AnswerCache
) -> CachingAsker:
    refused: Expiring[RefusedError] = Expiring(
        reactor, settings.negative_seconds, settings.most_answers
    )
    return CachingAsker(asker, store, refused)
