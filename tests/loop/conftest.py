"""What the tests in this folder share."""

from __future__ import annotations

from tests.fixtures import clock, collected, log

__all__ = ["clock", "collected", "log"]
