"""What the tests in this folder share."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from telemeter.auth.oidc import TokenSource
from tests.auth.oidc.world import Issuer, make_source


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def source(issuer: Issuer, clock: Clock) -> TokenSource:
    return make_source(issuer, clock)
