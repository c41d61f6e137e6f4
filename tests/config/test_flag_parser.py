"""What flags mean, and how they are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from twisted.python.usage import UsageError

from telemeter import __version__
from telemeter.config import agent_options, authorizer, demo_source, server_options
from telemeter.config.flag_parser import Flag, Flags, Group
from telemeter.config.groups import LOGGING, tracing_flags, warn_of_empty, warn_of_tracing
from telemeter.config.reading import (
    read_file,
    read_policy,
    read_salt,
    read_secret,
    read_selectors,
    read_text,
)
from telemeter.config.values import (
    choice,
    duration,
    fraction,
    integer,
    label_list,
    label_name,
    memcached_list,
    pair_list,
    raw,
    rename_list,
    sample_label_list,
    scope_list,
    selector,
    text,
    word_list,
)
from telemeter.convert.collect import anonymous
from telemeter.net.tls import ClientPolicy
from telemeter.net.url import check_http_url
from telemeter.samples.selector import Selector
from tests.fakes import Log

# --- Durations, as Go's time.ParseDuration has them -----------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("0s", 0),
        ("4m30s", 270),
        ("15s", 15),
        ("1h", 3600),
        ("1h2m3s", 3723),
        ("1.5h", 5400),
        (".5s", 0.5),
        ("1.s", 1),
        ("100ms", 0.1),
        ("1us", 1e-6),
        ("1\u00b5s", 1e-6),
        ("1\u03bcs", 1e-6),
        ("1ns", 1e-9),
        ("1m1m", 120),
        ("3s2h", 7203),
        ("00010s", 10),
        ("1h0m0.5s", 3600.5),
    ],
)
def test_a_duration(value: str, seconds: float) -> None:
    assert duration(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "5",
        "s",
        ".s",
        ".",
        "1d",
        "1 s",
        " 1s",
        "1s ",
        "1S",
        "1e3s",
        "soon",
        "4m30",
        "1s-",
        "1,5s",
        "2562048h",
        "9" * 400 + "h",
    ],
)
def test_no_duration(value: str) -> None:
    with pytest.raises(ValueError, match="expected a duration such as 4m30s"):
        duration(value)


# --- Numbers and words ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "number"), [("1", 1), ("+7", 7), ("007", 7), ("100", 100), ("-3", -3)]
)
def test_a_number(value: str, number: int) -> None:
    assert integer(-5, 100)(value) == number


@pytest.mark.parametrize(
    "value", ["", "x", "1.0", "1e3", "1_000", " 1", "1 ", "0x10", "-6", "101", "9" * 30, "\u0663"]
)
def test_no_number(value: str) -> None:
    with pytest.raises(ValueError, match="expected a whole number from -5 to 100"):
        integer(-5, 100)(value)


@pytest.mark.parametrize(("value", "number"), [("0", 0.0), ("1", 1.0), ("0.25", 0.25), (".5", 0.5)])
def test_a_fraction(value: str, number: float) -> None:
    assert fraction(value) == number


@pytest.mark.parametrize("value", ["", "x", "-0.1", "1.1", "nan", "inf", "50%"])
def test_no_fraction(value: str) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        fraction(value)


def test_a_choice() -> None:
    parse = choice("debug", "info")
    assert (parse("debug"), parse("INFO")) == ("debug", "info")
    for value in ("", "warn", "debug "):
        with pytest.raises(ValueError, match="expected one of debug, info"):
            parse(value)


# --- Lists ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", []),
        ("a", ["a"]),
        ("a,b", ["a", "b"]),
        ("a, b ,c", ["a", "b", "c"]),
        ('"a,b",c', ["a,b", "c"]),
        ('"say ""hi""",x', ['say "hi"', "x"]),
        ("a,", ["a", ""]),
    ],
)
def test_a_list_of_words(value: str, words: list[str]) -> None:
    assert word_list(value) == words


@pytest.mark.parametrize(
    ("value", "pairs"),
    [
        ("", []),
        ("a=b", [("a", "b")]),
        ("a=", [("a", "")]),
        ("a=b=c", [("a", "b=c")]),
        ("a=b,c=d", [("a", "b"), ("c", "d")]),
        ('"a=b,c",d=e', [("a", "b,c"), ("d", "e")]),
        ("ALERTS=alerts", [("ALERTS", "alerts")]),
    ],
)
def test_a_list_of_pairs(value: str, pairs: list[tuple[str, str]]) -> None:
    assert pair_list(value) == pairs


