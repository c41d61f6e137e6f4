"""telemeter-token: makes the bearer token that a remote-write sender shows."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from telemeter.auth.composite import make_composite
from telemeter.samples.family import is_utf8


def main(arguments: list[str] | None = None) -> int:
    """Print the token for the given cluster; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="telemeter-token",
        allow_abbrev=False,  # of --authorization-token, which people expect to take the secret
        description="Make the bearer token with which a Prometheus writes to telemeter-server.",
    )
    parser.add_argument("--cluster-id", required=True, metavar="ID", help="the cluster")
    parser.add_argument(
        "--authorization-token-file",
        required=True,
        metavar="FILE",
        help="file with the cluster's authorization token; - for standard input",
    )
    options = parser.parse_args(arguments)
    name = options.authorization_token_file
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        secret = data.decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        return _fail(f"--authorization-token-file {name!r}: expected a readable text file: {error}")
    if not secret:
        return _fail(f"--authorization-token-file {name!r}: expected a token, the file is empty")
    if not secret.isprintable():
        return _fail(
            f"--authorization-token-file {name!r}: expected one line of printable text, saw "
            f"{len(secret.splitlines())} lines or other characters"
        )
    if not options.cluster_id:
        return _fail("--cluster-id '': expected the cluster's identifier")
    if not is_utf8(options.cluster_id):
        return _fail("--cluster-id: expected UTF-8")
    print(make_composite(options.cluster_id, secret))
    return 0


def _fail(message: str) -> int:
    print(f"telemeter-token: {message}", file=sys.stderr)
    return 1
