"""Converting requests: quickly where the compiled modules can, and straightforwardly elsewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from telemeter.convert.upload import DRIFT_MS, Converted, UploadRules, convert_upload, most_output
from telemeter.convert.write import WriteRules, Written, sift_write, sift_write_v2
from telemeter.samples.family import MAX_AGE_MS, decode_families
from telemeter.samples.format import Decoder
from telemeter.samples.selector import NAME
from telemeter.samples.whitelist import Whitelist

if TYPE_CHECKING:
    from telemeter.convert._upload import Rule

#: The environment variable that asks for Python alone, if it is `python`.
SWITCH: Final = "TELEMETER_TRANSCODER"

try:
    if os.environ.get(SWITCH) == "python":
        raise ImportError("Python alone was asked for, to compare")
    from telemeter.convert import _upload as _compiled
    from telemeter.convert import _write as _compiled_write
except ImportError:  # there was no compiler when the package was installed
    _compiled = None  # type: ignore[assignment]

#: Which code converts the usual request: `compiled` or `python`.
KIND: Final = "python" if _compiled is None else "compiled"

#: The compiled code has room for so many labels of ours in every series.
_MOST_ADDED: Final = 32


class Transcoder:
    """Converts uploads by the same rules."""

    def __init__(self, rules: UploadRules) -> None:
        self._rules = rules
        usual = (
            len(rules.labels) <= _MOST_ADDED
            and NAME not in rules.labels
            and NAME not in rules.elided
        )
        self._plan = (
            _compiled.Plan(_rules_of(rules.whitelist), list(rules.labels.items()), rules.elided)
            if usual and _compiled is not None
            else None
        )

    def quick(
        self, body: bytes, decode: Decoder, required: Mapping[str, str], now_ms: int
    ) -> Converted | None:
        """Convert an upload in the time that reading it takes, if it is a usual one.

        Args:
            body: the decompressed body.
            decode: the decoder of its format.
            required: the labels that every sample must carry, with their values.
            now_ms: the time, in milliseconds since the epoch.

        Returns:
            The same as `slow`; None if that has to look at the upload.
        """
        if self._plan is None or decode is not decode_families or not all(required.values()):
            return None
        limit = most_output(body)
        result = _compiled.convert(body, self._plan, required, now_ms, MAX_AGE_MS, DRIFT_MS, limit)
        return None if result is None else Converted(*result)

    def convert(
        self, body: bytes, decode: Decoder, required: Mapping[str, str], now_ms: int
    ) -> Converted:
        """Convert an upload, quickly or straightforwardly; see `convert_upload`."""
        arguments = (body, decode, required, now_ms)
        return self.quick(*arguments) or self.slow(*arguments)

    def slow(
        self, body: bytes, decode: Decoder, required: Mapping[str, str], now_ms: int
    ) -> Converted:
        """Convert an upload straightforwardly; see `convert_upload`."""
        return convert_upload(body, decode, required, self._rules, now_ms)


class Sifter:
    """Sifts remote-write requests by the same rules."""

    def __init__(self, rules: WriteRules, *, keep_version: bool = False) -> None:
        """Prepare to sift.

        Args:
            rules: what is demanded and done; the cluster comes with each request.
            keep_version: whether a 2.0 request stays one, rather than becoming one of 1.0.
        """
        self._rules = rules
        self._keep_version = keep_version
        self._plan = (
            _compiled_write.Plan(_rules_of(rules.whitelist), rules.elided, rules.partition_label)
            if _compiled is not None
            else None
        )

    def quick(self, body: bytes, version: int, cluster: str | None) -> Written | None:
        """Sift a request in the time that reading it takes, if it is a usual one.

        Args:
            body: the decompressed body.
            version: 1 or 2.
            cluster: the value that the partition label must have; None: any.

        Returns:
            The same as `sift`; None if that has to look at the request.
        """
        if self._plan is None or (version == 2 and self._keep_version):
            return None
        # No text on the wire holds half a surrogate pair, but one in JSON may.
        wanted = None if cluster is None else cluster.encode("utf-8", "surrogatepass")
        result = _compiled_write.sift(body, self._plan, wanted, version)
        return None if result is None else Written(*result)

    def sift(self, body: bytes, version: int, cluster: str | None) -> Written:
        """Sift a request; see `sift_write` and `sift_write_v2`."""
        rules = replace(self._rules, cluster=cluster)
        if version == 2:
            return sift_write_v2(body, rules, keep_version=self._keep_version)
        return sift_write(body, rules)


def _rules_of(whitelist: Whitelist) -> list[Rule]:
    """The rules as the compiled modules take them."""
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
