"""Every input that is kept, through its target: what broke a promise once does not any more."""

from __future__ import annotations

from typing import Final

import pytest

from fuzz import corpus
from fuzz.targets import TARGETS
from tests.fakes import Log

#: A slow machine is no fault.
_PATIENCE: Final = 20.0


@pytest.fixture(autouse=True)
def _what_memcached_says(request: pytest.FixtureRequest, log: Log) -> None:
    """Twisted logs as an error whatever a memcached calls one."""
    log.errors_are_fine = "memcached" in request.node.name


@pytest.mark.parametrize("name", TARGETS)
def test_what_it_understands(name: str) -> None:
    target = TARGETS[name]
    assert target.seeds()
    for data in target.seeds():
        target.check(data, _PATIENCE)


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_kept(name: str) -> None:
    target = TARGETS[name]
    kept = corpus.kept(name)
    assert kept
    for data in kept:
        assert len(data) <= target.longest
        target.check(data, _PATIENCE)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("data", [b"", b"\0", b"\xff", bytes(range(256)), b"\xff" * 1000])
def test_nothing_in_particular(name: str, data: bytes) -> None:
    TARGETS[name].check(data, _PATIENCE)


def test_what_is_kept_is_small_and_of_a_target() -> None:
    for folder in (corpus.KEPT, corpus.FAULTS):
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert {path.parent.name for path in files} <= set(TARGETS)
        assert all(path.name == corpus.name_of(path.read_bytes()) for path in files)
        assert sum(path.stat().st_size for path in files) < 1 << 20
