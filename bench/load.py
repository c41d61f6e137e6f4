"""Load: requests on a number of connections at once, by wrk."""

from __future__ import annotations

import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from demo.stack import StackError

if TYPE_CHECKING:
    from collections.abc import Sequence

_SCRIPT: Final = Path(__file__).with_name("load.lua")
#: For how long the last answers are waited for.
_DRAIN_SECONDS: Final = 40


@dataclass(frozen=True, slots=True)
class Load:
    """What the clients have seen.

    Attributes:
        requests: how many were answered.
        seconds: from the first request to the last answer.
        p50_ms, p99_ms: how long an answer took, for one half and for 99 of 100.
    """

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float


def write_requests(folder: Path, requests: Sequence[bytes]) -> None:
    """Write the requests where the script finds them."""
    folder.mkdir()
    for number, request in enumerate(requests, 1):
        (folder / str(number)).write_bytes(request)


def http_post(url: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
    """Return a POST as it goes over the wire."""
    headers = {"Host": url.partition("://")[2], **headers, "Content-Length": str(len(body))}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def run(url: str, folder: Path, connections: int, seconds: float) -> Load:
    """Keep so many of the folder's requests under way for so long, and wait for the last answers.

    Raises:
        StackError: not every request was answered with 2xx.
    """
    count = sum(1 for _ in folder.iterdir())
    longest = f"-d{int(seconds) + _DRAIN_SECONDS}s"
    argv = [
        *("wrk", "-t1", f"-c{connections}", longest, "--timeout", f"{_DRAIN_SECONDS}s"),
        *("-s", str(_SCRIPT), url, "--", str(folder), str(count), str(connections), str(seconds)),
    ]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as wrk:
        assert wrk.stdout is not None
        try:
            output = []
            for line in wrk.stdout:
                output.append(line)
                if line == "drained\n":
                    wrk.send_signal(signal.SIGINT)
        finally:
            wrk.kill()  # which does nothing to a program that has ended
    return parse_output("".join(output))


def parse_output(output: str) -> Load:
    """Read what wrk and the script have printed.

    Raises:
        StackError: not every request was answered with 2xx.
    """
    for line in output.splitlines():
        if line.startswith("measured "):
            break
    else:
        raise StackError(f"wrk gave no result:\n{output}")
    _, requests, seconds, p50_ms, p99_ms, sockets, failed, failure = f"{line} ".split(" ", 7)
    if int(failed):
        raise StackError(
            f"{failed} of {requests} requests failed, the first with {failure.strip()}"
        )
    if int(sockets):
        raise StackError(f"{sockets} connections failed or got no answer in {_DRAIN_SECONDS} s")
    if "drained" not in output.splitlines():
        raise StackError(f"some requests had no answer after {_DRAIN_SECONDS} s")
    return Load(int(requests), float(seconds), float(p50_ms), float(p99_ms))
