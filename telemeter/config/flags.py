"""Command-line flags: one table per daemon, parsed and checked before anything starts.

A daemon that is told something it cannot do says so in one line, naming the flag, the value and
what was expected, and exits with status 1.
"""

from __future__ import annotations

import csv
import difflib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

from twisted.logger import Logger
from twisted.python.usage import Options, UsageError

from telemeter import __version__
from telemeter.config import files
from telemeter.config.listen import endpoint_maker
from telemeter.config.pidfile import settle_pid_file
from telemeter.net.proxy import Proxies
from telemeter.net.tls import ClientPolicy
from telemeter.samples.errors import BadInputError
from telemeter.samples.family import MAX_NAME_LENGTH, is_too_long, is_utf8, label_fault
from telemeter.samples.selector import NAME, Selector, parse_rules, parse_selector

log = Logger()

_UNITS: Final = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_BOOLEANS: Final = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}
#: The flags that name the servers that `policy_flags` are about.
_TARGETS: Final = {"forward": "forward-url", "authorize": "authorize"}
#: What may hold a password in a URL, also in a malformed one.
_USER_INFO = re.compile(r"(?<=//).*@|^(?!.*//)[^\s\"'={},]+:.*@")
_SHOWN: Final = 64
#: The longest duration in seconds: as in Go, what 63 bits of nanoseconds hold.
_LONGEST = 2**63 / 1e9
#: What `strings.TrimSpace` of Go strips, and so the original from a secret in a file.
_WHITE_SPACE: Final = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
#: How many similar flags are named where one is not known.
_MOST_SIMILAR: Final = 3
_DURATION_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")


@dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
        name: without the dashes.
        parse: from the text to the value; raises ValueError with what was expected. None: the flag
            takes no value and is False or True.
        default: the value if the flag is not given.
        help: what it does.
        repeated: whether it may be given several times; its value is then a list, to which each
            occurrence adds what `parse` returns (a list if it is `comma_separated`).
        shown: how the help shows the default, if not as it is.
        short: a one-letter form.
        secret: whether no message may show its value.
        guards: what an empty value would do to what the flag guards, for which it is refused. Of
            other flags an empty value counts as not given.
        warns: whether it is worth a warning that an empty value counts as not given.
        may_be_empty: whether an empty value means something, and is parsed as any other.
    """

    name: str
    parse: Callable[[str], Any] | None
    default: Any
    help: str
    repeated: bool = False
    shown: str = ""
    short: str = ""
    secret: bool = False
    guards: str = ""
    warns: bool = False
    may_be_empty: bool = False

    @property
    def description(self) -> str:
        """The help with the default and whether it repeats."""
        if self.parse is None:
            return f"{self.help} [default: off]"
        default = self.shown or (str(self.default) if self.default not in ("", []) else "none")
        repeated = "; repeatable" if self.repeated else ""
        return f"{self.help} [default: {default}{repeated}]"


class Flags(Options):
    """Options made from a table of flags.

    Attributes:
        program: the name that errors start with.
        flags: the table.
    """

    program: ClassVar[str]
    flags: ClassVar[Sequence[Flag]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Turn the flags into what `Options` looks for: methods named `opt_...`."""
        super().__init_subclass__(**kwargs)
        for flag in cls.flags:
            method = _value_method(flag) if flag.parse else _switch_method(flag)
            method.__doc__ = flag.description
            setattr(cls, "opt_" + flag.name.replace("-", "_"), method)
            if flag.short:
                setattr(cls, "opt_" + flag.short, method)

    def __init__(self) -> None:
        super().__init__()
        self.given: set[str] = set()
        #: Flags whose values were empty, and so count as not given.
        self.empty: set[str] = set()
        for flag in self.flags:
            self[flag.name] = list(flag.default) if flag.repeated else flag.default

    # The same function, so that the help shows both forms together.
    opt_h = Options.opt_help

    def opt_version(self) -> None:
        """Print the version and exit."""
        print(f"telemeter {__version__}")
        sys.exit(0)

    def parseOptions(self, options: Any = None) -> None:
        """Parse and check; every error ends the program with one line."""
        self.read(sys.argv[1:] if options is None else options)
        with self._errors_in_one_line():
            self.check()
            if self.parent is not None:
                settle_pid_file(self.parent)

    def read(self, words: Sequence[str]) -> None:
        """Parse, and look at no file; every error ends the program with one line."""
        with self._errors_in_one_line():
            super().parseOptions(self._spelled_out(words))

    @contextmanager
    def _errors_in_one_line(self) -> Iterator[None]:
        try:
            yield
        except UsageError as error:
            raise SystemExit(f"{self.program}: {' '.join(str(error).split())}") from None

    def _spelled_out(self, arguments: Sequence[str]) -> list[str]:
        """Return the arguments as Twisted takes them: `--FLAG=VALUE` and `--SWITCH`.

        Twisted would take abbreviations too, which change their meaning with every new flag, and
        knows neither empty values nor `--SWITCH=true`, as the original takes it.
        """
        flags = {f"--{flag.name}": flag for flag in self.flags}
        flags |= {f"-{flag.short}": flag for flag in self.flags if flag.short}
        kept: list[str] = []
        words = iter(arguments)
        for word in words:
            if word in ("-", "--") or not word.startswith("-"):
                return [*kept, word, *words]
            name, separator, value = word.partition("=")
            if word in ("-h", "--help", "--version"):
                kept.append(word)
                continue
            if not word.startswith("--") and all(f"-{letter}" in flags for letter in word[1:]):
                # Only switches have short forms.
                kept += [f"--{flags[f'-{letter}'].name}" for letter in word[1:]]
                continue
            if name not in flags:
                raise UsageError(self._unknown(name))
            flag = flags[name]
            if flag.parse is None:
                kept = self._switched(kept, flag, value if separator else "true")
                continue
            if not separator:
                behind = next(words, None)
                if behind is None:
                    raise UsageError(f"{name}: expected a value behind it")
                value = behind
            if value or flag.may_be_empty:
                kept.append(f"{name}={value}")
            else:
                self._leave_out(flag)
        return kept

    def _switched(self, kept: list[str], flag: Flag, value: str) -> list[str]:
        if not value:
            self._leave_out(flag)
            return kept
        if value.lower() not in _BOOLEANS:
            raise UsageError(f"--{flag.name} {value!r}: expected true or false")
        if _BOOLEANS[value.lower()]:
            return [*kept, f"--{flag.name}"]
        return [each for each in kept if each != f"--{flag.name}"]

    def _leave_out(self, flag: Flag) -> None:
        """Take an empty value for none, if that is safe."""
        if flag.guards:
            raise UsageError(
                f"--{flag.name} '': the value is empty, which would {flag.guards}; leave the flag "
                "out if that is wanted"
            )
        self.empty.add(flag.name)

    def _unknown(self, name: str) -> str:
        """Say that a flag is not known, and which are that look like it."""
        known = ["help", "version", *(flag.name for flag in self.flags)]
        word = name.strip("-").replace("_", "-")
        similar = [each for each in known if word and each.startswith(word)]
        similar += difflib.get_close_matches(word, known, _MOST_SIMILAR)
        nearest = [f"--{each}" for each in dict.fromkeys(similar)][:_MOST_SIMILAR]
        hint = f"did you mean {' or '.join(nearest)}?" if nearest else "--help lists all"
        for flag in self.flags:
            if flag.secret and word.startswith(flag.name):
                name = f"--{flag.name}..."  # the rest may be the secret
        return f"{name[:_SHOWN]} is not a flag; {hint}"

    def parseArgs(self, *surplus: str) -> None:
        """Everything is said with flags."""
        if surplus:
            shown = repr(" ".join(surplus))
            # As in: --to-token = TOKEN
            if any(flag.secret and flag.name in self.given for flag in self.flags):
                shown = "surplus words (not shown, they may belong to a secret)"
            raise UsageError(f"expected flags only, saw {shown}")

    def check(self) -> None:
        """Check what no single flag can know; raises `UsageError`."""

    def require_listen(self, *names: str) -> None:
        """Refuse addresses that cannot be listened at, the defaults included."""
        for name in names:
            try:
                endpoint_maker(self[name])
            except ValueError as error:
                raise UsageError(f"--{name} {self[name]!r}: {error}") from None

    def require_both(self, one: str, other: str) -> None:
        """Refuse one half of a pair of flags."""
        for present, missing in ((one, other), (other, one)):
            if self[present] and not self[missing]:
                raise UsageError(
                    f"--{present} {self[present]!r} needs --{missing} too, which was not given"
                )


def log_level(options: Flags) -> str:
    """Return the lowest level that a daemon logs."""
    return "debug" if options["verbose"] else str(options["log-level"])


