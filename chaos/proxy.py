"""A TCP proxy that breaks things: it stands between any two programs."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

_PIECE = 16384
#: What `SO_LINGER` wants for a close that resets the connection.
_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Fault:
    """What a proxy does to connections.

    Attributes:
        latency: by how many seconds each piece comes late, both ways.
        bytes_per_second: how much passes, each way; 0: as much as comes.
        reset_after: answers are cut off with a reset after so many bytes; 0: never.
        corrupt: the chance of a byte of an answer to be another one.
        is_hole: whether connections are taken and nothing passes any more.
        is_closed: whether connections are reset as soon as they are made.
        loses_answers: whether connections are reset when an answer comes, of which nothing passes.
    """

    latency: float = 0.0
    bytes_per_second: int = 0
    reset_after: int = 0
    corrupt: float = 0.0
    is_hole: bool = False
    is_closed: bool = False
    loses_answers: bool = False


NO_FAULT = Fault()


class Proxy:
    """A proxy in front of one address.

    Attributes:
        fault: what it does now; may be replaced at any time.
        port: where it listens.
    """

    def __init__(self, host: str, port: int, seed: int = 1) -> None:
        self.fault = NO_FAULT
        self._to = (host, port)
        self._random = random.Random(seed)
        self._listening = socket.create_server((host, 0), backlog=128)
        self.port: int = self._listening.getsockname()[1]
        self._is_over = False
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self.fault = Fault(is_closed=True)
        # A thread in accept() keeps the socket: this wakes it up.
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        while not self._is_over:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            if self.fault.is_closed:
                _reset(near)
                continue
            try:
                far = socket.create_connection(self._to, 5)
            except OSError:
                _reset(near)
                continue
            far.settimeout(None)
            threading.Thread(target=self._serve, args=(near, far), daemon=True).start()

    def _serve(self, near: socket.socket, far: socket.socket) -> None:
        """Pass on what comes both ways, until both sides have ended."""
        with near, far:
            answers = threading.Thread(target=self._pump, args=(far, near, True), daemon=True)
            answers.start()
            self._pump(near, far, False)
            answers.join()

    def _pump(self, one: socket.socket, other: socket.socket, is_answer: bool) -> None:
        passed = 0
        try:
            while data := one.recv(_PIECE):
                while self.fault.is_hole:
                    time.sleep(0.05)
                fault = self.fault
                if fault.is_closed or (is_answer and fault.loses_answers):
                    break
                time.sleep(fault.latency)
                if fault.bytes_per_second:
                    time.sleep(len(data) / fault.bytes_per_second)
                if is_answer and fault.corrupt and self._random.random() < fault.corrupt:
                    at = self._random.randrange(len(data))
                    data = data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]
                passed += len(data)
                if is_answer and fault.reset_after and passed > fault.reset_after:
                    other.sendall(data[: max(1, len(data) // 2)])
                    break
                other.sendall(data)
            else:
                with suppress(OSError):
                    other.shutdown(socket.SHUT_WR)
                return
        except OSError:
            pass
        _reset(one)
        _reset(other)


def _reset(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        connection.shutdown(socket.SHUT_RDWR)  # wakes up a thread that waits for it
    connection.close()
