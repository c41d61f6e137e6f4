"""Units of systemd, as far as a test can be systemd: their commands, on files of the test's own."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

ETC = Path(__file__).parents[2] / "etc"
INSTALLED = "/opt/telemeter/bin"
HERE = str(Path(sys.executable).parent)


@dataclass
class Unit:
    """A unit in `etc/`, with another root for what it reads and writes.

    Attributes:
        name: such as `telemeter-server`.
        root: stands for `/`: there are `etc/telemeter` and `run` in it.
        environment: what a command has besides the unit's own.
    """

    name: str
    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lines = (ETC / f"{self.name}.service").read_text().splitlines()
        (self.root / "etc/telemeter").mkdir(parents=True, exist_ok=True)

    def values(self, setting: str) -> list[str]:
        """Return what a setting is set to."""
        return [line.partition("=")[2] for line in self._lines if line.startswith(f"{setting}=")]

    def here(self, text: str) -> str:
        """Return a text with the paths of this machine."""
        text = text.replace("%t", f"{self.root}/run").replace("%S", f"{self.root}/var/lib")
        text = text.replace(INSTALLED, HERE)
        return (
            text.replace("/run/telemeter-", f"{self.root}/run/telemeter-")
            .replace(f"{self.root}{self.root}", str(self.root))
            .replace("/etc/telemeter", f"{self.root}/etc/telemeter")
        )

    def variables(self) -> Mapping[str, str]:
        """Return the variables of its environment files, which systemd reads for each command."""
        found = {}
        for path in self.values("EnvironmentFile"):
            for line in Path(self.here(path)).read_text().splitlines():
                if line and not line.startswith("#"):
                    name, _, value = line.partition("=")
                    found[name] = self.here(value.strip('"'))
        return found

    def commands(self, setting: str) -> list[list[str]]:
        """Return commands, split into words, with variables in their places."""
        variables = {**self.variables(), **self.environment}
        found = []
        for line in self.values(setting):
            words: list[str] = []
            for word in shlex.split(self.here(line.lstrip("+"))):
                if word.startswith("$") and word[1:].isidentifier():
                    words += variables.get(word[1:], "").split()
                else:
                    word = re.sub(r"\$\{(\w+)\}", lambda m: variables.get(m[1], ""), word)
                    words.append(word.replace("$$", "$"))
            found.append(words)
        return found

    def prepare(self) -> subprocess.CompletedProcess[str]:
        """Do what comes before the start."""
        for kind, place in (("Runtime", "run"), ("State", "var/lib")):
            for folder in self.values(f"{kind}Directory"):
                (mode,) = self.values(f"{kind}DirectoryMode")
                path = self.root / place / folder
                path.mkdir(parents=True, exist_ok=True)
                path.chmod(int(mode, 8))
        return self._run(self.commands("ExecStartPre"))

    def start_command(self) -> list[str]:
        """Return the command of the service itself."""
        (command,) = self.commands("ExecStart")
        return command

    def reload(self) -> subprocess.CompletedProcess[str]:
        """Do what `systemctl reload` does: one command after the other, until one fails."""
        return self._run(self.commands("ExecReload"))

    def _run(self, commands: list[list[str]]) -> subprocess.CompletedProcess[str]:
        done = subprocess.CompletedProcess[str]([], 0, "", "")
        assert commands
        for command in commands:
            done = subprocess.run(
                command,
                env={**os.environ, **self.variables(), **self.environment},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            if done.returncode:
                break
        return done
