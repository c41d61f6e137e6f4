"""All targets, by their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fuzz import built, conversions, listeners, network, samples, tokens
from fuzz.target import Target

TARGETS: Final[Mapping[str, Target]] = {
    target.name: target
    for module in (samples, conversions, built, network, tokens, listeners)
    for target in module.TARGETS
}
