"""The configuration of telemeter-client: frozen, and composed of what each step needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from telemeter.convert.collect import Transforms
from telemeter.loop.timeouts import TIMEOUTS, Timeouts
from telemeter.net.proxy import Proxies
from telemeter.net.tls import ClientPolicy
from telemeter.web.settings import OperatorSettings


@dataclass(frozen=True, slots=True)
class CollectSettings:
    """The Prometheus server to collect from.

    Attributes:
        given_url: its URL as it was given, for messages.
        url: of its /federate, with the selectors.
        token: the bearer token to show; empty: none.
        policy: whom to trust as that server, and what to show it.
        limit_bytes: how many bytes its answer may have.
        timeout: for how many seconds to wait for the answer.
        selectors: how many selectors there are.
    """

    given_url: str
    url: str
    token: str = field(repr=False)
    policy: ClientPolicy
    limit_bytes: int
    timeout: float
    selectors: int


@dataclass(frozen=True, slots=True)
class SendSettings:
    """The telemeter-server to send to.

    Attributes:
        authorize_url: where to exchange the bearer token.
        upload_url: where to upload.
        token: the bearer token.
        policy: whom to trust as the server.
        proxies: the proxies on the way to it.
        timeout: for how many seconds to wait for the answer to an upload.
    """

    authorize_url: str
    upload_url: str
    token: str = field(repr=False)
    policy: ClientPolicy
    proxies: Proxies
    timeout: float


@dataclass(frozen=True, slots=True)
class SpoolSettings:
    """The spool, where collections are kept until they are delivered.

    Attributes:
        folder: where it is.
        max_bytes: how many bytes its collections may have.
        max_age: how many seconds old they may become.
        rate: how many requests a second are made while there is a backlog.
        newest_first: whether the newest is delivered first, rather than the oldest.
        stale_on_stop: whether the server is told at the end that the series have ended.
        receive_url: where to deliver.
        cluster: the identifier of the cluster that is written for.
    """

    folder: str
    max_bytes: int
    max_age: float
    rate: float
    newest_first: bool
    stale_on_stop: bool
    receive_url: str
    cluster: str


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """The whole configuration of a telemeter-client: what its flags and their files say.

    Attributes:
        program: the name that messages begin with.
        listen: where to listen; empty: nowhere.
        interval: seconds from the end of one cycle to the start of the next.
        collecting: where to collect.
        transforms: what to change in what was collected.
        sending: where to send; None: nothing is sent.
        spool: where collections are kept until they are delivered; None: they are not.
        knows_id: whether the agent says to the server which cluster it is.
        timeouts: how long who waits for whom.
        operators: who is let in at its listener.
    """

    program: str
    listen: str
    interval: float
    collecting: CollectSettings
    transforms: Transforms
    sending: SendSettings | None
    knows_id: bool
    timeouts: Timeouts = TIMEOUTS
    operators: OperatorSettings = field(default_factory=OperatorSettings)
    spool: SpoolSettings | None = None


class AgentConfigReader(Protocol):
    """A way to read the configuration again while the agent runs."""

    def read_config(self) -> AgentConfig:
        """Read every file again; raises `UsageError`."""
        ...

    def rotating_paths(self) -> Sequence[str]:
        """Return the files with tokens and certificates, which are replaced while it runs."""
        ...
