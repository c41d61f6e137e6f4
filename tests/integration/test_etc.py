"""The files in etc/ work as they are."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from telemeter.metrics.selector import parse_rules

from .command_line import run_twistd

ETC = Path(__file__).parents[2] / "etc"
INSTALLED = "/opt/telemeter/bin/twistd"


@pytest.mark.parametrize("name", ["telemeter-server.service", "telemeter-client.service"])
def test_systemd_has_nothing_to_say(name: str, systemd_analyze: None, tmp_path: Path) -> None:
    text = (ETC / name).read_text()
    assert INSTALLED in text
    unit = tmp_path / name
    unit.write_text(text.replace(INSTALLED, str(Path(sys.executable).with_name("twistd"))))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", ["match.example", "whitelist.example"])
def test_every_rule_parses(name: str) -> None:
    text = (ETC / name).read_text()
    rules = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert len(parse_rules(text)) == len(rules) > 0


@pytest.mark.parametrize("daemon", ["server", "client"])
def test_every_flag_exists(daemon: str) -> None:
    setting = (ETC / f"{daemon}.env.example").read_text()
    unit = (ETC / f"telemeter-{daemon}.service").read_text()
    flags = set(re.findall(r"(?<!\S)--[a-z][a-z-]+", unit + setting.replace('"', " ")))
    flags.remove("--pidfile")  # twistd's own
    text = run_twistd(f"telemeter-{daemon}", "--help").stdout
    missing = [flag for flag in sorted(flags) if flag not in text]
    assert missing == []
