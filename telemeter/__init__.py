"""Push federation for Prometheus."""

from importlib.metadata import version

__version__ = version("telemeter")
