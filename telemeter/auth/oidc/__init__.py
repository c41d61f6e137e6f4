"""Access tokens from an OpenID Connect issuer, for requests to other servers.

See docs/protocol.md, "Access tokens".
Discovery: https://openid.net/specs/openid-connect-discovery-1_0.html. Grant: RFC 6749, section 4.4
(client credentials). Use: RFC 6750.

`agent` shows a token with every request, `source` has one ready for it, `issuer` asks for one, and
`access` reads the answer.
"""

from telemeter.auth.oidc.access import TokenUnavailableError
from telemeter.auth.oidc.agent import OIDCAgent
from telemeter.auth.oidc.issuer import check_issuer
from telemeter.auth.oidc.source import TokenSource

__all__ = ["OIDCAgent", "TokenSource", "TokenUnavailableError", "check_issuer"]
