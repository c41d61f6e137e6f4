"""GET /federate: what the embedded store holds, as Prometheus shows it."""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import IRequest

from telemeter.loop.timeouts import TIMEOUTS
from telemeter.samples.errors import BadInputError
from telemeter.samples.escaping import Escaping
from telemeter.samples.family import PROTOBUF_CONTENT_TYPE
from telemeter.samples.format import split_content_type
from telemeter.samples.selector import Selector, parse_selector
from telemeter.store.federation import Encoding, Federation, Messages, Text
from telemeter.store.store import Store
from telemeter.web.site.query import parse_fields, query_of
from telemeter.web.site.refused import Refused
from telemeter.web.site.routing import Route
from telemeter.web.site.stream import Stream

TEXT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_OPEN_METRICS_TYPE: Final = "application/openmetrics-text; version={}; charset=utf-8"
_ESCAPINGS: Final = {escaping.value: escaping for escaping in Escaping}


def federate_route(store: Store, clock: IReactorTime, patience: float = TIMEOUTS.reader) -> Route:
    """Return the route.

    Args:
        store: what is shown.
        clock: tells the time, and calls later.
        patience: for how many seconds a reader may take nothing, until it is hung up on.
    """

    async def federate(request: IRequest) -> None:
        selectors = read_selectors(request)
        content_type, encoding = negotiate(request.getHeader("Accept") or "")
        request.setHeader("Content-Type", content_type)
        request.setHeader("Vary", "Accept, Accept-Encoding")
        compress = accepts_gzip(request.getHeader("Accept-Encoding") or "")
        if compress:
            request.setHeader("Content-Encoding", "gzip")
        if request.method == b"HEAD":
            return
        pieces = Federation(store, selectors, encoding).pieces()
        stream = Stream(request, pieces, clock, compress=compress, patience=patience)
        await stream.done

    return Route("/federate", federate, timed=False)  # see `patience`


def read_selectors(request: IRequest) -> list[Selector]:
    """Return what the parameters `match[]` select; raises `Refused`. None at all is no error."""
    try:
        fields = parse_fields(query_of(request))
        return [parse_selector(text) for name, text in fields if name == "match[]"]
    except UnicodeDecodeError:
        raise Refused(400, "match[]: expected UTF-8") from None
    except BadInputError as error:
        raise Refused(400, f"match[]: {error}") from None


def negotiate(accept: str) -> tuple[str, Encoding]:
    """Return the Content-Type and the encoding that a reader would rather have.

    Names of any characters are for readers that say they take them, and escaped for others, as in
    Prometheus 3.
    """
    for media_type, parameters in _by_preference(accept):
        get = parameters.get
        escaping = _ESCAPINGS.get(get("escaping", ""), Escaping.UNDERSCORES)
        suffix = f"; escaping={escaping.value}" if get("escaping") in _ESCAPINGS else ""
        if (
            media_type == "application/vnd.google.protobuf"
            and get("proto") == "io.prometheus.client.MetricFamily"
            and get("encoding") == "delimited"
        ):
            return PROTOBUF_CONTENT_TYPE + suffix, Messages(escaping=escaping)
        version = get("version", "")
        if media_type == "application/openmetrics-text" and version in ("", "0.0.1", "1.0.0"):
            content_type = _OPEN_METRICS_TYPE.format(version or "0.0.1") + suffix
            return content_type, Text(open_metrics=True, escaping=escaping)
        if media_type == "text/plain" and version == "1.0.0" and suffix:
            return TEXT_TYPE.replace("0.0.4", "1.0.0") + suffix, Text(escaping=escaping)
        if media_type == "text/plain" and version in ("", "0.0.4"):
            return TEXT_TYPE + suffix, Text(escaping=escaping)
    return TEXT_TYPE, Text()


def accepts_gzip(accept_encoding: str) -> bool:
    """Return whether a reader takes gzip."""
    return any(coding.strip().lower() == "gzip" for coding, _ in _by_preference(accept_encoding))


def _by_preference(header: str) -> list[tuple[str, dict[str, str]]]:
    """Return the entries of an Accept header that are not refused, the most wanted first."""
    entries = [split_content_type(entry) for entry in header.split(",")]
    wanted = [(entry, _quality(entry[1].get("q", "1"))) for entry in entries]
    wanted.sort(key=lambda pair: -pair[1])
    return [entry for entry, quality in wanted if quality > 0]


def _quality(text: str) -> float:
    try:
        quality = float(text)
    except ValueError:
        return 0.0
    return quality if 0 <= quality <= 1 else 0.0
