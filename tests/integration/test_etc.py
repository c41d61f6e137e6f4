"""The files in etc/ work as they are."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from demo.stack import HOST, Program, Stack
from telemeter.samples.selector import parse_rules

from .command_line import run_twistd
from .units import ETC, HERE, INSTALLED, Unit
from .wire import authorize, encode, gauge, upload

if TYPE_CHECKING:
    from collections.abc import Callable

    from .upstream import Upstream

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.parametrize("name", ["telemeter-server.service", "telemeter-client.service"])
def test_systemd_has_nothing_to_say(name: str, systemd_analyze: None, tmp_path: Path) -> None:
    text = (ETC / name).read_text()
    assert INSTALLED in text
    unit = tmp_path / name
    unit.write_text(text.replace(INSTALLED, HERE))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", ["telemeter-server.service", "telemeter-client.service"])
def test_little_is_exposed(name: str, systemd_analyze: None) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=15", str(ETC / name)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


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
    flags -= {"--pidfile", "--ignore-signal"}  # of twistd and of env
    text = run_twistd(f"telemeter-{daemon}", "--help").stdout
    missing = [flag for flag in sorted(flags) if flag not in text]
    assert missing == []


# --- Units, and what `systemctl` does with them ---------------------------------------------------


@dataclass
class Service:
    """A unit whose service runs."""

    unit: Unit
    program: Program
    url: str
    folder: Path
    runtime: Path


def start(stack: Stack, unit: Unit, flags: str, ready_at: str, url: str) -> Service:
    """Start a unit as systemd does, with these flags in its environment file."""
    folder = unit.root / "etc/telemeter"
    short = unit.name.removeprefix("telemeter-")
    variable = f"TELEMETER_{short.upper()}_FLAGS"
    (folder / f"{short}.env").write_text(f'# The flags.\n{variable}="{flags}"\n')
    done = unit.prepare()
    assert (done.returncode, done.stderr) == (0, "")
    name = f"{unit.name}-{len(stack.programs)}"
    program = stack.start(name, unit.start_command(), ready_at)
    unit.environment["MAINPID"] = str(program.popen.pid)
    return Service(unit, program, url, folder / f"{short}-secrets", unit.root / f"run/{unit.name}")


def new_key(path: Path) -> None:
    """Make a key with the command that the README has."""
    command = "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out"
    assert command in README.read_text()
    subprocess.run([*command.split(), str(path)], check=True, capture_output=True)


@pytest.fixture
def start_server(stack: Stack, tmp_path: Path, openssl: None) -> Callable[..., Service]:
    """Return what starts the unit of the server."""

    def start_with(upstream: Upstream, more: str = "") -> Service:
        unit = Unit("telemeter-server", tmp_path)
        folder = tmp_path / "etc/telemeter"
        secrets = folder / "server-secrets"
        secrets.mkdir()
        new_key(secrets / "shared.key")
        shutil.copy(secrets / "shared.key", secrets / "verify.key")
        shutil.copy(ETC / "whitelist.example", folder / "whitelist")
        listen, internal = (f"{HOST}:{stack.free_port()}" for _ in range(2))
        flags = (
            f"--listen {listen} --listen-internal {internal} --forward-url {upstream.url} "
            f"--whitelist-file /etc/telemeter/whitelist --ratelimit 0 {more}"
        )
        service = start(stack, unit, flags, f"http://{internal}", f"http://{listen}")
        assert (unit.root / "var/lib/telemeter-server/fleet.sqlite").stat().st_size > 0
        return service

    return start_with


def passes(service: Service, jwt: str) -> int:
    """Upload with a token; return the status."""
    return upload(service.url, jwt, encode([gauge("up", 1, {"_id": "x"})])).status


@pytest.mark.parametrize("workers", [1, 2])
def test_keys_rotate_as_the_readme_has_it_without_a_restart(
    start_server: Callable[..., Service], upstream: Upstream, workers: int
) -> None:
    service = start_server(upstream, f"--workers {workers}")
    steps = key_rotation()
    assert len(steps) == 3
    jwt = authorize(service.url, "x", "any")
    run_step(service, steps[0])
    assert passes(service, jwt) == 200
    run_step(service, steps[1])
    newer = authorize(service.url, "x", "any")
    assert [passes(service, each) for each in (jwt, newer)] == [200, 200]
    run_step(service, steps[2])
    assert [passes(service, each) for each in (jwt, newer)] == [401, 200]
    assert sorted(path.name for path in service.folder.iterdir()) == ["shared.key", "verify.key"]
    assert service.program.running()


def section_on_keys() -> str:
    text = README.read_text()
    section = text[text.index("### Change the signing key") :]
    return section[: section.index("\n### ", 1)]


def key_rotation() -> list[str]:
    """Return the commands of the README's steps, as for one server."""
    return re.findall(r"^\d\. .*?```sh\n(.*?)```", section_on_keys(), re.MULTILINE | re.DOTALL)


