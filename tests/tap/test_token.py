from __future__ import annotations

import io
import json
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

import pytest

from telemeter.auth.composite import parse_composite
from telemeter.tap.token import main

SECRET: Final = "s3cr3t-T0ken"
Captured = pytest.CaptureFixture[str]


def made(captured: Captured) -> dict[str, str]:
    """The fields of the token that was printed."""
    output = captured.readouterr()
    assert output.err == ""
    assert output.out.endswith("\n")
    assert output.out.count("\n") == 1
    token = parse_composite(f"Bearer {output.out.strip()}")
    fields: dict[str, str] = json.loads(token.question)
    assert fields["cluster_id"] == token.cluster
    return fields


@pytest.mark.parametrize("content", [SECRET, f"{SECRET}\n", f"\n {SECRET} \r\n"])
@pytest.mark.parametrize("cluster", ["my-cluster", "Größe/1", '"'])
def test_from_a_file(tmp_path: Path, capsys: Captured, content: str, cluster: str) -> None:
    file = tmp_path / "token"
    file.write_bytes(content.encode())
    assert main(["--cluster-id", cluster, "--authorization-token-file", str(file)]) == 0
    assert made(capsys) == {"authorization_token": SECRET, "cluster_id": cluster}


def test_from_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(SECRET.encode() + b"\n"))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert main(["--cluster-id", "c", "--authorization-token-file", "-"]) == 0
    assert made(capsys) == {"authorization_token": SECRET, "cluster_id": "c"}


def test_it_is_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    """Installed as a program, it reads the arguments of the program."""
    (command,) = entry_points(group="console_scripts", name="telemeter-token")
    file = tmp_path / "token"
    file.write_text(SECRET)
    arguments = ["telemeter-token", "--cluster-id=c", f"--authorization-token-file={file}"]
    monkeypatch.setattr(sys, "argv", arguments)
    assert command.load()() == 0
    assert made(capsys)["cluster_id"] == "c"


def refused(captured: Captured) -> str:
    """What is said to somebody who gets no token."""
    output = captured.readouterr()
    assert output.out == ""
    assert SECRET not in output.err
    return output.err


@pytest.mark.parametrize("content", ["", "\n", " \t\r\n"])
def test_an_empty_file(tmp_path: Path, capsys: Captured, content: str) -> None:
    file = tmp_path / "token"
    file.write_text(content)
    assert main(["--cluster-id", "c", "--authorization-token-file", str(file)]) == 1
    expected = f"--authorization-token-file {str(file)!r}: expected a token, the file is empty"
    assert refused(capsys) == f"telemeter-token: {expected}\n"


def test_a_file_that_is_not_there(tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "token"
    assert main(["--cluster-id", "c", "--authorization-token-file", str(file)]) == 1
    reason = refused(capsys)
    assert f"--authorization-token-file {str(file)!r}: expected a readable text file" in reason
    assert "No such file" in reason


def test_a_directory(tmp_path: Path, capsys: Captured) -> None:
    assert main(["--cluster-id", "c", "--authorization-token-file", str(tmp_path)]) == 1
    assert "expected a readable text file" in refused(capsys)


def test_a_file_that_holds_no_text(tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "token"
    file.write_bytes(SECRET.encode() + b"\xff")
    assert main(["--cluster-id", "c", "--authorization-token-file", str(file)]) == 1
    assert "expected a readable text file" in refused(capsys)


def test_an_empty_cluster(tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "token"
    file.write_text(SECRET)
    assert main(["--cluster-id", "", "--authorization-token-file", str(file)]) == 1
    assert (
        refused(capsys) == "telemeter-token: --cluster-id '': expected the cluster's identifier\n"
    )


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        ([], "--cluster-id, --authorization-token-file"),
        (["--cluster-id", "c"], "--authorization-token-file"),
        (["--authorization-token-file", "f"], "--cluster-id"),
    ],
)
def test_both_flags_are_needed(capsys: Captured, arguments: list[str], missing: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert f"the following arguments are required: {missing}" in refused(capsys)


def test_no_flag_takes_the_secret_itself(capsys: Captured) -> None:
    """It would be visible to everybody who can list processes."""
    with pytest.raises(SystemExit) as caught:
        main(["--cluster-id", "c", "--authorization-token", SECRET])
    assert caught.value.code == 2
    assert "arguments are required: --authorization-token-file" in refused(capsys)
