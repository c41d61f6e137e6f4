"""An OpenID Connect issuer: the certified provider `oidc-provider`, on Node."""

from __future__ import annotations

import fcntl
import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from demo.stack import HOST, Program, Ready, Stack, StackError

if TYPE_CHECKING:
    from demo.certificates import Identity

#: The provider and its configuration, which the integration tests use too.
PACKAGE: Final = Path(__file__).parents[1] / "tests" / "integration" / "oidc"
WELL_KNOWN: Final = "/.well-known/openid-configuration"
_NPM: Final = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]


def is_installed(package: Path = PACKAGE) -> bool:
    """Tell whether what a folder's package needs is there, in the version that is asked for."""
    # npm writes this file last.
    done, wanted = package / "node_modules" / ".package-lock.json", package / "package-lock.json"
    return done.exists() and done.stat().st_mtime >= wanted.stat().st_mtime


def install(package: Path = PACKAGE) -> None:
    """Install what a folder's package needs with npm, into the folder.

    Raises:
        StackError: npm could not.
    """
    with (package / "package.json").open() as lock:
        # Tests that run side by side must not install it twice at once.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_installed(package):
            return
        run = subprocess.run(
            _NPM, cwd=package, capture_output=True, text=True, timeout=300, check=False
        )
    if run.returncode != 0:
        raise StackError(f"{' '.join(_NPM)} in {package} failed:\n{run.stderr}")


def start_issuer(
    stack: Stack,
    identity: Identity,
    *,
    client: str,
    secret: str,
    audience: str,
    seconds: int,
) -> Program:
    """Start an issuer that speaks TLS, with one client.

    Args:
        stack: what the program belongs to.
        identity: what it shows over TLS.
        client: who may ask for tokens.
        secret: the proof of it.
        audience: whom tokens may be for: JWTs, which that one can check by itself.
        seconds: for how long a token holds.
    """
    port = stack.free_port()
    jwk = RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 2048), as_dict=True)
    del jwk["key_ops"]  # The provider both signs and verifies with it.
    configuration = {
        "host": HOST,
        "port": port,
        "tls": {"certificate": str(identity.certificate), "key": str(identity.key)},
        "clients": [{"client_id": client, "client_secret": secret}],
        "jwks": {"keys": [jwk]},
        "audiences": {audience: {"format": "jwt", "seconds": seconds}},
    }
    path = stack.write("issuer.json", json.dumps(configuration))
    argv = ["node", str(PACKAGE / "provider.mjs"), str(path)]
    return stack.start("issuer", argv, f"https://{HOST}:{port}", Ready(WELL_KNOWN))