def test_a_new_key_is_made_once_and_copied_to_other_servers() -> None:
    section = section_on_keys()
    ((made, end),) = (
        (each[1], each.end()) for each in re.finditer(r"genpkey .* -out (\S+)", section)
    )
    rest = section[end : section.index("\n2. ")]
    ((source, host, path),) = re.findall(r"^ *scp -p (\S+) (\S+):(\S+)$", rest, re.MULTILINE)
    assert source == path == made
    assert f"ssh {host} systemctl reload telemeter-server" in rest


def run_step(service: Service, commands: str) -> None:
    """Run commands of the README as root would, `systemctl reload` as systemd does."""
    reload = "systemctl reload telemeter-server"
    assert commands.rstrip().endswith(reload)
    script = "set -eu\n" + service.unit.here(commands.replace(reload, ""))
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    done = service.unit.reload()
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reload_that_fails_says_so(
    start_server: Callable[..., Service], upstream: Upstream
) -> None:
    service = start_server(upstream)
    jwt = authorize(service.url, "x", "any")
    whitelist = service.unit.root / "etc/telemeter/whitelist"
    rules = whitelist.read_text()
    for break_it, mend, reason in [
        (
            lambda: whitelist.write_text("{broken\n"),
            lambda: whitelist.write_text(rules),
            "--whitelist-file",
        ),
        (
            lambda: (service.folder / "shared.key").rename(service.folder / "a.moved"),
            lambda: (service.folder / "a.moved").rename(service.folder / "shared.key"),
            "--shared-key",  # what was copied once is gone too
        ),
        (
            lambda: (service.folder / "garbage").write_text("garbage\n"),
            lambda: (service.folder / "garbage").unlink(),
            "",
        ),
        (
            lambda: (service.folder / "verify.key").write_text("garbage\n"),
            lambda: shutil.copy(service.folder / "shared.key", service.folder / "verify.key"),
            "--shared-key",
        ),
        (
            lambda: (service.folder / "old").mkdir(),
            lambda: (service.folder / "old").rmdir(),
            "omitting directory",
        ),
        (
            lambda: service.folder.rename(f"{service.folder}.moved"),
            lambda: Path(f"{service.folder}.moved").rename(service.folder),
            "No such file",
        ),
    ]:
        break_it()
        done = service.unit.reload()
        assert (done.returncode != 0) == bool(reason), done.stderr
        assert reason in done.stderr
        assert passes(service, jwt) == 200
        mend()
        assert service.unit.reload().returncode == 0
    service.program.stop()
    done = service.unit.reload()
    assert done.returncode == 1
    assert "nobody listens there" in done.stderr


def test_only_the_service_enters_the_folder_of_the_copies(
    start_server: Callable[..., Service], upstream: Upstream
) -> None:
    service = start_server(upstream)
    assert service.runtime.stat().st_mode & 0o777 == 0o700
    copies = list(service.runtime.iterdir())
    assert sorted(path.name for path in copies) == ["shared.key", "verify.key"]
    # Whoever that is: a service's user has no name that the copy could be given to.
    assert {path.stat().st_mode & 0o777 for path in copies} == {0o444}
    assert all(line.startswith("+") for line in service.unit.values("ExecStartPre"))


@pytest.fixture(params=["telemeter-server", "telemeter-client"])
def prepared(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Unit, Path, Path]:
    """A unit that has been prepared, the folder of its secrets and that of the copies."""
    unit = Unit(request.param, tmp_path)
    short = unit.name.removeprefix("telemeter-")
    (tmp_path / f"etc/telemeter/{short}.env").write_text("")
    secrets = tmp_path / f"etc/telemeter/{short}-secrets"
    secrets.mkdir()
    for name in ("one", "with a space"):
        (secrets / name).write_text(f"{name}\n")
    done = unit.prepare()
    assert (done.returncode, done.stderr) == (0, "")
    return unit, secrets, tmp_path / "run" / unit.name


