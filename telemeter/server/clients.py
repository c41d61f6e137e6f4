"""The servers that a telemeter-server asks: the upstream, the authorization server, the issuer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from twisted.application.service import IService
from twisted.internet.defer import Deferred, gatherResults
from twisted.web.client import HTTPConnectionPool
from twisted.web.iweb import IAgent

from telemeter.auth.authorization_server import AcceptEveryone, AuthorizationServer
from telemeter.auth.oidc import OIDCAgent, TokenSource
from telemeter.config.server import ServerConfig
from telemeter.loop.reactor import IDaemonReactor
from telemeter.loop.threads import Runner
from telemeter.net.client import make_agent, make_pool
from telemeter.net.reloadable import ReloadablePolicy
from telemeter.server.discovery import Discovery
from telemeter.upstream.forwarder import Forwarder
from telemeter.web.health import Health

#: Makes the agent for a peer, given its name in metrics and whom to trust.
AgentMaker: TypeAlias = Callable[[str, ReloadablePolicy], IAgent]


class Clients:
    """The clients of the upstream, the authorization server and the OIDC issuer.

    Each has connections of its own, because each trusts other authorities.

    Attributes:
        authorizer: knows whose a token is.
        forwarder: forwards samples; None: they are kept in memory.
    """

    def __init__(
        self,
        config: ServerConfig,
        reactor: IDaemonReactor,
        run: Runner,
        make: AgentMaker | None = None,
    ) -> None:
        """Make the clients; none of them connects before it is asked something.

        Args:
            config: the configuration.
            reactor: connects and tells the time.
            run: runs functions that take long in threads.
            make: makes the agents; None: agents with a connection pool each.
        """
        self._reactor = reactor
        self._config = config
        self._pools: list[HTTPConnectionPool] = []
        self._make = make or self._make_agent
        oidc, authorization, forward = config.oidc, config.authorization, config.forward
        self._forward_policy = ReloadablePolicy(forward.policy)
        self._authorize_policy = ReloadablePolicy(authorization.policy)
        self._oidc_policy = ReloadablePolicy(oidc.policy)
        self._tokens: TokenSource | None = None
        if oidc.issuer:
            self._tokens = TokenSource(
                self._make("oauth", self._oidc_policy),
                reactor,
                oidc.issuer,
                oidc.client_id,
                oidc.client_secret,
                oidc.audience,
                oidc.scopes,
                config.timeouts,
            )
        self.authorizer: AcceptEveryone | AuthorizationServer = AcceptEveryone()
        if authorization.url:
            agent = self._with_token(self._make("authorize", self._authorize_policy))
            self.authorizer = AuthorizationServer(
                agent,
                reactor,
                authorization.url,
                config.timeouts.authorization_server,
                config.peer_connections,
            )
        self.forwarder: Forwarder | None = None
        if forward.url:
            agent = self._with_token(self._make("forward", self._forward_policy))
            self.forwarder = Forwarder(
                agent,
                reactor,
                forward.url,
                forward.tenant,
                forward.batches,
                run,
                config.timeouts.forward,
                config.peer_connections,
            )

    def _make_agent(self, name: str, policy: ReloadablePolicy) -> IAgent:
        pool = make_pool(self._reactor, self._config.timeouts)
        self._pools.append(pool)
        return make_agent(
            self._reactor,
            name,
            self._config.program,
            pool=pool,
            policy=policy,
            proxies=self._config.proxies,
            timeouts=self._config.timeouts,
        )

    def _with_token(self, agent: IAgent) -> IAgent:
        return agent if self._tokens is None else OIDCAgent(agent, self._tokens)

    def reload(self, config: ServerConfig) -> None:
        """Use the certificates and the secret of another configuration, from the next use on."""
        self._forward_policy.reload(config.forward.policy)
        self._authorize_policy.reload(config.authorization.policy)
        self._oidc_policy.reload(config.oidc.policy)
        if self._tokens is not None:
            self._tokens.use_secret(config.oidc.client_secret)

    def discovery(self, health: Health, *, vital: bool = True) -> IService | None:
        """Return the service that finds the OIDC issuer, if there is one; see `Discovery`."""
        if self._tokens is None:
            return None
        return Discovery(self._reactor, self._tokens, health, self._config.program, vital=vital)

    def states(self) -> dict[str, Callable[[], str]]:
        """Return what says in words how each of them is, as far as is known."""
        states: dict[str, Callable[[], str]] = {}
        if self.forwarder is not None:
            states["upstream"] = self.forwarder.breaker.describe
        if isinstance(self.authorizer, AuthorizationServer):
            states["authorization server"] = self.authorizer.describe
        return states

    def close(self) -> Deferred[Any]:
        """Close the connections that wait for another request."""
        return gatherResults([pool.closeCachedConnections() for pool in self._pools])
