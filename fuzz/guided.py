"""Targets fed with inputs that atheris makes by what they reach.

A guide is a process of its own, `python -m fuzz.guided`, which reads jobs from its standard input,
one a line in JSON, and writes the exit status of each. To load what is watched takes seconds, so
that is done once, and each job has a fork of its own: libFuzzer, which atheris is for Python, ends
its process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, Self

#: The packages that are watched for what is reached in them; compiled modules are not, anywhere.
#: Twisted would take half a minute to load.
_WATCHED: Final = ["telemeter", "jwt"]
#: Watched code takes so many times longer.
_PATIENCE: Final = 20.0
_ROOT: Final = Path(__file__).parents[1]
#: The environment variable that names the target where libFuzzer starts this again, to merge.
_TARGET: Final = "FUZZ_TARGET"


class Guide:
    """A process that has atheris feed one target after the other; a context manager."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fuzz.guided"],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()

    def run(self, target: str, options: Sequence[str], said: Path) -> int:
        """Have a target fed; return the exit status.

        Args:
            target: its name.
            options: those of libFuzzer, and folders with inputs.
            said: the file that gets what is said about it.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        job = {"target": target, "options": list(options), "said": str(said)}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the process that runs atheris has ended: python -m fuzz.guided")
        return int(answer)


def _redirect(said: Path) -> None:
    """Have what is said from now on go to a file."""
    with said.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _feed(target: Any, options: Sequence[str]) -> NoReturn:
    """Feed a target, in a process that is there for nothing else."""
    import atheris

    def check(data: bytes) -> None:
        target.check(data, _PATIENCE)

    # To merge, libFuzzer has a shell run the first of these with other options.
    atheris.Setup([f"{sys.executable} -m fuzz.guided", *options], check)
    atheris.Fuzz()
    os._exit(0)


def main() -> None:
    """Do the jobs that come."""
    import atheris

    with atheris.instrument_imports(include=_WATCHED, enable_loader_override=False):
        from fuzz import quiet
        from fuzz.targets import TARGETS
    quiet.begin()
    if _TARGET in os.environ:
        _feed(TARGETS[os.environ[_TARGET]], sys.argv[1:])
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if not child:
            _redirect(Path(job["said"]))
            os.environ[_TARGET] = job["target"]
            _feed(TARGETS[job["target"]], job["options"])
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
