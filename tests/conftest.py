"""How hypothesis runs: without deadlines, and where CI is set always with the same examples."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# A busy machine is no reason to fail.
_CALM = [HealthCheck.too_slow]

settings.register_profile("developer", deadline=None, suppress_health_check=_CALM)
settings.register_profile("ci", deadline=None, suppress_health_check=_CALM, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "developer")
