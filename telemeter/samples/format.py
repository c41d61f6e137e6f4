"""The decoder that goes with a Content-Type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from telemeter.samples.exposition import parse_text
from telemeter.samples.family import Family, decode_families

#: Decodes a decompressed body; raises `BadInputError`.
Decoder: TypeAlias = Callable[[bytes], list[Family]]

#: What this project reads, for error messages.
EXPECTED: Final = (
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited, "
    "or text/plain; version=0.0.4"
)


def decoder_for(content_type: str) -> Decoder | None:
    """Return the decoder for a body of this Content-Type; None if there is none.

    As in Prometheus' own library, parameters that are left out have their usual values.
    """
    media_type, parameters = split_content_type(content_type)
    get = parameters.get
    if media_type == "application/vnd.google.protobuf":
        right_message = get("proto", "io.prometheus.client.MetricFamily")
        if right_message == "io.prometheus.client.MetricFamily" and (
            get("encoding", "delimited") == "delimited"
        ):
            return decode_families
    elif media_type == "text/plain" and get("version", "0.0.4") == "0.0.4":
        return parse_text
    return None


def split_content_type(content_type: str) -> tuple[str, dict[str, str]]:
    """Return the media type in lower case, and its parameters."""
    media_type, *rest = content_type.split(";")
    parameters = {}
    for parameter in rest:
        name, separator, value = parameter.partition("=")
        if separator:
            parameters[name.strip().lower()] = value.strip().strip('"')
    return media_type.strip().lower(), parameters
