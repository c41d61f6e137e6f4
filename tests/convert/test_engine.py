"""The compiled conversion against the straightforward one, which is its reference."""

from __future__ import annotations

import shutil
import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from telemeter.convert import engine
from telemeter.convert.engine import KIND, UploadConverter
from telemeter.convert.results import Converted
from telemeter.convert.upload import UploadRules
from telemeter.samples.errors import BadInputError
from telemeter.samples.exposition import parse_text, render_text
from telemeter.samples.family import decode_families, encode_families
from telemeter.samples.selector import parse_rules
from telemeter.samples.whitelist import Whitelist
from tests.samples.build import NOW, family, labelled, sample
from tests.samples.recordings import federated
from tests.samples.strategies import alike_labels, mutations

from .upload_model import COUNTER, GAUGE, UNTYPED, PlainFamily
from .upload_strategies import Upload, broken_uploads, encode, upload_rules, uploads


def compiled_and_reference(
    body: bytes, upload: Upload, keep_times: bool
) -> tuple[Converted | None, Converted | None]:
    """What both make of a body; None: the compiled one gave up, the reference one refused."""
    _, plain = upload
    convert = UploadConverter(replace(upload_rules(plain), keep_times=keep_times))
    compiled = convert.compiled(body, decode_families, plain.required, NOW)
    try:
        return compiled, convert.reference(body, decode_families, plain.required, NOW)
    except BadInputError:
        return compiled, None


def is_usual(found: PlainFamily) -> bool:
    """Whether the compiled code has to know such a family."""
    return (
        bool(found.name)
        and found.kind in (COUNTER, GAUGE, UNTYPED)
        and bool(found.metrics)
        and all(None not in pair for metric in found.metrics for pair in metric.labels)
    )


def test_it_was_built() -> None:
    """Where there is a compiler, the installation has used it."""
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    assert KIND == "compiled" or shutil.which("cc") is None or not headers.exists()


@settings(max_examples=150)
@given(uploads(), st.booleans())
def test_a_good_upload(upload: Upload, keep_times: bool) -> None:
    families, plain = upload
    usual = [found for found in families if is_usual(found)]
    compiled, reference = compiled_and_reference(encode(usual), (usual, plain), keep_times)
    assert reference is not None
    event(f"{min(reference.series, 3)} series, {min(reference.duplicates, 1)} duplicates")
    if KIND == "compiled":
        assert compiled == reference


@settings(max_examples=150)
@given(st.one_of(uploads(), broken_uploads()), st.booleans())
def test_any_upload(upload: Upload, keep_times: bool) -> None:
    compiled, reference = compiled_and_reference(encode(upload[0]), upload, keep_times)
    event("gave up" if compiled is None else "converted")
    assert compiled is None or compiled == reference


@settings(max_examples=150)
@given(uploads(least=1), st.booleans(), st.data())
def test_a_mutated_upload(upload: Upload, keep_times: bool, data: st.DataObject) -> None:
    body = data.draw(mutations(encode([found for found in upload[0] if is_usual(found)])))
    compiled, reference = compiled_and_reference(body, upload, keep_times)
    event("gave up" if compiled is None else "converted")
    assert compiled is None or compiled == reference


@settings(max_examples=300)
@given(
    st.lists(alike_labels(), min_size=1, max_size=2),
    st.sampled_from(["", 'up{a!="x"}', 'up{job=~"x|v+"}\n{b=""}', '{_id="x"}\n{a=~"x.*"}']),
    st.lists(st.sampled_from(["a", "job", "b"]), max_size=2),
    st.dictionaries(st.sampled_from(["a", "b", "region"]), st.sampled_from(["", "z"]), max_size=2),
    st.booleans(),
)
def test_series_like_the_one_before(
    found: list[list[list[tuple[str, str]]]],
    rules: str,
    elided: list[str],
    added: dict[str, str],
    has_required: bool,
) -> None:
    required = {"_id": "x"} if has_required else {}
    if has_required:
        found = [[[*pairs, ("_id", "x")] for pairs in one] for one in found]
    body = encode_families(
        family(name, *(labelled(*pairs) for pairs in one))
        for name, one in zip(("up", "down"), found, strict=False)
    )
    convert = UploadConverter(
        UploadRules(Whitelist(parse_rules(rules)), added, frozenset(elided)),
    )
    compiled = convert.compiled(body, decode_families, required, NOW)
    try:
        reference = convert.reference(body, decode_families, required, NOW)
    except BadInputError:
        event("refused")
        assert compiled is None
    else:
        event(f"{min(reference.series, 3)} series, {min(reference.dropped, 1)} dropped")
        assert compiled == (reference if KIND == "compiled" else None)


