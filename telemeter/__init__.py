"""Push federation for Prometheus.

docs/architecture.md says what each package has, CONTRIBUTING.md which files a change needs.
"""

from importlib.metadata import version

__version__ = version("telemeter")
