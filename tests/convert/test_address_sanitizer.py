"""The compiled modules under AddressSanitizer: whatever comes, they touch only what is theirs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

import pytest

ROOT: Final = Path(__file__).parents[2]
MODULES: Final = ("_upload", "_write", "_collect")
#: What feeds them everything that is generated, broken, mutated and cut off.
TESTS: Final = tuple(f"tests/convert/test_{name}.py" for name in ("engine", "sifter", "collector"))
#: Of the tests that ask for more examples, this many are enough: they run more slowly here.
_EXAMPLES: Final = 50
_SANITIZE: Final = ("-fsanitize=address", "-fno-omit-frame-pointer", "-g", "-O1")
#: Those targets of `make fuzz` that the modules work for, and how many inputs each gets.
TARGETS: Final = (
    *("upload", "write-1", "write-2", "collect", "store"),
    *("built-writes", "built-uploads"),
)
_RUNS: Final = int(os.environ.get("SANITIZED_RUNS", "2000"))
#: How many times longer an input may take here.
_SLOWER: Final = 50
#: How long the tests may take; they need a tenth of it.
_PATIENCE_SECONDS: Final = 300 + _RUNS // 100


def give_up(reason: str) -> NoReturn:
    """Skip the test for want of something; where CI=true, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def compiler() -> str:
    command = shutil.which("cc")
    if command is None:
        give_up("the command cc is missing; Debian's package is gcc")
    include = Path(sysconfig.get_path("include"))
    if not (include / "Python.h").exists():
        give_up(f"{include / 'Python.h'} is missing; Debian's package is python3-dev")
    return command


@pytest.fixture(scope="module")
def library(compiler: str) -> Path:
    """AddressSanitizer's library, which the interpreter has to load before all others."""
    answer = output_of([compiler, "-print-file-name=libasan.so"])
    library = Path(answer.strip())
    if not library.is_absolute():
        give_up("AddressSanitizer's library is missing; Debian's package is libgcc-12-dev")
    return library.resolve()


def output_of(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory, compiler: str) -> Path:
    """A copy of the package and its tests, with the modules compiled for AddressSanitizer."""
    folder = tmp_path_factory.mktemp("sanitized")
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name in ("telemeter", "tests", "fuzz"):
        ignored = shutil.ignore_patterns("*.so", "*.c", "__pycache__", "integration")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in TESTS:
        limited = re.sub(
            r"max_examples=\d+", f"max_examples={_EXAMPLES}", (folder / name).read_text()
        )
        (folder / name).write_text(limited)
    for name in MODULES:
        build(folder / "telemeter" / "convert" / f"{name}.pyx", compiler)
    build(folder / "telemeter" / "store" / "records.py", compiler)
    return folder


def build(source: Path, compiler: str) -> None:
    code = source.with_suffix(".c")
    output_of([sys.executable, "-m", "cython", "-3", str(source), "-o", str(code)])
    target = source.with_suffix(str(sysconfig.get_config_var("EXT_SUFFIX")))
    include = f"-I{sysconfig.get_path('include')}"
    output_of([compiler, "-shared", "-fPIC", *_SANITIZE, include, str(code), "-o", str(target)])


def run_sanitized(copy: Path, library: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the copy; a finding ends it with a report."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=copy,
        env={
            **os.environ,
            "LD_PRELOAD": str(library),
            "ASAN_OPTIONS": "detect_leaks=0",
            # Python's own allocator hands out parts of large blocks, whose ends nobody watches.
            "PYTHONMALLOC": "malloc",
            "PYTHONPATH": str(copy),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=_PATIENCE_SECONDS,
    )


def test_the_fuzz_tests(copy: Path, library: Path) -> None:
    done = run_sanitized(copy, library, "-m", "pytest", "-q", "-x", *TESTS)
    assert "AddressSanitizer" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stdout + done.stderr
    # It was this copy that was tested, and not the installed package.
    for module in ("telemeter.convert._write", "telemeter.store.records"):
        where = f"import {module} as m; print(m.__file__)"
        told = run_sanitized(copy, library, "-c", where).stdout
        assert str(copy) in told and told.endswith(".so\n")


@pytest.mark.parametrize("target", TARGETS)
def test_hostile_input(target: str, copy: Path, library: Path) -> None:
    """What is kept for a target of `make fuzz`, and what becomes of that by chance."""
    more = ("--runs", str(_RUNS), "--patience", str(_SLOWER), "--slate", str(copy / target))
    done = run_sanitized(copy, library, "-m", "fuzz.blind", target, *more)
    assert "AddressSanitizer" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stdout + done.stderr
