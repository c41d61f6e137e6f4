"""What holds for all tests.

Hypothesis runs without deadlines, and where CI is set always with the same examples.
"""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

# A busy machine is no reason to fail.
_CALM = [HealthCheck.too_slow]

settings.register_profile("developer", deadline=None, suppress_health_check=_CALM)
settings.register_profile("ci", deadline=None, suppress_health_check=_CALM, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "developer")

# A shell that runs the tests in the background has them ignore this, and so all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