def _value_method(flag: Flag) -> Callable[[Flags, str], None]:
    def take(self: Flags, text: str) -> None:
        assert flag.parse is not None
        try:
            value = flag.parse(text)
        except ValueError as error:
            shown = "(a secret)" if flag.secret else repr(_USER_INFO.sub("...@", text))
            raise UsageError(f"--{flag.name} {shown}: {error}") from None
        if not flag.repeated:
            self[flag.name] = value
        else:
            if flag.name not in self.given:
                self[flag.name] = []
            self[flag.name] += value if isinstance(value, list) else [value]
        self.given.add(flag.name)

    return take


def _switch_method(flag: Flag) -> Callable[[Flags], None]:
    def take(self: Flags) -> None:
        self[flag.name] = True

    return take


def text(value: str) -> str:
    """Any text."""
    if not is_utf8(value):
        raise ValueError("expected UTF-8")
    return value


def raw(value: str) -> str:
    """Take any bytes, as paths may have them; what is no UTF-8 is half surrogate pairs."""
    return value


def header_text(value: str) -> str:
    """Text that goes into a header."""
    if not value.isascii() or not value.isprintable():
        raise ValueError("expected printable ASCII")
    return value


def duration(value: str) -> float:
    """Parse a Go duration, such as `4m30s`, `1.5h` or `0`; return seconds."""
    if value == "0":
        return 0.0
    seconds, at = 0.0, 0
    while part := _DURATION_PART.match(value, at):
        seconds += float(part[1]) * _UNITS[part[2]]
        at = part.end()
    if not value or at < len(value):
        raise ValueError("expected a duration such as 4m30s, 15s or 0")
    if seconds > _LONGEST:
        raise ValueError("expected a duration such as 4m30s, 15s or 0, of 292 years at most")
    return seconds


def positive_duration(value: str) -> float:
    """Parse a Go duration above 0; return seconds."""
    seconds = duration(value)
    if seconds <= 0:
        raise ValueError("expected a duration above 0, such as 4m30s or 15s")
    return seconds


def integer(low: int, high: int = 2**63 - 1) -> Callable[[str], int]:
    """Return a parser of whole numbers within bounds."""

    def parse(value: str) -> int:
        if not re.fullmatch(r"[-+]?[0-9]{1,19}", value) or not low <= int(value) <= high:
            raise ValueError(f"expected a whole number from {low} to {high}")
        return int(value)

    return parse


def fraction(value: str) -> float:
    """Parse a number from 0 to 1."""
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise ValueError("expected a number from 0 to 1")
    return number


def choice(*words: str) -> Callable[[str], str]:
    """Return a parser of one of some words."""

    def parse(value: str) -> str:
        if value.lower() not in words:
            raise ValueError(f"expected one of {', '.join(words)}")
        return value.lower()

    return parse


def word_list(value: str) -> list[str]:
    """Parse a comma-separated list; a word with a comma in it stands in double quotes."""
    if not value:
        return []
    try:
        return [word.strip() for word in next(csv.reader([value], strict=True))]
    except csv.Error as error:
        raise ValueError(f"expected a comma-separated list: {error}") from None


def memcached_list(value: str) -> list[tuple[str, int]]:
    """Parse a comma-separated list of HOST:PORT."""
    found = []
    for word in word_list(value):
        parts = urlsplit(f"//{word}")
        try:
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if (
            not host
            or not port
            or " " in host
            or parts.netloc != word
            or parts.username is not None
        ):
            raise ValueError(
                "expected HOST:PORT, such as localhost:11211, or several with commas between them"
            )
        found.append((host, port))
    return found


def pair_list(value: str) -> list[tuple[str, str]]:
    """Parse a comma-separated list of NAME=VALUE."""
    pairs = []
    for word in word_list(value):
        name, separator, rest = word.partition("=")
        if not separator or not name:
            raise ValueError("expected NAME=VALUE, or several with commas between them")
        pairs.append((name, rest))
    return pairs


def label_list(value: str) -> list[tuple[str, str]]:
    """Parse a comma-separated list of NAME=VALUE for labels."""
    pairs = pair_list(text(value))
    for name, _ in pairs:
        if not name or name == NAME:
            raise ValueError(f"expected the name of a label other than {NAME}")
    return pairs


def sample_label_list(value: str) -> list[tuple[str, str]]:
    """Parse a comma-separated list of NAME=VALUE for labels of samples that are uploaded."""
    pairs = pair_list(value)
    for pair in pairs:
        if fault := label_fault(*pair):
            raise ValueError(f"expected what a server takes in a sample: {fault}")
    return pairs