def test_a_name_that_must_not_come_again() -> None:
    """The labels that are added lie where the next series' labels are read."""
    rules = UploadRules(labels={"region": "eu"}, elided=frozenset(("b",)))
    body = encode_families(
        [
            family(
                "up",
                labelled(("a", "1"), ("b", "1")),
                labelled(("a", "1"), ("b", "2"), ("__name__", "up")),
            )
        ]
    )
    assert UploadConverter(rules).compiled(body, decode_families, {}, NOW) is None
    with pytest.raises(BadInputError, match="__name__"):
        UploadConverter(rules).reference(body, decode_families, {}, NOW)


@pytest.mark.parametrize("size", [127, 128, 255])
def test_a_label_with_a_long_name_is_read_anew(size: int) -> None:
    """Its length takes two bytes, of which neither may pass for the tag of another label's name."""
    good = labelled(("n" * size, "value"))
    body = encode_families([family("up", good, good)])
    encoded = good.label[0].SerializeToString()
    at = body.rindex(encoded)
    broken = body[:at] + encoded[1:-5] + b"\x06value" + body[at + len(encoded) :]
    convert = UploadConverter(UploadRules())
    assert convert.compiled(broken, decode_families, {}, NOW) is None
    compiled = convert.compiled(body, decode_families, {}, NOW)
    assert compiled == (
        convert.reference(body, decode_families, {}, NOW) if KIND == "compiled" else None
    )


@given(st.binary(max_size=60))
def test_bytes(body: bytes) -> None:
    convert = UploadConverter(UploadRules())
    compiled = convert.compiled(body, decode_families, {}, NOW)
    if compiled is not None:
        assert compiled == convert.reference(body, decode_families, {}, NOW)


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 8, 13, 100])
def test_a_body_that_is_cut_off(cut: int) -> None:
    body = encode_families([family("up", sample(1.0, job="a"), sample(2.0, job="b"))])
    convert = UploadConverter(UploadRules())
    assert convert.compiled(body[:-cut], decode_families, {}, NOW) is None or cut >= len(body)


@pytest.mark.parametrize(
    "rules",
    [
        UploadRules(),
        UploadRules(Whitelist(parse_rules('up\n{__name__=~"go_.*"}\n{handler!=""}'))),
        UploadRules(
            Whitelist(parse_rules('{job="x"}\n{__name__="up",__name__!="down"}\n{quantile="0.5"}')),
            {"region": "eu", "instance": "here", "empty": ""},
            frozenset(("job", "le", "region")),
        ),
    ],
)
def test_what_a_real_prometheus_federated(rules: UploadRules) -> None:
    families = decode_families(federated())
    now = max(metric.timestamp_ms for found in families for metric in found.metric)
    for found in families:
        found.metric.sort(key=lambda metric: metric.timestamp_ms)
    body = encode_families(families)
    convert = UploadConverter(rules)
    reference = convert.reference(body, decode_families, {}, now)
    compiled = convert.compiled(body, decode_families, {}, now)
    assert compiled == (reference if KIND == "compiled" else None)
    assert reference.received == 881


def test_many_labels_are_left_to_the_reference() -> None:
    metric = sample()
    for number in range(200):
        metric.label.add(name=f"label_{number}", value="x")
    body = encode_families([family("up", metric)])
    assert UploadConverter(UploadRules()).compiled(body, decode_families, {}, NOW) is None


def test_many_labels_to_add_are_left_to_the_reference() -> None:
    rules = UploadRules(labels={f"label_{number}": "x" for number in range(200)})
    body = encode_families([family("up", sample())])
    assert UploadConverter(rules).compiled(body, decode_families, {}, NOW) is None


def test_other_formats_and_empty_demands_are_left_to_the_reference() -> None:
    made = [family("up", sample())]
    convert = UploadConverter(UploadRules())
    assert convert.compiled(render_text(made).encode(), parse_text, {}, NOW) is None
    assert convert.compiled(encode_families(made), decode_families, {"_id": ""}, NOW) is None


def test_without_the_compiled_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_upload", None)
    convert = UploadConverter(UploadRules())
    body = encode_families([family("up", sample())])
    assert convert.compiled(body, decode_families, {}, NOW) is None
    assert convert.reference(body, decode_families, {}, NOW).series == 1
