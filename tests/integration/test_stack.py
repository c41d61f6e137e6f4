"""The tools under all other tests here: programs are waited for, and none is left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from demo.stack import LogFollower, Program, Ready, Stack, StackError, fetch, parse_logfmt

HTTP_SERVER = [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1"]


def start_sleep(stack: Stack, *, ignore_sigterm: bool = False) -> Program:
    trap = "trap '' TERM; " if ignore_sigterm else ""
    argv = ["sh", "-c", f"{trap}echo started; sleep 600; sleep 600"]
    program = Program("sleep", argv, "", stack.folder / "sleep.log")
    stack.programs.append(program)
    stack.wait(lambda: "started" in program.output(), "the shell to start")
    return program


def group_is_gone(program: Program) -> bool:
    try:
        os.killpg(program.popen.pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_program_is_ready_when_it_answers_and_gone_afterwards() -> None:
    with Stack() as stack:
        port = stack.free_port()
        url = f"http://127.0.0.1:{port}"
        program = stack.start("web", [*HTTP_SERVER, str(port)], url, Ready("/"))
        assert fetch(url + "/").status == 200
        assert fetch(url + "/missing").status == 404
        assert "GET / HTTP" in program.output()
        folder = stack.folder
    assert group_is_gone(program)
    assert not folder.exists()


def test_a_program_that_ends_early_is_named_with_its_log() -> None:
    with Stack() as stack, pytest.raises(StackError) as caught:
        stack.start("oops", ["sh", "-c", "echo no luck today; exit 3"], "http://127.0.0.1:1")
    assert "oops ended (exit code 3)" in str(caught.value)
    assert "no luck today" in str(caught.value)


def test_a_wait_that_is_in_vain_ends_with_the_log_of_the_guilty() -> None:
    with Stack() as stack:
        program = start_sleep(stack)
        with pytest.raises(StackError, match=r"waited 0 s for better weather.*") as caught:
            stack.wait(lambda: False, "better weather", program, seconds=0.2)
    assert "| started" in str(caught.value)


def test_a_folder_is_kept_after_a_failure() -> None:
    stack = Stack()
    with pytest.raises(ZeroDivisionError), stack:
        raise ZeroDivisionError
    assert stack.folder.is_dir()
    stack.folder.rmdir()


def test_a_program_that_ignores_sigterm_is_killed_with_its_children() -> None:
    with Stack() as stack:
        program = start_sleep(stack, ignore_sigterm=True)
        assert program.stop(seconds=0.2) == -signal.SIGKILL
        stack.wait(lambda: group_is_gone(program), "the whole group to be gone")


def test_no_program_outlives_a_killed_owner(tmp_path: Path) -> None:
    script = """
        import os, signal, sys
        from demo.stack import Program, Stack
        stack = Stack()
        program = Program("sleep", ["sleep", "600"], "", stack.folder / "log")
        print(program.popen.pid, stack.folder, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    owner = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert owner.returncode == -signal.SIGKILL
    pid = int(owner.stdout.split()[0])
    with Stack() as stack:
        stack.wait(lambda: not alive(pid), f"process {pid} to be gone")


def alive(pid: int) -> bool:
    """Tell whether a process that is not our child runs; one that nobody reaped yet does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_ports_are_free_and_given_out_once() -> None:
    with Stack() as stack, socket.socket() as listener:
        ports = {stack.free_port() for _ in range(50)}
        assert len(ports) == 50
        listener.bind(("127.0.0.1", ports.pop()))


def test_a_log_is_followed_by_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("one\ntw")
    follower = LogFollower(path)
    assert follower.new_lines() == ["one"]
    assert follower.new_lines() == []
    path.write_text("one\ntwo\nthree\n")
    assert follower.new_lines() == ["two", "three"]


def test_logfmt() -> None:
    line = 'ts=1 level=info msg="said \\"hi\\" = x" empty= n=3'
    assert parse_logfmt(line) == {
        "ts": "1",
        "level": "info",
        "msg": 'said "hi" = x',
        "empty": "",
        "n": "3",
    }
    assert parse_logfmt("no fields") == {}
