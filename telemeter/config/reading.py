"""The contents of the files that flags name: secrets, certificates, selectors.

Everything here raises `UsageError`, which names the flag, the file, and what was expected.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from twisted.python.usage import UsageError

from telemeter.config import files
from telemeter.config.flag_parser import Flags
from telemeter.net.proxy import Proxies
from telemeter.net.tls import ClientPolicy
from telemeter.samples.errors import BadInputError
from telemeter.samples.selector import Selector, parse_rules

#: What `strings.TrimSpace` of Go strips, and so the original from a secret in a file.
_WHITE_SPACE: Final = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)


def read_file(name: str, path: str) -> bytes:
    """Return the content of the file that the flag `name` names; raises `UsageError`."""
    try:
        return files.read(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"--{name} {path!r}: expected a readable file: {reason}") from None


def _read_pem(flags: Flags, name: str) -> bytes:
    """Return what is in the file that a flag names, if it is given; raises `UsageError`."""
    if not flags[name]:
        return b""
    content = read_file(name, flags[name])
    if not content.strip():
        raise UsageError(f"--{name} {flags[name]!r}: expected PEM, the file is empty")
    return content


def read_text(flags: Flags, name: str) -> str:
    """Return the content of a text file; raises `UsageError`."""
    try:
        return read_file(name, flags[name]).decode()
    except UnicodeDecodeError:
        raise UsageError(f"--{name} {flags[name]!r}: expected UTF-8 text") from None


def read_secret(flags: Flags, name: str) -> str:
    """Return a secret, given by its flag or in the file that the flag `NAME-file` names."""
    file_flag = f"{name}-file"
    given = f"--{name} (a secret)"
    secret = str(flags[name]).strip()
    if not flags[name] and flags[file_flag]:
        return read_secret_file(flags, file_flag)
    return _one_line(given, secret)


def read_secret_file(flags: Flags, name: str) -> str:
    """Return the secret in the file that a flag names; raises `UsageError`."""
    given = f"--{name} {flags[name]!r}"
    secret = read_text(flags, name).strip()
    if not secret:
        raise UsageError(f"{given}: expected a secret, the file is empty")
    return _one_line(given, secret)


def _one_line(given: str, secret: str) -> str:
    """Return a secret that is a line; raises `UsageError`."""
    if secret and not secret.isprintable():
        lines = len(secret.splitlines())
        seen = f"saw {lines} lines" if lines > 1 else "saw other characters"
        raise UsageError(f"{given}: expected one line of printable text, {seen}")
    return secret


def read_salt(flags: Flags, name: str) -> bytes:
    """Read a secret that is only hashed, given by its flag or in the file that `NAME-file` names.

    It is any bytes. As in the original, white space is stripped from what is in the file.
    """
    file_flag = f"{name}-file"
    if flags[name] or not flags[file_flag]:
        return os.fsencode(flags[name])
    content = read_file(file_flag, flags[file_flag]).decode("utf-8", "surrogateescape")
    salt = content.strip(_WHITE_SPACE).encode("utf-8", "surrogateescape")
    if not salt:
        raise UsageError(
            f"--{file_flag} {flags[file_flag]!r}: expected a secret, the file is empty"
        )
    return salt


def read_selectors(flags: Flags, name: str) -> list[Selector]:
    """Read the selectors in a file, one a line, at least one; raises `UsageError`."""
    try:
        selectors = parse_rules(read_text(flags, name))
    except BadInputError as error:
        raise UsageError(f"--{name} {flags[name]!r}: {error}") from None
    if not selectors:
        raise UsageError(
            f"--{name} {flags[name]!r}: expected a selector a line, saw none in the file"
        )
    return selectors


def require_satisfiable(selectors: Sequence[Selector], given: str) -> None:
    """Refuse selectors of which none can select anything; raises `UsageError`."""
    if selectors and not any(each.is_satisfiable for each in selectors):
        raise UsageError(f"{given} {selectors[0].text!r}: its matchers exclude each other")


def read_proxies() -> Proxies:
    """Return the proxies that the environment names; raises `UsageError`."""
    try:
        return Proxies.from_environment(os.environ)
    except ValueError as error:
        raise UsageError(str(error)) from None


def read_policy(flags: Flags, authorities: str, *pair: str) -> ClientPolicy:
    """Return whom to trust and what to show, by the files that flags name; raises `UsageError`.

    Args:
        flags: the flags.
        authorities: the flag for CA certificates.
        pair: the flags for a certificate to show, and its key.
    """
    if pair:
        flags.require_both(*pair)
    names = (authorities, *pair)
    contents = [_read_pem(flags, name) for name in names]
    try:
        return ClientPolicy(
            *contents,
            authority_flag=f"--{authorities}",
            certificate_flag=f"--{pair[0]}" if pair else "",
        )
    except ValueError as error:
        given = ", ".join(f"--{name} {flags[name]!r}" for name in names if flags[name])
        raise UsageError(f"{given}: {error}") from None
