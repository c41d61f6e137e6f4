"""Files that flags name and that are none, and disks that hang."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from demo.programs import Server, start_server
from demo.stack import fetch, parse_logfmt
from telemeter.loop.timeouts import TIMEOUTS

from .command_line import run_twistd
from .samples import counted

if TYPE_CHECKING:
    from pathlib import Path

    from demo.stack import Answer, Stack

    from .upstream import Upstream

#: Has a read of "slow" hang, as on a disk whose server is gone, from when there is a "slow.hangs".
HANGING_DISK = """
import os, sys, time

_open = os.open

def open_or_hang(path, *arguments, **named):
    if str(path).endswith("slow") and os.path.exists(f"{path}.hangs"):
        print("the disk hangs", file=sys.stderr, flush=True)
        while True:
            time.sleep(60)
    return _open(path, *arguments, **named)

os.open = open_or_hang
"""

#: To stop takes no time when nothing is under way; the rest is for a busy machine.
BOUND_SECONDS = 8.0


def reload(server: Server) -> Answer:
    return fetch(f"{server.internal_url}/-/reload", method="POST", body=b"", seconds=30)


def start_ruled(stack: Stack, upstream: Upstream, rules: Path, *flags: str) -> Server:
    """Start a server with a file of rules."""
    name = f"server-{len(stack.programs)}"
    flags = ("--forward-url", upstream.url, "--whitelist-file", str(rules), *flags)
    return start_server(stack, name, *flags, environment={"PYTHONPATH": str(stack.folder)})


def test_a_fifo_is_refused_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "rules"
    os.mkfifo(path)
    done = run_twistd("telemeter-server", "--whitelist-file", str(path), folder=tmp_path)
    assert done.returncode == 1
    (line,) = (line for line in (done.stdout + done.stderr).splitlines() if "rules" in line)
    assert line.endswith(
        f"--whitelist-file {str(path)!r}: expected a readable file: it is a FIFO, and no regular "
        "file"
    )
    assert "Traceback" not in done.stdout + done.stderr


def test_a_fifo_is_refused_at_a_reload(stack: Stack, upstream: Upstream) -> None:
    path = stack.write("rules", "up\n")
    server = start_ruled(stack, upstream, path)
    path.unlink()
    os.mkfifo(path)
    answer = reload(server)
    assert answer.status == 500
    assert "it is a FIFO, and no regular file" in answer.text
    assert counted(server.internal_url, "telemeter_config_last_reload_successful") == 0
    path.unlink()
    stack.write("rules", "up\ndown\n")
    assert reload(server).status == 200


@pytest.mark.parametrize("flags", [(), ("--workers", "2")])
def test_a_disk_that_hangs_holds_up_nothing(
    stack: Stack, upstream: Upstream, flags: tuple[str, ...]
) -> None:
    stack.write("sitecustomize.py", HANGING_DISK)
    path = stack.write("slow", "up\n")
    server = start_ruled(stack, upstream, path, *flags)
    assert reload(server).status == 200
    program = server.program
    hangs = stack.write("slow.hangs", "")

    def hanging(times: int) -> None:
        stack.wait(lambda: program.output().count("the disk hangs") == times, "a read", program)

    with ThreadPoolExecutor() as pool:
        asked = pool.submit(reload, server)
        hanging(1)
        assert fetch(f"{server.internal_url}/healthz").status == 200
        answer = asked.result(30)
    assert answer.status == 500
    reason = (
        f"the reload of all files: {str(path)!r} could not be read within {TIMEOUTS.files:g} "
        "seconds"
    )
    assert reason in answer.text
    lines = [parse_logfmt(line) for line in program.output().splitlines() if "not reloaded" in line]
    assert reason in [line.get("reason") for line in lines]

    program.stopped = True
    os.kill(program.popen.pid, signal.SIGHUP)
    hanging(2)
    began = time.monotonic()
    os.kill(program.popen.pid, signal.SIGTERM)
    assert program.popen.wait(30) == -signal.SIGTERM
    assert time.monotonic() - began < BOUND_SECONDS
    hangs.unlink()
