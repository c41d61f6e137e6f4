"""Log files of the running programs, rotated as Debian's logrotate does."""

from __future__ import annotations

import gzip
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from demo.programs import Server, twistd
from demo.stack import HOST, POLL_SECONDS, Program, Stack, fetch

from .test_signals import KINDS, Kind, command_of

ETC = Path(__file__).parents[2] / "etc"


@pytest.fixture
def folder(stack: Stack, tmp_path: Path) -> Path:
    """A folder for logs and pid files, which others may not write to, as logrotate wants it."""
    tmp_path.chmod(0o755)
    return tmp_path


def start_logging(stack: Stack, kind: Kind, folder: Path) -> tuple[Program, Path]:
    """Start a program as etc/telemeter.logrotate has it; return its log, too."""
    name = f"{kind.plugin}-{len(stack.programs)}"
    path = folder / f"{name}.log"
    runner = ("twistd", "-n", f"--pidfile={folder}/{name}.pid", f"--logfile={path}")
    command, url = command_of(stack, kind, runner)
    return stack.start(name, command, url, kind.ready), path


def wait_for_text(stack: Stack, path: Path, text: str, program: Program) -> None:
    stack.wait(lambda: path.exists() and text in path.read_text(), f"{text!r} in {path}", program)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_opens_the_file_anew(
    stack: Stack, folder: Path, kind: Kind, number: signal.Signals
) -> None:
    program, path = start_logging(stack, kind, folder)
    moved = path.rename(folder / "moved")
    program.signal(number)
    wait_for_text(stack, path, "the log file is opened anew", program)
    assert program.stop() == -signal.SIGTERM
    assert "msg=listening" in moved.read_text()
    assert " msg=stopped " in path.read_text()
    assert program.output() == ""


def logrotate(program: str, folder: Path, more: str = "", *, without: str = "") -> None:
    """Run logrotate with the file in etc/, as if a day had gone by."""
    text = (ETC / "telemeter.logrotate").read_text()
    text = text.replace("/var/log/telemeter", str(folder)).replace("/run/telemeter", str(folder))
    if without:
        text = re.sub(without, "", text, flags=re.DOTALL)
    text = text.replace("missingok", f"missingok\n    {more}")
    user = f"su {os.geteuid()} {os.getegid()}\n" if os.geteuid() else ""
    config = folder / "logrotate.conf"
    config.write_text(user + "create\n" + text)
    config.chmod(0o644)
    command = [program, "--force", "--state", str(folder / "state"), str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


class Requests(threading.Thread):
    """Makes requests that are logged, one after the other, until it is told to stop."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.made = 0
        self._url = server.url
        self._enough = threading.Event()

    def run(self) -> None:
        while not self._enough.is_set():
            assert fetch(f"{self._url}/number-{self.made + 1}-").status == 404
            self.made += 1

    def wait_for_more(self, number: int) -> None:
        """Wait until so many more have been made."""
        deadline = time.monotonic() + 30
        wanted = self.made + number
        while self.made < wanted:
            assert self.is_alive()
            assert time.monotonic() < deadline
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        self._enough.set()
        self.join()


def logged_server(stack: Stack, folder: Path, workers: int, *flags: str) -> tuple[Server, Path]:
    """Start a server that logs every request to a file."""
    name = f"server-{len(stack.programs)}"
    listen, internal = (f"{HOST}:{stack.free_port()}" for _ in range(2))
    path = folder / f"{name}.log"
    command = twistd(
        "telemeter-server",
        *("--listen", listen, "--listen-internal", internal, "--log-level", "debug"),
        *("--workers", str(workers), "--forward-url", "http://127.0.0.1:9/", *flags),
    )
    command[2:3] = [f"--pidfile={folder}/{name}.pid", f"--logfile={path}"]
    program = stack.start(name, command, f"http://{listen}")
    return Server(program, f"http://{listen}", f"http://{internal}"), path


def numbers(*paths: Path) -> list[int]:
    """Return the numbers of the requests in some logs."""
    contents = [path.read_bytes() for path in paths]
    text = b"".join(gzip.decompress(each) if each[:1] == b"\x1f" else each for each in contents)
    return [int(each) for each in re.findall(rb"path=/number-(\d+)-", text)]


@pytest.mark.parametrize("workers", [1, 2])
def test_logrotate_loses_nothing(
    stack: Stack, folder: Path, workers: int, logrotate_command: str
) -> None:
    server, path = logged_server(stack, folder, workers)
    path.chmod(0o640)
    requests = Requests(server)
    requests.start()
    rotated = [path.with_name(f"{path.name}.{end}") for end in ("2.gz", "1")]
    try:
        for _ in rotated:
            requests.wait_for_more(20)
            logrotate(logrotate_command, folder)
            wait_for_text(stack, path, "number-", server.program)
    finally:
        requests.stop()
    assert server.program.stop() == -signal.SIGTERM
    assert sorted(numbers(*rotated, path)) == list(range(1, requests.made + 1))
    assert {each.stat().st_mode & 0o777 for each in (*rotated, path)} == {0o640}
    assert " msg=stopped " in path.read_text()


@pytest.mark.parametrize("workers", [1, 2])
def test_copytruncate_leaves_no_hole(
    stack: Stack, folder: Path, workers: int, logrotate_command: str
) -> None:
    server, path = logged_server(stack, folder, workers)
    assert fetch(f"{server.url}/number-1-").status == 404
    wait_for_text(stack, path, "number-1-", server.program)
    logrotate(logrotate_command, folder, "copytruncate", without="postrotate.*endscript")
    assert path.read_text() == ""
    assert fetch(f"{server.url}/number-2-").status == 404
    wait_for_text(stack, path, "number-2-", server.program)
    assert path.read_bytes().startswith(b"ts=")
    assert numbers(path.with_name(f"{path.name}.1")) == [1]


def test_a_flag_asks_for_rotation(stack: Stack, folder: Path) -> None:
    flags = ("--rotate-log-bytes", "2000", "--rotate-log-files", "2")
    server, path = logged_server(stack, folder, 2, *flags)
    files = [path, *(path.with_name(f"{path.name}.{number}") for number in (1, 2))]

    def is_rotated() -> bool:
        fetch(f"{server.url}/number-1-")
        return all(each.exists() for each in files)

    stack.wait(is_rotated, "two files to be rotated", server.program)
    for _ in range(30):
        fetch(f"{server.url}/number-1-")
    server.program.stop()
    assert sorted(folder.glob("*.log*")) == files
    assert all(each.stat().st_size <= 2000 for each in files)


def test_a_log_file_that_cannot_be_written_is_named(stack: Stack, folder: Path) -> None:
    command, _ = command_of(stack, KINDS[0], ("twistd", "-n", f"--logfile={folder}/no/such.log"))
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("telemeter-server: --logfile")
    assert "no/such.log" in line
