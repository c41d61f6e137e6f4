"""The timeouts of the daemons, all in one place.

The rooms that wait take what they need from here as an argument, so that the configuration can
give them something else (`ServerConfig.timeouts`, `AgentConfig.timeouts`). What is no wait for
somebody else (an interval between two looks, a pause before the next try) stands in the module that
does it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The seconds that the daemons wait for others, and others for them.

    Attributes:
        connect: for a connection to a server or proxy.
        keep_idle: a kept connection for its next request. Shorter than common servers wait, so that
            a request seldom meets a connection that is just being closed.
        tls_close: for the other side of a TLS connection to close it too.
        tunnel: for a proxy to open a tunnel, once it is connected.
        forward: for the upstream's answer to a remote-write request.
        authorization_server: for an answer of the authorization server.
        authorize: the agent for the server's answer to `/authorize`.
        oidc_attempt: for the issuer: discovery where it is due, and the grant.
        oidc_answer: for one answer of the issuer, within that.
        oidc_token: a request for an access token: less than it has for all it does.
        memcached: for a memcached to do anything.
        lookup: for the addresses of a name.
        idle: a client's connection for its next request: longer than the 60 seconds for which
            common load balancers keep theirs. If both closed a connection at once, the balancer
            would have sent a request into it.
        handshake: a client's connection for the end of its TLS handshake.
        headers: a request's headers, from their first byte to the empty line behind them.
        body: a request's body, from its headers to its last byte.
        body_grace: a body for the time from which on it must keep up its least pace, see
            `telemeter.web.site.channel`.
        request: a client for an answer, from the last byte of its request's body on.
        drain: for the rest of a body that nobody wants, so that its sender sees the answer.
        proxy_header: for the header of the PROXY protocol.
        files: a reload for the files that flags name.
        spool: the agent for its spool's disk.
        spool_busy: the spool for whoever reads it at the same time.
        fleet_busy: the database of the fleet's record for whoever uses it at the same time.
        fleet_stop: a stop for that database's disk.
        agent_stop: a stop for the agent's cycle that is under way, and what it sends.
        reader: an answer that is made while it is sent for its reader to take some.
        stop: a stop for the requests that are under way. Systemd and Kubernetes give a program at
            least twice as long before they kill it.
        worker_start: the parent for a worker to start.
        worker_answer: the parent for a worker to think about other files, and to use them.
        worker_silence: the parent for a worker to give any sign of life.
        worker_stop_answer: the parent for a worker to say that it stops.
        worker_stop: the parent for its workers to end, beyond `stop`.
        worker_kill: the parent for workers that were killed.
        parent_answer: a worker for what the parent asks the authorization server: a little more
            than `authorization_server`.
        parent_report: a worker for the parent to hear what it has finished.
    """

    connect: float = 10.0
    keep_idle: float = 30.0
    tls_close: float = 10.0
    tunnel: float = 30.0
    forward: float = 5.0
    authorization_server: float = 20.0
    authorize: float = 30.0
    oidc_attempt: float = 10.0
    oidc_answer: float = 30.0
    oidc_token: float = 4.0
    memcached: float = 1.0
    lookup: float = 5.0
    idle: float = 75.0
    handshake: float = 10.0
    headers: float = 10.0
    body: float = 120.0
    body_grace: float = 10.0
    request: float = 10.0
    drain: float = 10.0
    proxy_header: float = 10.0
    files: float = 10.0
    spool: float = 10.0
    spool_busy: float = 5.0
    fleet_busy: float = 5.0
    fleet_stop: float = 5.0
    agent_stop: float = 9.0
    reader: float = 60.0
    stop: float = 10.0
    worker_start: float = 60.0
    worker_answer: float = 10.0
    worker_silence: float = 10.0
    worker_stop_answer: float = 1.0
    worker_stop: float = 1.5
    worker_kill: float = 5.0
    parent_answer: float = 25.0
    parent_report: float = 1.0


#: Those that hold unless the configuration says something else.
TIMEOUTS: Final = Timeouts()
