"""What /proc says is read rightly."""

from __future__ import annotations

import os
import subprocess
import sys

from bench import processes
from bench.processes import Process, parse_busy, parse_cpu_model, parse_peak, parse_stat, tree

TICK = os.sysconf("SC_CLK_TCK")


def test_a_name_may_hold_spaces_and_parentheses() -> None:
    text = "42 (a) S 9 (b) S 7 41 40 0 -1 0 0 0 0 0 100 20 3 4 20 0 1 0 5 6"
    assert parse_stat(text) == Process(42, 7, 40, 127 / TICK)


def test_the_peak_is_in_bytes() -> None:
    assert parse_peak("VmPeak:\t   9 kB\nVmHWM:\t  2048 kB\nVmRSS:\t 1 kB\n") == 2 << 20
    assert parse_peak("Name:\tzombie\n") == 0


def test_a_busy_machine_is_not_one_that_waits() -> None:
    assert parse_busy("cpu  1 2 3 1000 2000 4 5 6 7 8\ncpu0 9 9\n") == 15 / TICK


def test_the_processor_has_a_name() -> None:
    assert parse_cpu_model("processor\t: 0\nmodel name\t: A  B\n") == "A B"
    assert parse_cpu_model("processor\t: 0\n") == os.uname().machine


def test_a_tree_has_descendants_and_the_session() -> None:
    found = {
        each.pid: each
        for each in (
            Process(1, 0, 1, 0.0),
            Process(10, 1, 10, 0.0),
            Process(11, 10, 10, 0.0),
            Process(12, 11, 12, 0.0),  # a session of its own, but a grandchild
            Process(13, 1, 10, 0.0),  # its parent has ended
            Process(14, 1, 14, 0.0),
        )
    }
    assert {each.pid for each in tree(10, found)} == {10, 11, 12, 13}
    assert tree(99, found) == []


def test_a_child_counts_while_it_runs_and_after_it_ended() -> None:
    work = """
from time import process_time
memory = bytearray(40 << 20)
while process_time() < 0.2:
    pass
print(flush=True)
input()
"""
    before = processes.cpu_seconds(os.getpid())
    peak = processes.peak_bytes(os.getpid())
    argv = [sys.executable, "-c", work]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        running = processes.cpu_seconds(os.getpid()) - before
        assert processes.peak_bytes(os.getpid()) - peak > 40 << 20
        child.communicate(b"\n")
    assert running > 0.15  # in whole ticks
    assert processes.cpu_seconds(os.getpid()) - before > running - 0.05
