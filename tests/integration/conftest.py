"""What the integration tests share: a stack for each module, and the programs it needs."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from demo.stack import Stack

from .upstream import Upstream, running_upstream

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator


def need_command(command: str, package: str, folder: str = "") -> str:
    """Return the path of a command; skip the test when it is missing, or fail it where CI=true.

    Args:
        command: its name.
        package: Debian's package that has it.
        folder: where Debian has it, if not every user looks there.
    """
    found = shutil.which(command, path=f"{os.environ['PATH']}:{folder}")
    if found is not None:
        return found
    reason = f"{command} is not on the PATH; install it with: apt-get install {package}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def prometheus() -> None:
    """Need Debian's Prometheus."""
    need_command("prometheus", "prometheus")


@pytest.fixture(scope="session")
def victoria_metrics() -> None:
    """Need Debian's VictoriaMetrics and its vmagent."""
    need_command("victoria-metrics", "victoria-metrics")
    need_command("vmagent", "victoria-metrics")


@pytest.fixture(scope="session")
def memcached() -> None:
    """Need Debian's memcached."""
    need_command("memcached", "memcached")


@pytest.fixture(scope="session")
def systemd_analyze() -> None:
    """Need systemd's checker of unit files."""
    need_command("systemd-analyze", "systemd")


@pytest.fixture(scope="session")
def logrotate_command() -> str:
    """Need Debian's logrotate; return its path."""
    return need_command("logrotate", "logrotate", "/usr/sbin")


@pytest.fixture(scope="session")
def openssl() -> None:
    """Need the command of OpenSSL."""
    need_command("openssl", "openssl")


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Own the programs of one module of tests; none outlives it."""
    with Stack() as stack:
        yield stack
        stack.check()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """Run a remote-write receiver to look into."""
    with running_upstream() as upstream:
        yield upstream


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the logs of a failed test's programs."""
    report = yield
    stack = item.funcargs.get("stack")
    if report.failed and report.when == "call" and isinstance(stack, Stack):
        report.sections += [(program.name, program.tail()) for program in stack.programs]
    return report
