"""The parser of command-line flags. Each daemon has a table of them, such as `server_flags.py`.

A daemon that is told something it cannot do says so in one line, naming the flag, the value and
what was expected, and exits with status 1.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from twisted.logger import Logger
from twisted.python.usage import Options, UsageError

from telemeter import __version__
from telemeter.config.listen_address import endpoint_maker
from telemeter.config.pidfile import settle_pid_file

log = Logger()

_BOOLEANS: Final = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}
#: What may hold a password in a URL, also in a malformed one.
_USER_INFO = re.compile(r"(?<=//).*@|^(?!.*//)[^\s\"'={},]+:.*@")
_SHOWN: Final = 64
#: The width of the help in characters, unless the environment says another; and its bounds.
_WIDTH: Final = 80
_NARROWEST: Final = 40
_WIDEST: Final = 120
_INDENT: Final = " " * 8
#: How many similar flags are named where one is not known.
_MOST_SIMILAR: Final = 3


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
    def heading(self) -> str:
        """The flag as it is written, with its short form."""
        short = f"-{self.short}, " if self.short else ""
        return f"{short}--{self.name}" + ("" if self.parse is None else "=")

    @property
    def description(self) -> str:
        """The help with the default and whether it repeats."""
        if self.parse is None:
            return f"{self.help} [default: off]"
        default = self.shown or (str(self.default) if self.default not in ("", []) else "none")
        repeated = "; repeatable" if self.repeated else ""
        return f"{self.help} [default: {default}{repeated}]"


class Group:
    """The flags of one task.

    Attributes:
        title: what the task is, as a heading.
        flags: the flags.
    """

    def __init__(self, title: str, *flags: Flag) -> None:
        self.title = title
        self.flags = flags


class Flags(Options):
    """Options made from a table of flags.

    Attributes:
        program: the name that errors start with.
        longdesc: what the program does, for the help.
        groups: the table, by task.
        flags: all flags of it.
    """

    program: ClassVar[str]
    longdesc: ClassVar[str] = ""
    groups: ClassVar[Sequence[Group]]
    flags: ClassVar[Sequence[Flag]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Turn the flags into what `Options` looks for: methods named `opt_...`."""
        super().__init_subclass__(**kwargs)
        if "groups" in vars(cls):
            cls.flags = tuple(flag for group in cls.groups for flag in group.flags)
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

    # The same function: Twisted would show the help of its own otherwise.
    opt_h = Options.opt_help

    def opt_version(self) -> None:
        """Print the version and exit."""
        print(f"telemeter {__version__}")
        sys.exit(0)

    def getUsage(self, width: int | None = None) -> str:
        """Return the help: all flags by task.

        Args:
            width: of a line, in characters; None: as the environment variable COLUMNS says.
        """
        if width is None:
            columns = os.environ.get("COLUMNS", "")
            width = int(columns) if columns.isdigit() else _WIDTH
            width = min(max(width, _NARROWEST), _WIDEST)
        return "\n".join(self._help(width)) + "\n"

    def _help(self, width: int) -> Iterator[str]:
        """Yield the lines of the help."""
        yield ""
        yield from textwrap.wrap(self.longdesc, width, break_on_hyphens=False)
        for group in self.groups:
            yield ""
            yield f"{group.title}:"
            for flag in group.flags:
                yield f"  {flag.heading}"
                yield from _paragraph(flag.description, width)
        yield ""
        yield "Help:"
        yield "  -h, --help"
        yield from _paragraph("Show this, and exit.", width)
        yield "  --version"
        yield from _paragraph("Show the version, and exit.", width)

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


def _paragraph(text: str, width: int) -> list[str]:
    """Return the lines of an indented paragraph."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=_INDENT,
        subsequent_indent=_INDENT,
        break_on_hyphens=False,
    )


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