def label_name(value: str) -> str:
    """Parse the name of a label that may be added or removed."""
    if not value or value == NAME:
        raise ValueError(f"expected the name of a label other than {NAME}")
    if "=" in value or "," in value:
        raise ValueError("expected the name of one label, without a value")
    if fault := label_fault(value, ""):
        raise ValueError(f"no sample has it: {fault}")
    return value


def label_names(value: str) -> list[str]:
    """Parse a comma-separated list of names of labels."""
    return [label_name(word) for word in word_list(value)]


def rename_list(value: str) -> list[tuple[str, str]]:
    """Parse a comma-separated list of OLD=NEW for names of metrics."""
    pairs = pair_list(text(value))
    for _, new in pairs:
        if not new or is_too_long(new):
            raise ValueError(
                f"expected a new name of 1 to {MAX_NAME_LENGTH} bytes, every server would refuse "
                f"one of {len(new.encode())}"
            )
    return pairs


def scope_list(value: str) -> list[str]:
    """Parse scopes of an access token (RFC 6749, section 3.3), with spaces between them."""
    if not re.fullmatch(r"[\x21\x23-\x5b\x5d-\x7e]+( +[\x21\x23-\x5b\x5d-\x7e]+)*", value):
        raise ValueError("expected a scope, or several with spaces between them: printable ASCII")
    return value.split()


def selector(value: str) -> Selector:
    """Parse a PromQL vector selector."""
    try:
        return parse_selector(value.strip())
    except BadInputError as error:
        raise ValueError(str(error)) from None


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
        given = f"--{file_flag} {flags[file_flag]!r}"
        secret = read_text(flags, file_flag).strip()
        if not secret:
            raise UsageError(f"{given}: expected a secret, the file is empty")
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


def warn_of_empty(flags: Flags) -> None:
    """Say which flags that protect something were given with an empty value."""
    for flag in flags.flags:
        if flag.warns and flag.name in flags.empty and not flags[flag.name]:
            log.warn(f"--{flag.name} is empty, and counts as not given", flag=f"--{flag.name}")


def tracing_flags(service_name: str) -> tuple[Flag, ...]:
    """Return the original Telemeter's flags for traces, so that its manifests keep working.

    Traces are not written yet: see `warn_of_tracing`.
    """
    return (
        Flag("internal.tracing.service-name", text, service_name, "Reserved for traces."),
        Flag("internal.tracing.endpoint", text, "", "Reserved for traces; none are written yet."),
        Flag("internal.tracing.sampling-fraction", fraction, 0.1, "Reserved for traces."),
        Flag(
            "internal.tracing.endpoint-type",
            choice("agent", "collector", "otel"),
            "agent",
            "Reserved for traces.",
        ),
    )


def warn_of_tracing(flags: Flags) -> None:
    """Say that somebody who asks for traces gets none."""
    if flags["internal.tracing.endpoint"]:
        log.warn("--internal.tracing.endpoint is ignored: traces are not written yet")


def read_proxies() -> Proxies:
    """Return the proxies that the environment names; raises `UsageError`."""
    try:
        return Proxies.from_environment(os.environ)
    except ValueError as error:
        raise UsageError(str(error)) from None


def policy_flags(target: str) -> tuple[Flag, ...]:
    """Return the flags for TLS towards a server."""
    return (
        Flag(
            f"{target}-ca-file",
            raw,
            "",
            f"File with CA certificates (PEM) to trust for --{_TARGETS[target]}, in addition to "
            "the system's.",
        ),
        Flag(
            f"{target}-tls-crt",
            raw,
            "",
            f"File with a client certificate (PEM) to show to --{_TARGETS[target]}.",
            warns=True,
        ),
        Flag(f"{target}-tls-key", raw, "", "File with its private key (PEM).", warns=True),
    )


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


LOGGING: Final = (
    Flag(
        "log-level",
        choice("debug", "info", "warn", "error"),
        "info",
        "What to log: debug, info, warn or error and above.",
    ),
    Flag("verbose", None, False, "The same as --log-level=debug.", short="v"),
    Flag(
        "rotate-log-bytes",
        integer(0),
        0,
        "Before the file of twistd's --logfile has more bytes, it is renamed to FILE.1, and a new "
        "one begins; 0: never.",
    ),
    Flag(
        "rotate-log-files",
        integer(1, 1000),
        5,
        "With --rotate-log-bytes: how many such old files are kept.",
    ),
)
