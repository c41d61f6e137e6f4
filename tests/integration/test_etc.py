"""The files in etc/ work as they are."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from telemeter.metrics.selector import parse_rules
from telemeter.tap.authorizer import Options as AuthorizerOptions
from telemeter.tap.client import Options as ClientOptions
from telemeter.tap.server_options import Options as ServerOptions

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


def flags_of(daemon: str) -> list[str]:
    """The flags in the example, with the files of this folder."""
    text = (ETC / f"{daemon}.env.example").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("TELEMETER_"))
    line = line.partition("=")[2].strip('"')
    return re.sub(r"/etc/telemeter/(\w+)", rf"{ETC}/\1.example", line).split()


def test_the_example_of_the_server_has_the_ports_of_the_programs() -> None:
    options = ServerOptions()
    options.parseOptions(flags_of("server"))
    for name in ("listen", "listen-internal"):
        assert options[name] == ServerOptions()[name]
    stub = AuthorizerOptions()["listen"]
    assert options["authorize"] == f"http://{stub}/"


def test_the_identifier_of_the_example_is_refused(tmp_path: Path) -> None:
    salt = tmp_path / "salt"
    salt.write_text("salt")
    more = ["--to-token", "token", "--anonymize-salt-file", str(salt)]
    flags = flags_of("client") + more
    with pytest.raises(SystemExit, match=r"--id '0.*' *: expected an identifier of your own"):
        ClientOptions().parseOptions(flags)
    options = ClientOptions()
    options.parseOptions([word.replace("00000000-", "2f6b4a3e-") for word in flags])
    assert options["from"].endswith(":9090")


@pytest.mark.parametrize("daemon", ["server", "client"])
def test_every_flag_exists(daemon: str) -> None:
    setting = (ETC / f"{daemon}.env.example").read_text()
    unit = (ETC / f"telemeter-{daemon}.service").read_text()
    flags = set(re.findall(r"(?<!\S)--[a-z][a-z-]+", unit + setting.replace('"', " ")))
    flags.remove("--pidfile")  # twistd's own
    text = run_twistd(f"telemeter-{daemon}", "--help").stdout
    missing = [flag for flag in sorted(flags) if flag not in text]
    assert missing == []