def test_a_list_with_a_quote_too_few_is_none() -> None:
    with pytest.raises(ValueError, match="expected a comma-separated list"):
        word_list('"a=b,c=d')


@pytest.mark.parametrize("value", ["a", "=b", "a=b,c", "a=b,", ",a=b", "a=b,=c"])
def test_no_list_of_pairs(value: str) -> None:
    with pytest.raises(ValueError, match="expected NAME=VALUE"):
        pair_list(value)


@pytest.mark.parametrize("value", ["a=b\nc=d", 'a="b\n', "a=" + "x" * 200_000])
def test_lists_with_line_breaks_or_very_long_words(value: str) -> None:
    try:
        words = word_list(value)
    except ValueError as error:
        assert "expected" in str(error)
    else:
        assert words


@pytest.mark.parametrize("value", ["__name__=x", "a=b,__name__=c", "=b", "a"])
def test_no_list_of_labels(value: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        label_list(value)
    assert label_list("a=b,_id=c") == [("a", "b"), ("_id", "c")]


@pytest.mark.parametrize(
    "value", ["__name__=x", "=b", "a", "a=" + "x" * 256, "a=b,c=" + "é" * 128, "x" * 256 + "=b"]
)
def test_no_list_of_labels_for_samples(value: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        sample_label_list(value)


def test_a_list_of_labels_for_samples() -> None:
    long = "x" * 255
    assert sample_label_list(f"a=b,_id=,{long}={long}") == [("a", "b"), ("_id", ""), (long, long)]
    with pytest.raises(ValueError, match="must be UTF-8"):
        sample_label_list("a=\udcff")


@pytest.mark.parametrize("value", ["a=", "a=b,c=", "a=" + "x" * 256, "a=" + "é" * 128, "a=\udcff"])
def test_no_list_of_renames(value: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        rename_list(value)
    assert rename_list("x=y,ALERTS=alerts") == [("x", "y"), ("ALERTS", "alerts")]


@pytest.mark.parametrize(
    ("value", "scopes"), [("a", ["a"]), ("a b", ["a", "b"]), ("https://x/.default", None)]
)
def test_scopes(value: str, scopes: list[str] | None) -> None:
    assert scope_list(value) == (scopes or [value])


@pytest.mark.parametrize("value", [" ", " a", "a ", 'a"', "a\\b", "é", "a\nb", "a\tb"])
def test_no_scopes(value: str) -> None:
    with pytest.raises(ValueError, match="expected a scope"):
        scope_list(value)


@pytest.mark.parametrize("value", ["", "__name__", "a=b", "a,b", "x" * 256])
def test_no_label(value: str) -> None:
    with pytest.raises(ValueError, match=r"expected the name of|no sample has it"):
        label_name(value)
    assert label_name("_id") == "_id"


@pytest.mark.parametrize(
    ("value", "servers"),
    [
        ("", []),
        ("a:1,b:2", [("a", 1), ("b", 2)]),
        ("[::1]:1", [("::1", 1)]),
        ("10.0.0.1:11211", [("10.0.0.1", 11211)]),
    ],
)
def test_a_list_of_memcached_servers(value: str, servers: list[tuple[str, int]]) -> None:
    assert memcached_list(value) == servers


@pytest.mark.parametrize(
    "value",
    [
        "a",
        "a:",
        "[::1]",
        "a:1,b",
        "a:x",
        "a:70000",
        ":1",
        "a:1/b",
        "u@a:1",
        "a,,b",
        "http://a:1",
        "a b",
    ],
)
def test_no_list_of_memcached_servers(value: str) -> None:
    with pytest.raises(ValueError, match="expected HOST:PORT"):
        memcached_list(value)


def test_a_selector() -> None:
    assert isinstance(selector(' {__name__="up"} '), Selector)
    with pytest.raises(ValueError, match="expected"):
        selector("{up")


# --- A table of flags -----------------------------------------------------------------------------


class Options(Flags):
    """Some flags of every kind."""

    program = "toy"
    groups: ClassVar = (
        Group(
            "The flags of a toy",
            Flag("time", duration, 5.0, "A time.", shown="5s"),
            Flag("size", integer(1), 7, "A size."),
            Flag("name", text, "", "A name."),
            Flag("word", text, ["x"], "A word.", repeated=True, shown="x"),
            Flag("label", label_list, [], "Labels.", repeated=True),
            Flag("secret", choice("right"), "", "A secret.", secret=True),
            Flag("secret-file", text, "", "Its file."),
            Flag("bytes", raw, "", "A secret that is bytes.", secret=True),
            Flag("bytes-file", raw, "", "Its file."),
            Flag("cert", text, "", "A certificate."),
            Flag("key", text, "", "Its key."),
            Flag("url", check_http_url, "", "A URL."),
            Flag("dotted.name-of", text, "d", "As the original has some."),
            Flag("switch", None, False, "A switch.", short="s"),
            Flag(
                "nowhere",
                text,
                "here",
                "A flag to which nothing means something.",
                may_be_empty=True,
            ),
            Flag("gate", text, [], "A guard.", repeated=True, guards="open the gate"),
            Flag("shield", text, "", "A weak guard.", warns=True),
        ),
        LOGGING,
    )

    def check(self) -> None:
        self.require_both("cert", "key")


def parsed(*flags: str) -> Options:
    options = Options()
    options.parseOptions(list(flags))
    return options


def message_of(*flags: str) -> str:
    with pytest.raises(SystemExit) as caught:
        parsed(*flags)
    message = str(caught.value)
    assert message.startswith("toy: ")
    assert "\n" not in message
    return message


def test_the_defaults() -> None:
    options = parsed()
    assert {flag.name: options[flag.name] for flag in Options.flags} == {
        "time": 5.0,
        "size": 7,
        "name": "",
        "word": ["x"],
        "label": [],
        "secret": "",
        "secret-file": "",
        "bytes": "",
        "bytes-file": "",
        "cert": "",
        "key": "",
        "url": "",
        "dotted.name-of": "d",
        "switch": False,
        "nowhere": "here",
        "gate": [],
        "shield": "",
        "log-level": "info",
        "verbose": False,
        "rotate-log-bytes": 0,
        "rotate-log-files": 5,
    }


@pytest.mark.parametrize(
    ("flags", "name", "value"),
    [
        (["--time", "1m"], "time", 60.0),
        (["--time=1m"], "time", 60.0),
        (["--size", "1", "--size", "2"], "size", 2),
        (["--name", "--size"], "name", "--size"),
        (["--name="], "name", ""),
        (["--word", "a"], "word", ["a"]),
        (["--word", "a", "--word", "b"], "word", ["a", "b"]),
        (["--word", ""], "word", ["x"]),
        (["--word", "a", "--word="], "word", ["a"]),
        (["--time="], "time", 5.0),
        (["--size", ""], "size", 7),
        (["--url="], "url", ""),
        (["--log-level="], "log-level", "info"),
        (["--nowhere="], "nowhere", ""),
        (["--nowhere", ""], "nowhere", ""),
        (["--switch="], "switch", False),
        (["--switch", "--switch="], "switch", True),
        (["-sv"], "verbose", True),
        (["-s=false"], "switch", False),
        (["-v", "--verbose=false"], "verbose", False),
        (["--label", "a=b,c=d", "--label", "e=f"], "label", [("a", "b"), ("c", "d"), ("e", "f")]),
        (["--label", ""], "label", []),
        (["--switch"], "switch", True),
        (["-s"], "switch", True),
        (["-v"], "verbose", True),
        (["--verbose"], "verbose", True),
        (["--verbose=true"], "verbose", True),
        (["--verbose=1", "--name", "x"], "verbose", True),
        (["--verbose=False"], "verbose", False),
        (["--verbose", "--switch", "--verbose=f"], "verbose", False),
        (["--verbose=0", "--verbose"], "verbose", True),
        (["--name", "verbose=true"], "name", "verbose=true"),
        (["--log-level", "WARN"], "log-level", "warn"),
        (["--dotted.name-of", "x"], "dotted.name-of", "x"),
        (["--dotted.name-of=x"], "dotted.name-of", "x"),
    ],
)
def test_flags_are_read(flags: list[str], name: str, value: object) -> None:
    assert parsed(*flags)[name] == value


def test_defaults_are_not_shared() -> None:
    parsed("--word", "a")
    parsed()["word"].append("b")
    assert parsed()["word"] == ["x"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--time", "soon"], ["--time", "'soon'", "expected a duration"]),
        (["--size", "0"], ["--size", "'0'", "expected a whole number from 1"]),
        (["--label", "a=b", "--label", "c"], ["--label", "'c'", "expected NAME=VALUE"]),
        (["--log-level", "loud"], ["--log-level", "'loud'", "debug, info, warn, error"]),
        (["--name", "x", "--time", "a\nb"], ["--time", "'a\\nb'"]),
        (["--unknown"], ["--unknown is not a flag", "--help lists all"]),
        (["--unknown=value"], ["--unknown is not a flag"]),
        (["--lable", "a=b"], ["--lable is not a flag", "did you mean --label?"]),
        (["--na", "x"], ["--na is not a flag", "did you mean --name"]),
        (["--log", "info"], ["--log is not a flag", "did you mean --log-level?"]),
        (["--log_level", "info"], ["--log_level is not a flag", "did you mean --log-level?"]),
        (["-label", "a=b"], ["-label is not a flag", "did you mean --label?"]),
        (["-x"], ["-x is not a flag"]),
        (["--verb"], ["--verb is not a flag", "did you mean --verbose?"]),
        (["--hel"], ["--hel is not a flag", "did you mean --help"]),
        (["--help=x"], ["--help is not a flag"]),
        (["--secrethunter2"], ["--secret... is not a flag"]),
        (["--name"], ["--name: expected a value"]),
        (["--name", "\udcff"], ["--name", "expected UTF-8"]),
        (["--gate="], ["--gate ''", "the value is empty, which would open the gate"]),
        (["--gate", "x", "--gate", ""], ["--gate ''", "open the gate"]),
        (["--switch=x"], ["--switch 'x'", "expected true or false"]),
        (["surplus", "words"], ["'surplus words'", "expected flags only"]),
        (["--cert", "c"], ["--cert 'c' needs --key too"]),
        (["--key", "k"], ["--key 'k' needs --cert too"]),
    ],
)
def test_a_refusal_is_one_line_that_names_the_flag(flags: list[str], words: list[str]) -> None:
    message = message_of(*flags)
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("flags", "warns"),
    [
        ([], False),
        (["--shield=", "--name="], True),
        (["--shield", ""], True),
        (["--shield", "x"], False),
        (["--shield=", "--shield=x"], False),
    ],
)
def test_a_guard_that_is_off_because_its_value_is_empty(
    flags: list[str], warns: bool, log: Log
) -> None:
    warn_of_empty(parsed(*flags))
    assert len(log.lines) == warns
    for line in log.lines:
        assert "level=warn" in line
        assert "--shield is empty, and counts as not given" in line


def test_no_secret_is_in_a_message_about_an_unknown_flag() -> None:
    for flags in (["--secrethunter2"], ["--secre=hunter2"], ["-secret", "hunter2"]):
        assert "hunter2" not in message_of(*flags)


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_the_help_is_asked_for(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parsed(flag)
    assert not caught.value.code
    assert "-h, --help" in capsys.readouterr().out


def test_a_secret_is_never_repeated() -> None:
    message = message_of("--secret", "hunter2")
    assert "hunter2" not in message
    assert "--secret (a secret): expected one of right" in message


@pytest.mark.parametrize(
    "url", ["http://user:hunter2@x:port/", "ftp://hunter2@x", "http://a@b:hunter2@x/a b"]
)
def test_a_password_in_a_url_is_never_repeated(url: str) -> None:
    message = message_of("--url", url)
    assert "hunter2" not in message
    assert "--url '" in message
    assert "//...@x" in message


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parsed("--version")
    assert not caught.value.code
    assert capsys.readouterr().out == f"telemeter {__version__}\n"


def test_the_help_has_every_flag_and_its_default() -> None:
    shown = " ".join(Options().getUsage(width=200).split())
    for flag in Options.flags:
        assert f"--{flag.name}" in shown
        assert flag.help in shown
    for default in ("5s", "7", "none", "x; repeatable", "none; repeatable", "info", "off"):
        assert f"[default: {default}]" in shown


def test_the_help_stands_under_headings() -> None:
    lines = Options().getUsage(width=40).splitlines()
    assert max(map(len, lines)) <= 40
    headings = [line for line in lines if line and not line.startswith(" ") and line[-1] == ":"]
    assert headings == ["The flags of a toy:", "Log:", "Help:"]
    at = lines.index("  -s, --switch")
    assert lines[at + 1] == "        A switch. [default: off]"
    assert lines[lines.index("  --time=") + 1] == "        A time. [default: 5s]"


@pytest.mark.parametrize(
    ("columns", "width"), [("60", 60), ("", 80), ("x", 80), ("5", 40), ("9999", 120)]
)
def test_the_help_is_as_wide_as_the_terminal(
    columns: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert Options().getUsage() == Options().getUsage(width=width)


@pytest.mark.parametrize(
    "options",
    [server_options.Options, agent_options.Options, authorizer.Options, demo_source.Options],
)
def test_every_flag_is_under_one_heading(options: type[Flags]) -> None:
    names = [flag.name for group in options.groups for flag in group.flags]
    assert sorted(names) == sorted({flag.name for flag in options.flags})
    titles = [group.title for group in options.groups]
    assert len(set(titles)) == len(titles)
    assert all(title[0].isupper() and ":" not in title for title in titles)


# --- Files ----------------------------------------------------------------------------------------


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\x00\xff")
    assert read_file("name", str(path)) == b"\x00\xff"


@pytest.mark.parametrize("name", ["missing", ".", "", "nul\x00"])
def test_no_file(tmp_path: Path, name: str) -> None:
    path = f"{tmp_path}/{name}"
    with pytest.raises(UsageError, match="expected a readable file") as caught:
        read_file("flag", path)
    assert f"--flag {path!r}" in str(caught.value)


def with_file(tmp_path: Path, flag: str, content: bytes) -> Options:
    path = tmp_path / "content"
    path.write_bytes(content)
    return parsed(f"--{flag}", str(path))


def test_a_text_file(tmp_path: Path) -> None:
    assert read_text(with_file(tmp_path, "name", "\u00fc\n".encode()), "name") == "\u00fc\n"
    with pytest.raises(UsageError, match="expected UTF-8 text"):
        read_text(with_file(tmp_path, "name", b"\xff"), "name")


@pytest.mark.parametrize("content", [b"secret", b"secret\n", b"  secret \r\n\n"])
def test_a_secret_in_a_file(tmp_path: Path, content: bytes) -> None:
    assert read_secret(with_file(tmp_path, "secret-file", content), "secret") == "secret"


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\n", b"hunter2\nhunter2", b"hunter2\r\n\r\nhunter2", b"a\x00b", b"\xff"),
        *("hunter2".encode("utf-16"), "hunter2".encode("utf-8-sig")),
    ],
)
def test_no_secret_in_a_file(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UsageError, match="expected") as caught:
        read_secret(with_file(tmp_path, "secret-file", content), "secret")
    assert "--secret-file" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_how_many_lines_a_secret_has_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected one line .* saw 3 lines"):
        read_secret(with_file(tmp_path, "secret-file", b"a\nb\nc\n"), "secret")


@pytest.mark.parametrize(
    ("content", "salt"),
    [
        (b"a-unique-value", b"a-unique-value"),
        (b" \ta-unique value\r\n\v\f", b"a-unique value"),
        (b"one\ntwo\n", b"one\ntwo"),
        (b"\x00\xff\xfe\n", b"\x00\xff\xfe"),
        ("salt".encode("utf-16"), "salt".encode("utf-16")),
        (b"\xef\xbb\xbfsalt\n", b"\xef\xbb\xbfsalt"),
        ("\u00a0\u0085\u2003salt\u3000".encode(), b"salt"),
        # Unlike Python's strip: these are not white space to the original.
        (b"\x1csalt\x1f", b"\x1csalt\x1f"),
        ("\u200bsalt\u200b".encode(), "\u200bsalt\u200b".encode()),
        # Bytes that are white space in other encodings only.
        (b"\xa0salt\x85", b"\xa0salt\x85"),
    ],
)
def test_a_salt_is_bytes(tmp_path: Path, content: bytes, salt: bytes) -> None:
    assert read_salt(with_file(tmp_path, "secret-file", content), "secret") == salt


@pytest.mark.parametrize(
    ("content", "hashed"),
    [
        (b"a-unique-value", "c4XWQGV_rFgb"),
        (b" \ta-unique value\r\n\v\f", "64BB2ZVMGggW"),
        (b"one\ntwo\n", "rBnyPxgHWK5U"),
        (b"\x00\xff\xfe\n", "RdoB1GtKo-gh"),
        (b"\xff\xfes\x00a\x00l\x00t\x00", "_I80_LXb2rZp"),
        (b"\xef\xbb\xbfsalt\n", "s91ixfmPLbh9"),
        ("\u00a0\u0085\u2003salt\u3000".encode(), "A7DYOhnOfuoS"),
        (b"\x1csalt\x1f", "636vB5oMd8VW"),
        ("\u200bsalt\u200b\u2028".encode(), "H_LWODP_sVYK"),
        (b"\xa0salt\x85", "y-Z9lb88uf8-"),
        (b"\xe3\xc2\xa0salt\xe1\x9a\x80\x80", "2V5MP_ooQszk"),
        (b"\xed\xa0\x80 salt \xed\xa0\x80 ", "JNSlh-9XITqw"),
    ],
)
def test_the_hashes_are_those_of_the_original(tmp_path: Path, content: bytes, hashed: str) -> None:
    """It was given these files, and 127.0.0.1:9391 to anonymize."""
    salt = read_salt(with_file(tmp_path, "secret-file", content), "secret")
    assert anonymous("127.0.0.1:9391", salt) == hashed


@pytest.mark.parametrize("content", [b"", b" \n\t"])
def test_no_salt(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UsageError, match=r"--secret-file .* the file is empty"):
        read_salt(with_file(tmp_path, "secret-file", content), "secret")


def test_a_salt_as_a_flag_is_taken_as_it_is(tmp_path: Path) -> None:
    options = parsed("--bytes", " \udcff\n", "--bytes-file", str(tmp_path / "missing"))
    assert read_salt(options, "bytes") == b" \xff\n"
    assert read_salt(parsed(), "bytes") == b""


def test_a_secret_as_a_flag_goes_before_a_file(tmp_path: Path) -> None:
    options = parsed("--secret", "right", "--secret-file", str(tmp_path / "missing"))
    assert read_secret(options, "secret") == "right"
    assert read_secret(parsed(), "secret") == ""


def test_selectors_in_a_file(tmp_path: Path) -> None:
    options = with_file(tmp_path, "name", b'# comment\n\nup\n  {__name__="down"}  \n')
    assert len(read_selectors(options, "name")) == 2
    with pytest.raises(UsageError, match=r"--name .*line 3"):
        read_selectors(with_file(tmp_path, "name", b"up\n\n{down\n"), "name")


@pytest.mark.parametrize("content", [b"", b"\n \n", b"# up\n#\n"])
def test_no_selectors_in_a_file(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UsageError, match=r"--name '.*': expected a selector a line, saw none"):
        read_selectors(with_file(tmp_path, "name", content), "name")


@pytest.mark.parametrize(
    ("flags", "content"),
    [
        (["name", "cert", "key"], {"name": b"garbage"}),
        (["name", "cert", "key"], {"cert": b"garbage", "key": b"garbage"}),
    ],
)
def test_a_policy_names_its_flags(
    tmp_path: Path, flags: list[str], content: dict[str, bytes]
) -> None:
    given = []
    for flag, data in content.items():
        (tmp_path / flag).write_bytes(data)
        given += [f"--{flag}", str(tmp_path / flag)]
    with pytest.raises(UsageError, match="expected") as caught:
        read_policy(parsed(*given), *flags)
    for flag in content:
        assert f"--{flag} {str(tmp_path / flag)!r}" in str(caught.value)


def test_no_files_make_a_policy_too() -> None:
    assert isinstance(read_policy(parsed(), "name", "cert", "key"), ClientPolicy)


# --- Traces ---------------------------------------------------------------------------------------


class Traced(Flags):
    """The flags for traces."""

    program = "traced"
    groups: ClassVar = (tracing_flags("the-service"),)


def traced(*flags: str) -> Traced:
    options = Traced()
    options.parseOptions(list(flags))
    return options


def test_the_flags_for_traces(log: Log) -> None:
    options = traced()
    values: dict[str, Any] = {
        "service-name": "the-service",
        "endpoint": "",
        "sampling-fraction": 0.1,
        "endpoint-type": "agent",
    }
    assert {name: options[f"internal.tracing.{name}"] for name in values} == values
    warn_of_tracing(options)
    assert not log.lines


def test_who_asks_for_traces_is_told_that_there_are_none(log: Log) -> None:
    warn_of_tracing(traced("--internal.tracing.endpoint", "collector:14250"))
    (line,) = log.lines
    assert "level=warn" in line
    assert "--internal.tracing.endpoint" in line


@pytest.mark.parametrize(
    ("flag", "value"), [("sampling-fraction", "2"), ("endpoint-type", "carrier-pigeon")]
)
def test_bad_flags_for_traces(flag: str, value: str) -> None:
    with pytest.raises(SystemExit, match=f"--internal.tracing.{flag} '{value}'"):
        traced(f"--internal.tracing.{flag}", value)
