"""The engine: converts with the compiled modules where they can, and with the reference elsewhere.

Three converters share one interface (`telemeter.loop.threads.Converter`): `compiled` converts with
the compiled module, or returns None where only the reference can; `reference` always converts;
`convert` tries the one and then the other. This module alone knows which compiled modules there
are, and the environment variable that turns them off.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from telemeter.convert.collect import Transforms, add_labels, anonymous
from telemeter.convert.results import Converted, Written
from telemeter.convert.sieve import WriteRules
from telemeter.convert.upload import DRIFT_MS, UploadRules, convert_upload, most_output
from telemeter.convert.write import refuse_write, sift_write, sift_write_v2
from telemeter.samples.family import (
    MAX_AGE_MS,
    Family,
    count_metrics,
    decode_families,
    encode_families,
    is_too_long,
)
from telemeter.samples.format import Decoder
from telemeter.samples.limits import MAX_COMPILED_LABELS, MAX_UNUSUAL_SERIES
from telemeter.samples.selector import NAME
from telemeter.samples.whitelist import Whitelist

if TYPE_CHECKING:
    from telemeter.convert._upload import Rule

#: The environment variable that asks for Python alone, if it is `python`.
SWITCH: Final = "TELEMETER_TRANSCODER"

try:
    if os.environ.get(SWITCH) == "python":
        raise ImportError("Python alone was asked for, to compare")
    from telemeter.convert import _collect, _upload, _write
except ImportError:  # there was no compiler when the package was installed
    _collect = _upload = _write = None  # type: ignore[assignment]

#: Which code converts whatever the compiled modules can: `compiled` or `python`.
KIND: Final = "python" if _upload is None else "compiled"


class UploadConverter:
    """A converter of uploads, by the same rules."""

    def __init__(self, rules: UploadRules) -> None:
        self._rules = rules
        suits = (
            len(rules.labels) <= MAX_COMPILED_LABELS
            and NAME not in rules.labels
            and NAME not in rules.elided
        )
        self._prepared = (
            _upload.Prepared(
                _rules_of(rules.whitelist),
                list(rules.labels.items()),
                rules.elided,
                rules.keep_times,
            )
            if suits and _upload is not None
            else None
        )

    def compiled(
        self, body: bytes, decode: Decoder, required: Mapping[str, str], now_ms: int
    ) -> Converted | None:
        """Convert an upload with the compiled module, in about the time that reading it takes.

        Args:
            body: the decompressed body.
            decode: the decoder of its format.
            required: the labels that every sample must carry, with their values.
            now_ms: the time, in milliseconds since the epoch.

        Returns:
            The same as `reference`; None if only that can convert it.
        """
        if self._prepared is None or decode is not decode_families or not all(required.values()):
            return None
        limit = most_output(body)
        max_age = _ANY_AGE if self._rules.keep_times else MAX_AGE_MS
        return _upload.convert(body, self._prepared, required, now_ms, max_age, DRIFT_MS, limit)

    def convert(
        self, body: bytes, decode: Decoder, required: Mapping[str, str], now_ms: int
    ) -> Converted:
        """Convert an upload; see `convert_upload`."""
        arguments = (body, decode, required, now_ms)
        return self.compiled(*arguments) or self.reference(*arguments)

    def reference(
        self, body: bytes, decode: Decoder, required: Mapping[str, str], now_ms: int
    ) -> Converted:
        """Convert an upload with the reference; see `convert_upload`."""
        return convert_upload(body, decode, required, self._rules, now_ms)


class WriteConverter:
    """A converter of remote-write requests, by the same rules."""

    def __init__(self, rules: WriteRules, *, keep_version: bool = False) -> None:
        """Make a converter.

        Args:
            rules: what is demanded and done; the cluster comes with each request.
            keep_version: whether a 2.0 request stays one, rather than becoming one of 1.0.
        """
        self._rules = rules
        self._keep_version = keep_version
        suits = len(rules.added) <= MAX_COMPILED_LABELS and NAME not in rules.added
        self._prepared = (
            _write.Prepared(
                _rules_of(rules.whitelist),
                list(rules.added.items()),
                rules.elided,
                rules.partition_label,
                rules.most_name,
                rules.most_value,
            )
            if _write is not None and suits
            else None
        )

    def compiled(self, body: bytes, version: int, cluster: str | None) -> Written | None:
        """Convert a request with the compiled module, in about the time that reading it takes.

        Args:
            body: the decompressed body.
            version: 1 or 2.
            cluster: the value that the partition label must have; None: any.

        Returns:
            The same as `reference`; None if only that can convert it.

        Raises:
            BadInputError: the request is refused, as by `reference`.
        """
        if self._prepared is None or (version == 2 and self._keep_version):
            return None
        # No text on the wire holds half a surrogate pair, but one in JSON may.
        wanted = None if cluster is None else cluster.encode("utf-8", "surrogatepass")
        written = _write.sift(body, self._prepared, wanted, version)
        if isinstance(written, int):  # the series that it does not know
            refuse_write(body, replace(self._rules, cluster=cluster), version, written)
            return None
        return written

    def convert(self, body: bytes, version: int, cluster: str | None) -> Written:
        """Convert a request; see `sift_write` and `sift_write_v2`."""
        return self.compiled(body, version, cluster) or self.reference(body, version, cluster)

    def reference(self, body: bytes, version: int, cluster: str | None) -> Written:
        """Convert a request with the reference; see `sift_write` and `sift_write_v2`."""
        rules = replace(self._rules, cluster=cluster)
        most = None if self._prepared is None else MAX_UNUSUAL_SERIES
        if version == 2:
            keep = self._keep_version
            return sift_write_v2(body, rules, keep_version=keep, most_series=most)
        return sift_write(body, rules, most_series=most)


#: From so many bytes on, work on a collection takes more than a few milliseconds.
LARGE: Final = 512 * 1024
_OLDEST_OF_ALL: Final = -(2**63)
_ANY_AGE: Final = 2**62


@dataclass(frozen=True, slots=True)
class Transformed:
    """A collection after the transforms, before the server's labels are added.

    Attributes:
        families: how many families are left.
        samples: how many samples they have.
        received: how many samples there were.
    """

    families: int
    samples: int
    received: int
    _left: bytes | list[Family]

    @property
    def is_large(self) -> bool:
        """Return whether to work on it takes longer than to hand it to a thread."""
        return not isinstance(self._left, bytes) or len(self._left) > LARGE

    def labelled(self, labels: Mapping[str, str]) -> bytes:
        """Encode the families, each behind its length, with labels added to every sample."""
        if isinstance(self._left, bytes):
            prepared = _prepared_transforms(Transforms(labels))
            if prepared is not None:
                result = _collect.transform(self._left, prepared, _OLDEST_OF_ALL)
                if result is not None:
                    return result.payload
        families = self.decoded()
        for family in families:
            add_labels(family, labels)
        return encode_families(families)

    def encoded(self) -> bytes:
        """Encode the families, each behind its length."""
        return self._left if isinstance(self._left, bytes) else encode_families(self._left)

    def decoded(self) -> list[Family]:
        """Return the families."""
        return decode_families(self._left) if isinstance(self._left, bytes) else self._left


class CollectConverter:
    """A converter of collections, by the same transforms."""

    def __init__(self, transforms: Transforms, *, use_compiled: bool = True) -> None:
        """Make a converter.

        Args:
            transforms: what it applies.
            use_compiled: whether the compiled code may be used, where it is there.
        """
        self._transforms = transforms
        self._prepared = _prepared_transforms(transforms) if use_compiled else None

    def convert(self, body: bytes, decode: Decoder, now_ms: int) -> Transformed:
        """Transform a collection.

        Args:
            body: what was collected.
            decode: the decoder of its format.
            now_ms: the time, in milliseconds since the epoch.

        Raises:
            BadInputError: the body cannot be decoded.
        """
        if self._prepared is not None and decode is not decode_families:
            # Even so the compiled code saves more than the encoding costs.
            body, decode = encode_families(decode(body)), decode_families
        return self.compiled(body, decode, now_ms) or self.reference(body, decode, now_ms)

    def compiled(self, body: bytes, decode: Decoder, now_ms: int) -> Transformed | None:
        """Transform a collection with the compiled module, in about the time that reading it takes.

        Returns:
            The same as `reference`; None if only that can transform it.
        """
        if self._prepared is None or decode is not decode_families:
            return None
        result = _collect.transform(body, self._prepared, now_ms - MAX_AGE_MS)
        if result is None:
            return None
        return Transformed(result.families, result.samples, result.received, result.payload)

    def reference(self, body: bytes, decode: Decoder, now_ms: int) -> Transformed:
        """Transform a collection with the reference; see `convert`."""
        families = decode(body)
        received = count_metrics(families)
        families = self._transforms.apply(families, now_ms)
        return Transformed(len(families), count_metrics(families), received, families)


def _prepared_transforms(transforms: Transforms) -> _collect.Prepared | None:
    """Return the transforms as the compiled code takes them; None if it cannot apply them."""
    if _collect is None or not _suits_compiled(transforms):
        return None
    return _collect.Prepared(
        transforms.labels,
        transforms.renames,
        transforms.anonymized,
        lambda value: anonymous(value, transforms.salt),
    )


def _suits_compiled(transforms: Transforms) -> bool:
    labels = transforms.labels
    return (
        max(len(labels), len(transforms.anonymized)) <= MAX_COMPILED_LABELS
        and all(labels)
        and NAME not in labels
        and not any(map(is_too_long, (*labels, *labels.values())))
    )


def _rules_of(whitelist: Whitelist) -> list[Rule]:
    """Return the rules as the compiled modules take them."""
    return [
        (
            selector.exact_name,
            [
                (
                    matcher.name,
                    matcher.value,
                    matcher.is_negative,
                    matcher.evaluate if matcher.is_regex else None,
                )
                for matcher in selector.matchers
            ],
        )
        for selector in whitelist.selectors
    ]
