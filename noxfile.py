"""The suite on every Python that the package names, compiled and not, with old and new libraries.

`make test-matrix` runs what this machine has an interpreter for, and says what it did not run. Each
session works on a copy of the files that git knows, so that no compiled module of another Python
gets in.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any, Final

import nox

HERE: Final = Path(__file__).parent
PROJECT: Final[dict[str, Any]] = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
#: The Pythons that the package names.
PYTHONS: Final = [
    classifier.rpartition(" ")[2]
    for classifier in PROJECT["classifiers"]
    if re.fullmatch(r"Programming Language :: Python :: 3\.[0-9]+", classifier)
]
#: What each session runs, unless it is told otherwise: `nox -- tests/convert`.
_TESTS: Final = ("tests", "--numprocesses=2", "--dist=loadfile")
#: What else can only be wrong with the library that a private name belongs to.
_PRIVATE_NAMES: Final = (
    "tests/loop/test_twisted_private.py",
    "tests/test_private_names.py",
    "tests/net",
    "tests/web/site",
    "--numprocesses=2",
)

nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["compiled", "python_alone", "lowest_versions"]


def lowest() -> list[str]:
    """Return the requirement of the lowest version of each library that the package names."""
    found = []
    for requirement in PROJECT["dependencies"]:
        parts = re.fullmatch(r"([a-z0-9-]+)(?:\[[a-z,]+\])?>=([0-9.]+)(?:,<[0-9.]+)?", requirement)
        if parts is None:
            raise ValueError(f"expected NAME>=VERSION in pyproject.toml, saw {requirement!r}")
        found.append(f"{parts[1]}=={parts[2]}")
    return found


def install(session: nox.Session, *, compiled: bool, constraints: list[str], extra: str) -> None:
    """Install a copy of the package into the session's environment, and go there."""
    copy = Path(session.create_tmp()).resolve() / "telemeter"
    shutil.rmtree(copy, ignore_errors=True)
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607
        cwd=HERE,
        capture_output=True,
        check=True,
    ).stdout
    for name in names.decode().split("\0"):
        if name and (HERE / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(HERE / name, copy / name)
    bounds = copy / "constraints.txt"
    bounds.write_text("\n".join(constraints) + "\n")
    session.chdir(copy)
    session.install(
        "--upgrade",
        "--upgrade-strategy=eager",
        "--editable",
        f".[{extra}]",
        "--constraint",
        str(bounds),
        env={"TELEMETER_COMPILED": "yes" if compiled else "no"},
    )
    kind = session.run(
        "python", "-c", "from telemeter.convert.engine import KIND; print(KIND)", silent=True
    )
    if str(kind).strip() != ("compiled" if compiled else "python"):
        session.error(f"what was installed is {kind}: is there a C compiler?")


@nox.session(python=PYTHONS)
def compiled(session: nox.Session) -> None:
    """Run the suite with the compiled modules and the newest libraries."""
    install(session, compiled=True, constraints=[], extra="test")
    session.run("python", "-m", "pytest", *(session.posargs or _TESTS))


@nox.session(python=PYTHONS)
def python_alone(session: nox.Session) -> None:
    """Run the suite without compiled modules, as where there is no compiler."""
    install(session, compiled=False, constraints=[], extra="test")
    session.run("python", "-m", "pytest", *(session.posargs or _TESTS))


@nox.session(python=PYTHONS[0])
def lowest_versions(session: nox.Session) -> None:
    """Run the suite with the lowest version of each library, on the lowest Python."""
    install(session, compiled=True, constraints=lowest(), extra="test")
    session.run("python", "-m", "pytest", *(session.posargs or _TESTS))


@nox.session(python=PYTHONS[0])
def check_lowest(session: nox.Session) -> None:
    """Run ruff, mypy and the tests of private names with the lowest version of each library."""
    install(session, compiled=True, constraints=lowest(), extra="dev")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    # An annotation that the newest version got wrong may be right here.
    session.run("mypy", "--no-warn-unused-ignores")
    session.run("python", "-m", "pytest", *(session.posargs or _PRIVATE_NAMES))
