"""What breaks a promise is noticed, written down, and tried again."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from fuzz import __main__ as command
from fuzz import blind, corpus
from fuzz.__main__ import Outcome, main, write_page
from fuzz.blind import LeakError, Slate, feed
from fuzz.target import SlowError, Target

SEED = b"abcd"


def target_of(run: Callable[[bytes], None]) -> Target:
    return Target("planted", run, lambda: [SEED], longest=64)


@pytest.fixture
def slate(tmp_path: Path) -> Slate:
    return Slate(tmp_path / "slate", 64)


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(corpus, "FOUND", tmp_path / "found")
    return tmp_path / "found"


def test_a_fault_is_found_by_chance(slate: Slate, tmp_path: Path) -> None:
    def run(data: bytes) -> None:
        if b"\xff" in data:
            raise KeyError("nobody promised that")

    with pytest.raises(KeyError):
        feed(target_of(run), 10_000, 0, 1, slate, 1.0)
    number, data = Slate.read(tmp_path / "slate")
    assert number > 0
    assert b"\xff" in data


def test_so_many_inputs_and_the_known_ones_first(slate: Slate) -> None:
    inputs: list[bytes] = []
    assert feed(target_of(inputs.append), 100, 0, 1, slate, 1.0) == 100
    assert inputs[0] == SEED
    assert len(inputs) == 100


def test_for_so_long(slate: Slate) -> None:
    assert feed(target_of(lambda _: None), 0, 0.01, 1, slate, 1.0) % 64 == 0


def test_what_is_slow_each_time() -> None:
    def run(data: bytes) -> None:
        end = time.thread_time() + 0.15
        while time.thread_time() < end:
            pass

    with pytest.raises(SlowError, match="4 bytes took"):
        target_of(run).check(SEED)
    target_of(run).check(SEED, patience=10.0)


def test_what_was_slow_once() -> None:
    ends = iter([time.thread_time() + 0.15])

    def run(data: bytes) -> None:
        while time.thread_time() < next(ends, 0.0):
            pass

    target_of(run).check(SEED)


def test_what_is_left_behind(slate: Slate, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = iter(range(0, 10_000, 300))
    monkeypatch.setattr(blind, "_memory", lambda: float(next(memory)))
    with pytest.raises(LeakError):
        feed(target_of(lambda _: None), 100_000, 0, 1, slate, 1.0)


# --- Processes ------------------------------------------------------------------------------------


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def test_a_process_that_is_stuck_is_ended(
    started: list[subprocess.Popen[bytes]],
    slate: Slate,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(command, "_STUCK", 0.5)
    slate.write(7, b"stuck")
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    started.append(process)
    assert "longer than" in command._wait(process, tmp_path / "slate")
    assert process.returncode == -signal.SIGKILL
    assert Slate.read(tmp_path / "slate") == (7, b"stuck")


def test_a_run_by_chance(found: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- fuzz -->\nold\n<!-- /fuzz -->\nafter\n")
    names = ["--target", "bearer", "--target", "path"]
    assert main([*names, "--by-chance", "--runs", "500", "--seed", "3", "--page", str(page)]) == 0
    said = capfd.readouterr().out
    assert "1,000 inputs made by chance; 0 of 2 targets broke a promise" in said
    assert "| `bearer` | 500 |" in page.read_text()
    assert "| all | 1,000 |" in page.read_text()


def test_a_process_that_ends_by_itself(
    found: Path, slate: Slate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when compiled code crashes: what it was fed is known all the same."""
    broken = tmp_path / "python"
    broken.write_text(
        f"""#!{sys.executable}
import os, signal, sys
from pathlib import Path
from fuzz.blind import Slate
Slate(Path(sys.argv[sys.argv.index("--slate") + 1]), 64).write(3, b"crash")
os.kill(os.getpid(), signal.SIGSEGV)
"""
    )
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    monkeypatch.setenv("PYTHONPATH", str(command.ROOT))
    outcome = command.run_blind(target_of(lambda _: None), 0, 1, 1)
    assert outcome.runs == 3
    assert f"exit status {-signal.SIGSEGV}" in outcome.fault
    assert "Y3Jhc2g=" in outcome.fault
    (path,) = found.iterdir()
    assert path.read_bytes() == b"crash"


def test_a_fault_ends_the_run_with_1(
    found: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = Outcome("bearer", 1, 0.0, "KeyError; the input is in x")
    monkeypatch.setattr(command, "run_blind", lambda *_: fault)
    assert main(["--target", "bearer", "--by-chance", "--runs", "1"]) == 1
    said = capsys.readouterr().out
    assert "FAULT" in said
    assert "the input is in x" in said


def test_without_atheris_it_says_so(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert main(["--target", "bearer", "--runs", "100"]) == 0
    assert "atheris is not installed" in capfd.readouterr().out


def test_a_run_with_what_is_there(
    found: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With atheris where it is installed, as `make fuzz` does; a part of it runs in CI."""
    monkeypatch.setattr(corpus, "WORK", tmp_path / "work")
    assert main(["--target", "bearer", "--runs", "200", "--jobs", "1"]) == 0
    said = capfd.readouterr().out
    if find_spec("atheris") is None:
        assert "atheris is not installed" in said
    else:
        assert "inputs made by what they reach (atheris); 0 of 1" in said
        assert corpus.read(tmp_path / "work" / "bearer")


def test_an_input_is_tried_again(found: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = corpus.keep_found("fleet-query", b"\0page=x")
    assert path.parent == found
    assert main([str(path)]) == 0
    assert capsys.readouterr().out.startswith("fleet-query: ")


def test_a_page_without_the_comments_is_left_as_it_is(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("text\n")
    with pytest.raises(ValueError, match="<!-- fuzz -->"):
        write_page(page, [], "")
    assert page.read_text() == "text\n"
