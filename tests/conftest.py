"""Settings and fixtures of all tests.

Hypothesis runs without deadlines, and where CI is set always with the same examples.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from twisted.internet import reactor as real_reactor
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher

from telemeter.loop import threads
from telemeter.net import client
from telemeter.upstream import forwarder
from telemeter.web.site import request
from tests.fakes import Log, clock_at

# A busy machine is no reason to fail.
_CALM = [HealthCheck.too_slow]

settings.register_profile("developer", deadline=None, suppress_health_check=_CALM)
settings.register_profile("ci", deadline=None, suppress_health_check=_CALM, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "developer")

# A shell that runs the tests in the background has them ignore this, and so all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def no_threads() -> Iterator[None]:
    """Have reactors without threads do at once what they would do in one."""
    start = threads.start_daemon_thread

    def start_or_call(reactor: Any, call: Callable[[], None]) -> None:
        if reactor is real_reactor:
            start(reactor, call)
        else:
            getattr(reactor, "callInOwnThread", lambda call: call())(call)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "start_daemon_thread", start_or_call)
        yield


@pytest.fixture
def clock() -> Clock:
    """A clock that shows `NOW`."""
    return clock_at()


@pytest.fixture(autouse=True)
def log() -> Iterator[Log]:
    """What is logged during a test; an error that nobody expected fails it."""
    events = Log()
    globalLogPublisher.addObserver(events)
    yield events
    globalLogPublisher.removeObserver(events)
    assert events.errors_are_fine or not events.errors


#: Metrics of many samples. What former modules left there only makes reading them slow.
HISTOGRAMS = (request.DURATION, request.SIZE, client.DURATION, forwarder.DURATION)


@pytest.fixture(autouse=True, scope="module")
def collected() -> Iterator[None]:
    """Fail a module that leaves a Deferred with an error that nobody handled."""
    for histogram in HISTOGRAMS:
        histogram.clear()
    for remembered in (request._meters, client._meters, forwarder._duration):
        remembered.cache_clear()
    gc.collect()
    events = Log()
    yield
    globalLogPublisher.addObserver(events)
    gc.collect()
    globalLogPublisher.removeObserver(events)
    assert not events.errors