def copy(unit: Unit) -> subprocess.CompletedProcess[str]:
    """Do the part of a reload that copies secrets, which is that of the start."""
    first, _ = unit.commands("ExecReload")
    assert [first] == unit.commands("ExecStartPre")
    return subprocess.run(first, capture_output=True, text=True, check=False)


def contents(folder: Path) -> dict[str, str]:
    """Return the texts of a folder's files."""
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def test_copies_follow_the_secrets(prepared: tuple[Unit, Path, Path]) -> None:
    unit, secrets, copies = prepared
    assert contents(copies) == contents(secrets) != {}
    (secrets / "one").rename(secrets / "two")
    (secrets / "with a space").write_text("another\n")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(copies / "s"))  # where the daemon itself listens
        done = copy(unit)
    assert (done.returncode, done.stderr) == (0, "")
    assert contents(copies) == {"two": "one\n", "with a space": "another\n"}
    assert (copies / "s").is_socket()
    (secrets / "two").unlink()
    assert copy(unit).returncode == 0
    assert contents(copies) == {"with a space": "another\n"}
    assert [path.name for path in copies.parent.iterdir()] == [unit.name]


def test_either_all_secrets_are_copied_or_none(prepared: tuple[Unit, Path, Path]) -> None:
    unit, secrets, copies = prepared
    before = contents(copies)
    (secrets / "one").write_text("another\n")
    (secrets / "with a space").unlink()
    (secrets / "zzz").mkdir()
    done = copy(unit)
    assert (done.returncode, contents(copies)) == (1, before)
    assert "zzz" in done.stderr
    (secrets / "zzz").rmdir()
    assert copy(unit).returncode == 0
    assert contents(copies) == {"one": "another\n"}
    (secrets / "one").unlink()
    assert copy(unit).returncode == 1  # nothing at all is a mistake
    assert contents(copies) == {"one": "another\n"}


@pytest.mark.parametrize("listens", [True, False])
def test_the_agent_reloads_too(stack: Stack, tmp_path: Path, listens: bool) -> None:
    unit = Unit("telemeter-client", tmp_path)
    folder = tmp_path / "etc/telemeter"
    (folder / "client-secrets").mkdir()
    for name in ("to-token", "salt"):
        (folder / "client-secrets" / name).write_text("secret\n")
    shutil.copy(ETC / "match.example", folder / "match")
    listen = f"{HOST}:{stack.free_port()}"
    flags = (
        f"--listen {listen} --from http://127.0.0.1:9 --to http://127.0.0.1:9 --id an-id "
        "--match-file /etc/telemeter/match --anonymize-labels instance"
    )
    service = start(stack, unit, flags, f"http://{listen}", "")
    if not listens:  # then there is only the signal, whose outcome is in the log
        environment = folder / "client.env"
        environment.write_text(environment.read_text().replace(f"--listen {listen}", "--listen="))
    (folder / "match").write_text("{broken\n")
    done = unit.reload()
    assert done.returncode == (1 if listens else 0)
    assert ("--match-file" if listens else "sent SIGHUP") in done.stderr
    stack.wait(lambda: "not reloaded" in service.program.output(), "the reason in the log")
    shutil.copy(ETC / "match.example", folder / "match")
    (folder / "client-secrets/salt").rename(tmp_path / "salt")
    done = unit.reload()
    assert done.returncode == (1 if listens else 0)
    assert ("--anonymize-salt-file" if listens else "sent SIGHUP") in done.stderr
    (tmp_path / "salt").rename(folder / "client-secrets/salt")
    assert unit.reload().returncode == 0
    stack.wait(lambda: "msg=reloaded" in service.program.output(), "a reload")
    assert service.program.stop() == -15


def test_a_signal_before_the_service_has_handlers_is_ignored(tmp_path: Path) -> None:
    for name in ("telemeter-server", "telemeter-client"):
        unit = Unit(name, tmp_path)
        (command,) = unit.values("ExecStart")
        before, program = command.split(f"{INSTALLED}/twistd")
        assert program
        script = "import os, signal; os.kill(os.getpid(), signal.SIGHUP)"
        script += "; os.kill(os.getpid(), signal.SIGUSR1)"
        subprocess.run([*before.split(), "python3", "-c", script], check=True)
