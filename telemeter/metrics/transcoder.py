"""Converting uploads: quickly where the compiled module can, and straightforwardly elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from telemeter.metrics.family import MAX_AGE_MS, decode_families
from telemeter.metrics.format import Decoder
from telemeter.metrics.upload import DRIFT_MS, Converted, UploadRules, convert_upload

try:
    from telemeter.metrics import _transcoder as _compiled
except ImportError:  # there was no compiler when the package was installed
    _compiled = None  # type: ignore[assignment]

#: Which code converts the usual upload: `compiled` or `python`.
KIND: Final = "python" if _compiled is None else "compiled"

#: The compiled code has room for so many labels of ours in every series.
_MOST_ADDED: Final = 32


class Transcoder:
    """Converts uploads by the same rules."""

    def __init__(self, rules: UploadRules) -> None:
        self._rules = rules
        usual = len(rules.labels) <= _MOST_ADDED
        self._plan = _make_plan(rules) if usual and _compiled is not None else None

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
            The same as `convert`; None if that has to look at the upload.
        """
        if self._plan is None or decode is not decode_families or not all(required.values()):
            return None
        result = _compiled.convert(body, self._plan, required, now_ms, MAX_AGE_MS, DRIFT_MS)
        if result is None:
            return None
        payload, series, received, dropped, duplicates, past, present, future, after = result
        return Converted(
            payload, series, received, dropped, duplicates, past, present, future, after
        )

    def convert(
        self, body: bytes, decode: Decoder, required: Mapping[str, str], now_ms: int
    ) -> Converted:
        """Convert an upload; see `convert_upload`."""
        return convert_upload(body, decode, required, self._rules, now_ms)


def _make_plan(rules: UploadRules) -> _compiled.Plan:
    return _compiled.Plan(
        [
            (
                selector.exact_name,
                [
                    (
                        matcher.name,
                        matcher.value,
                        matcher.is_negative,
                        matcher.matches if matcher.is_regex else None,
                    )
                    for matcher in selector.matchers
                ],
            )
            for selector in rules.whitelist.selectors
        ],
        list(rules.labels.items()),
        rules.elided,
    )
