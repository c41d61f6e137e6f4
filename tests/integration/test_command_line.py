"""What an operator meets on the command line: help, refused configurations, a dry run."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from demo.keys import signing_key
from demo.programs import start_server, start_source, twistd, wait_for_samples
from demo.stack import POLL_SECONDS, Ready, Stack

from .command_line import run_twistd

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVER = "telemeter-server"
CLIENT = "telemeter-client"
AUTHORIZER = "telemeter-authorizer"

TRACING = """
    --internal.tracing.service-name --internal.tracing.endpoint --internal.tracing.endpoint-type
    --internal.tracing.sampling-fraction
"""
FLAGS = {
    SERVER: f"""
        --listen --listen-internal --tls-key --tls-crt --internal-tls-key --internal-tls-crt
        --label --partition-label --shared-key --token-expire-seconds --authorize --tenant-id
        --tenant-key --memcached --memcached-expire --memcached-interval --limit-receive-bytes
        --ratelimit --forward-url --required-label --whitelist --whitelist-file --elide-label
        --limit-bytes --workers --log-level --verbose {TRACING}
    """,
    CLIENT: f"""
        --listen --from --from-token --from-token-file --from-ca-file --tls-cert-file
        --tls-private-key-file --id --to --to-upload --to-auth --to-token --to-token-file
        --interval --limit-bytes --match --match-file --label --rename --anonymize-labels
        --anonymize-salt --anonymize-salt-file --dry-run --log-level --verbose {TRACING}
    """,
    AUTHORIZER: "--listen --tokens",
}


@pytest.mark.parametrize("plugin", FLAGS)
def test_help_lists_every_flag(plugin: str) -> None:
    done = run_twistd(plugin, "--help")
    assert done.returncode == 0
    listed = set(re.findall(r"(?<!\S)--[a-z][a-z.-]*", done.stdout))
    assert sorted(set(FLAGS[plugin].split()) - listed) == []


def test_twistd_lists_the_plugins_from_any_folder(tmp_path: Path) -> None:
    done = run_twistd("--help", folder=tmp_path)
    assert done.returncode == 0
    for plugin in FLAGS:
        assert re.search(rf"^\s+{plugin}\s+\w", done.stdout, re.MULTILINE)


# --- refused configurations -----------------------------------------------------------------------


@dataclass(frozen=True)
class Refusal:
    """A command line that must be refused.

    `{folder}` in it is a folder with the files of `bad_files`, `{port}` a port that is in use: a
    daemon that listened before it looked at its configuration would complain about that instead.
    """

    plugin: str
    flags: str
    named: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.plugin.removeprefix('telemeter-')} {self.flags}"


USABLE = {
    SERVER: "--listen 127.0.0.1:{port} --listen-internal 127.0.0.1:{port} "
    "--forward-url http://127.0.0.1:9/",
    CLIENT: "--listen 127.0.0.1:{port} --from http://127.0.0.1:9 --to http://127.0.0.1:9 "
    "--id x --to-token-file {folder}/tokens",
    AUTHORIZER: "--listen 127.0.0.1:{port} --tokens {folder}/tokens",
}

REFUSALS = [
    # An unknown flag, and values that are none.
    *(Refusal(plugin, "--no-such-flag", ("--no-such-flag",)) for plugin in USABLE),
    *(Refusal(plugin, "surplus", ("surplus",)) for plugin in USABLE),
    *(Refusal(plugin, "--listen nowhere", ("--listen", "nowhere")) for plugin in USABLE),
    *(
        Refusal(plugin, f"{flag} {value}", (flag, value))
        for plugin in (SERVER, CLIENT)
        for flag, value in [
            ("--log-level", "loud"),
            ("--label", "no-equals-sign"),
            ("--limit-bytes", "many"),
            ("--internal.tracing.sampling-fraction", "2"),
        ]
    ),
    Refusal(SERVER, "--ratelimit 5parsecs", ("--ratelimit", "5parsecs")),
    Refusal(SERVER, "--forward-url nonsense", ("--forward-url", "nonsense")),
    Refusal(SERVER, "--authorize ftp://x/", ("--authorize", "ftp://x/")),
    Refusal(SERVER, "--token-expire-seconds soon", ("--token-expire-seconds", "soon")),
    Refusal(SERVER, "--required-label alone", ("--required-label", "alone")),
    Refusal(SERVER, "--whitelist {{up", ("--whitelist", "{{up")),
    Refusal(SERVER, "--memcached host:port", ("--memcached", "host:port")),
    Refusal(CLIENT, "--interval soon", ("--interval", "soon")),
    Refusal(CLIENT, "--from nonsense", ("--from", "nonsense")),
    Refusal(CLIENT, "--to ftp://x/", ("--to", "ftp://x/")),
    Refusal(CLIENT, "--to-upload nonsense", ("--to-upload", "nonsense")),
    Refusal(CLIENT, "--match {{up", ("--match", "{{up")),
    Refusal(CLIENT, "--rename ALERTS", ("--rename", "ALERTS")),
    Refusal(CLIENT, "--anonymize-labels instance", ("--anonymize-salt",)),
    # Files that are not there, or not what they should be.
    *(
        Refusal(plugin, f"{flag} {{folder}}/{file}", (flag, f"{{folder}}/{file}"))
        for plugin, flag, file in [
            (SERVER, "--shared-key", "missing"),
            (SERVER, "--shared-key", "garbage"),
            (SERVER, "--shared-key", "ed25519.key"),
            (SERVER, "--shared-key", "secp224r1.key"),
            (SERVER, "--shared-key", "secp256k1.key"),
            (SERVER, "--whitelist-file", "missing"),
            (SERVER, "--whitelist-file", "bad-rules"),
            (CLIENT, "--match-file", "missing"),
            (CLIENT, "--match-file", "bad-rules"),
            (CLIENT, "--to-token-file", "missing"),
            (CLIENT, "--from-token-file", "missing"),
            (CLIENT, "--from-ca-file", "missing"),
            (CLIENT, "--from-ca-file", "garbage"),
            (CLIENT, "--anonymize-salt-file", "missing"),
            (AUTHORIZER, "--tokens", "missing"),
            (AUTHORIZER, "--tokens", "garbage"),
            (AUTHORIZER, "--tokens", "not-tokens"),
        ]
    ),
    # One half of a pair.
    Refusal(SERVER, "--tls-key {folder}/good.key", ("--tls-key", "--tls-crt")),
    Refusal(SERVER, "--tls-crt {folder}/garbage", ("--tls-key", "--tls-crt")),
    Refusal(
        SERVER,
        "--internal-tls-key {folder}/good.key",
        ("--internal-tls-key", "--internal-tls-crt"),
    ),
    Refusal(
        CLIENT,
        "--tls-private-key-file {folder}/good.key",
        ("--tls-private-key-file", "--tls-cert-file"),
    ),
]


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the files that the refused command lines name."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "tokens").write_text('[{"token": "a"}]')
    (folder / "not-tokens").write_text('{"token": "a"}')
    (folder / "garbage").write_text("garbage\n")
    (folder / "bad-rules").write_text("up\n\n# comment\n{__name__=\n")
    (folder / "good.key").write_bytes(signing_key())
    for key in (
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP224R1()),
        ec.generate_private_key(ec.SECP256K1()),
    ):
        name = "ed25519" if isinstance(key, ed25519.Ed25519PrivateKey) else key.curve.name
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / f"{name}.key").write_bytes(pem)
    return folder


@pytest.fixture(scope="module")
def busy_port() -> Iterator[int]:
    """Listen on a port, so that nothing else can."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("refusal", REFUSALS, ids=str)
