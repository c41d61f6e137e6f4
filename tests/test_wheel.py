"""The package, built where there is no compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "telemeter", "twisted")
_BUILT = shutil.ignore_patterns("*.so", "*.c", "__pycache__", "*.egg-info", "dropin.cache")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel with a compiler that always fails."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, source / part, ignore=_BUILT)
        else:
            shutil.copy(ROOT / part, source / part)
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    # The virtual environment has what a build needs, so nothing is fetched.
    command += ["--no-build-isolation", "--no-deps", "--wheel-dir", str(folder), str(source)]
    done = subprocess.run(
        command,
        env={**os.environ, "CC": "false", "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_it_is_for_every_python(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (about,) = (name for name in names if name.endswith("/WHEEL"))
        assert b"Root-Is-Purelib: true" in archive.read(about)
    assert not any(name.endswith(".so") for name in names)
    assert "telemeter/convert/engine.py" in names
    assert "twisted/plugins/telemeter_plugin.py" in names


@pytest.mark.parametrize(
    "flags",
    [
        "telemeter-server --listen 127.0.0.1:0 --listen-internal nowhere:0",
        "telemeter-client --listen nowhere:0",
    ],
)
def test_it_can_be_run_as_it_is(wheel: Path, tmp_path: Path, flags: str) -> None:
    """Its modules are found, and its plugins; what the flags ask for is refused."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    program = (
        "import telemeter; print(telemeter.__file__); from twisted.scripts.twistd import run; run()"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, "-n", *flags.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert str(tmp_path) in done.stdout
    assert "nowhere" in done.stderr
    assert done.returncode == 1
