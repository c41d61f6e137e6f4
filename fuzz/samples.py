"""Targets of what is made of samples: texts, messages, compression, selectors, names."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

from fuzz.target import Target, head_and_rest
from telemeter.net.coding import CodingError, Gunzip, decoder_for
from telemeter.samples.compression import (
    block_size,
    compress_block,
    compress_framed,
    decompress_block,
    decompress_framed,
    join_blocks,
)
from telemeter.samples.errors import BadInputError
from telemeter.samples.escaping import (
    Escaping,
    escape_families,
    escape_label,
    escape_name,
    is_plain_label,
    is_plain_name,
)
from telemeter.samples.exposition import parse_text, render_text
from telemeter.samples.family import Family, Metric, decode_families, encode_families
from telemeter.samples.format import decoder_for as format_of
from telemeter.samples.format import split_content_type
from telemeter.samples.proto.metrics_pb2 import GAUGE, HISTOGRAM, SUMMARY
from telemeter.samples.selector import NAME, Matcher, Selector, parse_rules, parse_selector
from telemeter.samples.whitelist import Whitelist
from telemeter.samples.wire import join_delimited, split_delimited
from telemeter.web.federate import accepts_gzip, negotiate
from tests.samples.build import family, histogram, sample
from tests.samples.recordings import federated, federated_text, upload_body

_LIMIT: Final = 1 << 16
_LABEL_SETS: Final[Sequence[dict[str, str]]] = (
    {},
    {NAME: "up"},
    {NAME: "up", "job": "x", "a": ""},
    {NAME: "go_x", "a": "\n", "job": "é"},
)


# --- Formats --------------------------------------------------------------------------------------


def run_text(data: bytes) -> None:
    """What is parsed is small, and the same when it is written and parsed again."""
    try:
        families = parse_text(data)
    except BadInputError as error:
        assert len(str(error)) < 1000
        return
    encoded = encode_families(families)
    assert len(encoded) <= 16 * len(data)
    assert encode_families(parse_text(render_text(families).encode())) == encoded


def run_families(data: bytes) -> None:
    """What is decoded is no larger than a little, and the same when it is encoded and decoded."""
    try:
        families = decode_families(data)
    except BadInputError:
        return
    encoded = encode_families(families)
    assert len(encoded) <= 3 * len(data)
    assert encode_families(decode_families(encoded)) == encoded


def run_media_type(data: bytes) -> None:
    """What is chosen by the header of a stranger has nothing of him in it but what is known."""
    header = data.decode("latin-1")
    format_of(header)
    media_type, _ = split_content_type(header)
    assert len(media_type) <= 2 * len(header)
    accepts_gzip(header)
    content_type, _ = negotiate(header)
    assert content_type.isascii() and content_type.isprintable() and len(content_type) < 200


_TEXT: Final = (
    b"# HELP up a\\nb\n# TYPE up gauge\n"
    b'up{a="b",c="\\"\\\\\\n",} -1.5e3 1795343615632\nup NaN\n# TYPE h histogram\nh_sum +Inf 1\n'
)


def _families() -> bytes:
    summary = sample(None, field="summary", b="é")
    summary.summary.quantile.add(quantile=0.5, value=1.0)
    return encode_families(
        [
            family("up", sample(1.0, a="b"), sample(2.0, instance="c", _elide="d")),
            family("g", sample(-0.0, field="gauge"), kind=GAUGE),
            family("h", histogram({0.5: 1}, a="b"), kind=HISTOGRAM),
            family("s", summary, kind=SUMMARY),
        ]
    )


def _family_seeds() -> list[bytes]:
    return [b"", _families(), join_delimited(islice(split_delimited(federated()), 12))]


# --- Compression ----------------------------------------------------------------------------------


def run_framed(data: bytes) -> None:
    """What is decompressed is below the limit, and the same when it is compressed again."""
    try:
        plain = decompress_framed(data, _LIMIT)
    except BadInputError:
        return
    assert len(plain) < _LIMIT
    assert decompress_framed(compress_framed(plain), _LIMIT) == plain


def run_block(data: bytes) -> None:
    """A block becomes what it says, and joined to another both."""
    try:
        plain = decompress_block(data, _LIMIT)
    except BadInputError:
        return
    assert len(plain) == block_size(data) <= _LIMIT
    joined = join_blocks([data, compress_block(b"more"), data])
    assert decompress_block(joined, 3 * _LIMIT) == plain + b"more" + plain


def run_gzip(data: bytes) -> None:
    """However it is cut, gzip becomes the same, within its limit, and what others make of it."""
    size, body = head_and_rest(data)
    whole = _gunzipped(body, len(body) + 1)
    pieces = _gunzipped(body, size % 64 + 1)
    if whole is None or pieces is None:
        # Only what comes before the damage may differ.
        assert whole is pieces
        return
    assert whole == pieces
    assert len(whole) <= _LIMIT
    if len(whole) < _LIMIT:
        assert gzip.decompress(body) == whole


def _gunzipped(body: bytes, size: int) -> bytes | None:
    """Decode pieces of that size; None: it is damaged or cut off."""
    decoder = Gunzip()
    parts: list[bytes] = []
    left = _LIMIT
    try:
        for at in range(0, len(body), size):
            for part in decoder.feed(body[at : at + size], left):
                assert 0 < len(part) <= left
                parts.append(part)
                left -= len(part)
            if not left:
                return b"".join(parts)
        decoder.end()
    except CodingError as error:
        assert len(str(error)) < 200
        return None
    return b"".join(parts)


def run_encoding(data: bytes) -> None:
    """A Content-Encoding is known, or refused in a short message in ASCII."""
    try:
        decoder_for(data.split(b"\0"))
    except CodingError as error:
        text = str(error)
        assert text.isascii() and text.isprintable() and len(text) < 400


def _framed_seeds() -> list[bytes]:
    plain = b"a" * 100 + b"abcabc" * 20
    return [
        b"",
        compress_framed(b""),
        compress_framed(plain),
        compress_framed(plain) + compress_framed(b"x")[10:],
        compress_framed(bytes(range(256))),
        upload_body()[:4000],
        b"\xff\x06\x00\x00sNaPpY\xfe\x03\x00\x00abc\x80\x01\x00\x00z",
    ]


# --- Selectors ------------------------------------------------------------------------------------


def run_selector(data: bytes) -> None:
    """A selector that is understood means the same when it is written anew."""
    try:
        text = data.decode()
        selector = parse_selector(text)
    except (UnicodeDecodeError, BadInputError):
        return
    answers = [selector.matches(labels) for labels in _LABEL_SETS]
    exact = selector.exact_name
    for labels, answer in zip(_LABEL_SETS, answers, strict=True):
        assert not answer or exact is None or labels.get(NAME, "") == exact
        # There is no series without a name, whatever a selector says of one.
        assert not answer or not labels or selector.is_satisfiable
    assert selector.selects_something_named or answers[0]
    try:
        again = parse_selector(_written(selector))
    except BadInputError:
        assert len(_written(selector)) > 4000
        return
    assert list(map(_fields, again.matchers)) == list(map(_fields, selector.matchers))


def _fields(matcher: Matcher) -> tuple[str, str, bool, bool]:
    return matcher.name, matcher.value, matcher.is_regex, matcher.is_negative


def _written(selector: Selector) -> str:
    parts = []
    for matcher in selector.matchers:
        operator = ("!" if matcher.is_negative else "=") + ("~" if matcher.is_regex else "=")
        operator = operator.replace("==", "=")
        parts.append(f"{_quoted(matcher.name)}{operator}{_quoted(matcher.value)}")
    return "{" + ",".join(parts) + "}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def run_whitelist(data: bytes) -> None:
    """The index lets pass what the rules one by one do, and shows rules that may."""
    rules, _, rest = data.partition(b"\0")
    try:
        selectors = parse_rules(rules.decode())
    except (UnicodeDecodeError, BadInputError):
        return
    texts = rest.decode("utf-8", "replace").split("\0")
    labels = dict(zip(texts[::2], texts[1::2], strict=False))
    whitelist = Whitelist(selectors)
    for each in (labels, *_LABEL_SETS):
        expected = any(
            all(matcher.evaluated(each) for matcher in _plain(selector)) for selector in selectors
        )
        assert whitelist.allows(each) == (expected or not selectors)
        about = list(whitelist.about(each.get(NAME, "")))
        assert all(one in about for one in selectors if one.matches(each))


class _Condition:
    """A condition without what a matcher remembers."""

    def __init__(self, matcher: Matcher) -> None:
        self._matcher = matcher

    def evaluated(self, labels: dict[str, str]) -> bool:
        """Return whether a series meets it."""
        value = labels.get(self._matcher.name, "")
        if self._matcher.is_regex:
            return self._matcher.evaluate(value)
        return (value == self._matcher.value) != self._matcher.is_negative


def _plain(selector: Selector) -> Iterator[_Condition]:
    return map(_Condition, selector.matchers)


_SELECTORS: Final = (
    b"up",
    b'up{job="x"}',
    b"{__name__=~\"go_.*|a(b|c)+\",a!='x\\n'}",
    b'{a!="b", "quoted name"!~`raw\\d`} # comment',
    b'{__name__="up",job=~"[a-z]{1,3}\\\\p{L}",x="\\u00e9\\x41"}',
    b"up{}",
    b'"up"{a="b",}',
)
_SELECTOR_WORDS: Final = (
    *(
        b'__name__="',
        b"=~",
        b"!~",
        b"!=",
        b'"',
        b"'",
        b"`",
        b"{",
        b"}",
        b"offset 1m",
        b"@ 0",
        b"or",
    ),
    *(b"\\u", b"\\x", b"\\U0010ffff", b"#", b"rate(up[1m])", b'"}', b",", b"(?i)", b"{1,1000}"),
)


# --- Names ----------------------------------------------------------------------------------------


def run_escaping(data: bytes) -> None:
    """Escaped names are those of the text format, and nothing is there twice."""
    texts = [text for text in data.decode("utf-8", "replace").split("\0") if text]
    for text in texts:
        for escaping in Escaping:
            name, label = escape_name(text, escaping), escape_label(text, escaping)
            if escaping is Escaping.NONE:
                assert name == label == text
                continue
            assert is_plain_name(name) and is_plain_label(label)
            assert len(name) <= 10 * len(text) + 3
            assert escape_name(name, escaping) == name
    names = dict.fromkeys(texts[::3])
    labels = dict(zip(texts[1::3], texts[2::3], strict=False))
    shown = [family(name, sample(a="b"), _with(labels)) for name in names]
    for escaping in Escaping:
        escaped = escape_families(shown, escaping)
        known = [each.name for each in escaped]
        assert len(set(known)) == len(known)
        if escaping is not Escaping.NONE:
            _check_shown(escaped)


def _with(labels: dict[str, str]) -> Metric:
    metric = sample(2.0, c="d")
    for name, value in labels.items():
        if name != "c":
            metric.label.add(name=name, value=value)
    return metric


def _check_shown(families: list[Family]) -> None:
    """Check that a reader of the text format takes it all, and no series is there twice."""
    seen = set()
    for made in families:
        for metric in made.metric:
            pairs = [(pair.name, pair.value) for pair in metric.label]
            assert len({name for name, _ in pairs}) == len(pairs)
            key = made.name, *sorted(pairs)
            assert key not in seen
            seen.add(key)
    parsed = parse_text(render_text(families).encode())
    assert sum(len(made.metric) for made in parsed) == len(seen)


TARGETS: Final = (
    Target(
        "text",
        run_text,
        lambda: [b"", _TEXT, federated_text()[:3000], b"a 1\n", b'a{b="c"} 0x1p3 -1\n# x\n'],
        (b"# TYPE ", b"# HELP ", b"histogram", b"\\n", b'"', b"{", b"}", b"NaN", b"+Inf", b"1e999"),
    ),
    Target("families", run_families, _family_seeds, (b"\x0a", b"\x18\x04", b"\x22", b"\x38")),
    Target(
        "media-type",
        run_media_type,
        lambda: [
            b"text/plain; version=0.0.4",
            b"application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,*/*;q=0.1",
            b"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;"
            b"encoding=delimited;escaping=values, gzip;q=0",
        ],
        (b";q=", b"escaping=", b"dots", b"underscores", b"version=", b'"', b"gzip", b"nan", b"1e9"),
        2048,
    ),
    Target(
        "framed", run_framed, _framed_seeds, (b"\xff\x06\x00\x00sNaPpY", b"\x00", b"\x01", b"\xfe")
    ),
    Target(
        "block",
        run_block,
        lambda: [b"\0", compress_block(b"a" * 300 + b"bcd" * 40), compress_block(_families())],
        (b"\xfe\xff\x00", b"\x05\x01", b"\xf0", b"\xf4", b"\xfc", b"\xff\xff\x03"),
    ),
    Target(
        "gzip",
        run_gzip,
        lambda: [
            b"\x05" + gzip.compress(b"a" * 500, mtime=0),
            b"\xff" + gzip.compress(b"", mtime=0) + gzip.compress(_TEXT, 1, mtime=0),
            b"\x00" + gzip.compress(bytes(80_000), mtime=0),
            b"\x07\x1f\x8b\x08\x1e\0\0\0\0\0\x03\x02\0xxname\0comment\0",
        ],
        (b"\x1f\x8b\x08", b"\x00\x03", b"\x1f\x8b\x08\x1f"),
    ),
    Target(
        "content-encoding",
        run_encoding,
        lambda: [b"gzip", b"identity,gzip", b"x-gzip\0br", b""],
        (b"gzip", b"identity", b",", b" ", b"\0"),
        1024,
    ),
    Target("selector", run_selector, lambda: _SELECTORS, _SELECTOR_WORDS, 5000),
    Target(
        "whitelist",
        run_whitelist,
        lambda: [
            b'up\n# no\n{a!="x"}\n{__name__=~"go_.*",job=\'\'}\0__name__\0go_x\0a\0x\0job\0',
            b'up{job=~"x|y"}\nup{job!~"x"}\0__name__\0up\0job\0y',
        ],
        _SELECTOR_WORDS,
        5000,
    ),
    Target(
        "escaping",
        run_escaping,
        lambda: [
            b"a.b\0le\0x\0a_b\0c.d\0y",
            "é\0a-b\0c\0U__a\0_\0\U0001f600".encode(),
            b"__name__",
        ],
        (b"\0", b"__name__", b"a_b\0", b"a.b\0", b"U__", b"_dot_", b"__", b":"),
        1024,
    ),
)