def test_a_bad_configuration_is_refused_in_one_line(
    refusal: Refusal, bad_files: Path, busy_port: int
) -> None:
    line = f"{USABLE[refusal.plugin]} {refusal.flags}"
    flags = line.format(folder=bad_files, port=busy_port).split()
    done = run_twistd(refusal.plugin, *flags, folder=bad_files)
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    (message,) = done.stderr.splitlines()
    for text in refusal.named:
        assert text.format(folder=bad_files, port=busy_port) in message


@pytest.mark.parametrize("plugin", USABLE)
def test_a_port_in_use_is_named(plugin: str, bad_files: Path, busy_port: int) -> None:
    flags = USABLE[plugin].format(folder=bad_files, port=busy_port).split()
    done = run_twistd(plugin, *flags, folder=bad_files)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "--listen" in last
    assert f"127.0.0.1:{busy_port}" in last
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("plugin", USABLE)
def test_a_port_in_use_ends_a_daemon_in_the_background_too(
    plugin: str, bad_files: Path, busy_port: int, tmp_path: Path
) -> None:
    flags = USABLE[plugin].format(folder=bad_files, port=busy_port).split()
    in_background = [word for word in twistd(plugin, *flags) if word not in ("-n", "--pidfile=")]
    done = subprocess.run(
        in_background, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert f"{plugin}: --listen" in done.stderr
    assert re.fullmatch(rf"{plugin}: --listen.*127\.0\.0\.1:{busy_port}.* in use\n", done.stderr)
    # Whoever is told to look into the log finds the reason there.
    last = (tmp_path / "twistd.log").read_text().splitlines()[-1]
    assert f"127.0.0.1:{busy_port}" in last
    assert "level=critical" in last
    deadline = time.monotonic() + 30  # twistd says so before it tidies up
    while [path.name for path in tmp_path.iterdir()] != ["twistd.log"]:
        assert time.monotonic() < deadline
        time.sleep(POLL_SECONDS)
    assert f"127.0.0.1:{busy_port}" in (tmp_path / "twistd.log").read_text().splitlines()[-1]


def test_other_reasons_come_as_text_too(bad_files: Path, tmp_path: Path) -> None:
    flags = ["--listen", "127.0.0.1:0", "--tokens", str(bad_files / "tokens")]
    command = [word for word in twistd(AUTHORIZER, *flags) if word not in ("-n", "--pidfile=")]
    command.insert(1, f"--pidfile={tmp_path}/missing/pid")
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"No such file or directory: '{tmp_path}/missing/pid'\n" in done.stderr


def test_twist_logs_as_twistd_does(bad_files: Path) -> None:
    with Stack() as stack:
        listen = f"127.0.0.1:{stack.free_port()}"
        command = twistd(
            AUTHORIZER, "--log-level", "debug", "--listen", listen, str(bad_files / "tokens")
        )
        twist = [str(Path(command[0]).with_name("twist")), *command[3:]]
        program = stack.start("twist", twist, f"http://{listen}", Ready("/", 405))
        program.stop()
        lines = program.output().splitlines()
    assert len(lines) > 3
    for line in lines:
        assert re.match(r"ts=\S+Z level=(debug|info) component=\S+ msg=", line)


@pytest.fixture
def other_program() -> Iterator[int]:
    """Run a program that is no daemon; return its process."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process.pid
        process.kill()


@pytest.mark.parametrize("content", ["1", "", "{pid}"])
def test_a_pid_file_that_lies_about_stops_nobody(content: str, other_program: int) -> None:
    """As of a container that was killed, of a full disk, of another program in the same folder."""
    with Stack() as stack:
        pid_file = stack.write("twistd.pid", content.format(pid=other_program))
        before = pid_file.read_text()
        listen = f"127.0.0.1:{stack.free_port()}"
        command = twistd(SERVER, "--listen", "127.0.0.1:0", "--listen-internal", listen)
        command.remove("--pidfile=")
        stack.start("started", command, f"http://{listen}").stop()
        assert pid_file.read_text() == before


@pytest.mark.parametrize("content", ["", "{pid}"])
def test_nor_in_the_background_where_twistd_keeps_one(
    tmp_path: Path, content: str, other_program: int
) -> None:
    pid_file = tmp_path / "twistd.pid"
    pid_file.write_text(content.format(pid=other_program))
    command = twistd(SERVER, "--listen", "127.0.0.1:0", "--listen-internal", "127.0.0.1:0")
    in_background = [word for word in command if word not in ("-n", "--pidfile=")]
    done = subprocess.run(in_background, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    number = int(pid_file.read_text())
    assert number != other_program
    try:
        # A second one is told that there is one.
        again = subprocess.run(in_background, cwd=tmp_path, capture_output=True, check=False)
    finally:
        os.kill(number, signal.SIGTERM)
    assert again.returncode == 1
    assert b"Another twistd server is running" in again.stderr
    deadline = time.monotonic() + 30
    while pid_file.exists():
        assert time.monotonic() < deadline
        time.sleep(POLL_SECONDS)


def test_no_pid_file_and_no_log_file_is_left(stack: Stack) -> None:
    server = start_server(stack, "tidy", "--forward-url", "http://127.0.0.1:9/")
    server.program.stop()
    assert [path.name for path in stack.folder.iterdir()] == ["tidy.log"]


# --- a dry run ------------------------------------------------------------------------------------


def test_a_dry_run_prints_what_would_be_sent(prometheus: None) -> None:
    flags = [
        *("--to", "http://127.0.0.1:9", "--id", "x", "--to-token", "secret-token"),
        *("--match", '{__name__=~"up|ALERTS"}'),
        *("--label", "region=eu"),
        *("--anonymize-labels", "instance", "--anonymize-salt", "secret-salt"),
        "--dry-run",
    ]
    with Stack() as stack:
        source = start_source(stack)
        wait_for_samples(stack, source)
        done = run_twistd(CLIENT, "--from", source.url, *flags, folder=stack.folder)
    assert done.returncode == 0, done.stderr
    samples = [line for line in done.stdout.splitlines() if not line.startswith("#")]
    (alert,) = (line for line in samples if line.startswith("alerts{"))
    (up,) = (line for line in samples if line.startswith("up{"))
    assert len(samples) == 2
    assert json.dumps("AlwaysFiring") in alert
    assert all('region="eu"' in line for line in samples)
    assert source.url.removeprefix("http://") not in up
    assert "secret" not in done.stdout + done.stderr


def test_a_dry_run_that_fails_says_why_in_one_line(tmp_path: Path) -> None:
    flags = "--from http://127.0.0.1:9 --to http://127.0.0.1:9 --id x --to-token t --dry-run"
    done = run_twistd(CLIENT, *flags.split(), folder=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    (reason,) = done.stderr.splitlines()
    assert "127.0.0.1:9" in reason
