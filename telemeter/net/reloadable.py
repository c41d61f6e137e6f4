"""TLS settings that can be replaced while connections are open; those keep what they began with."""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLContextFactory
from twisted.internet.ssl import CertificateOptions
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer


@implementer(IOpenSSLContextFactory)
class ReloadableServerContext:
    """The certificate that a listener shows, for `TLSMemoryBIOFactory`; it can be replaced."""

    def __init__(self, options: CertificateOptions | None) -> None:
        self._options = options

    def reload(self, options: CertificateOptions | None) -> None:
        """Show something else to those who connect from now on."""
        self._options = options

    def getContext(self) -> SSL.Context:
        assert self._options is not None
        context: SSL.Context = self._options.getContext()
        return context


@implementer(IPolicyForHTTPS)
class ReloadablePolicy:
    """A client's policy for TLS: whom it trusts, what it shows; it can be replaced."""

    def __init__(self, policy: IPolicyForHTTPS) -> None:
        self._policy = policy

    def reload(self, policy: IPolicyForHTTPS) -> None:
        """Trust and show something else from the next connection on."""
        self._policy = policy

    def creatorForNetloc(self, hostname: bytes, port: int) -> Any:
        return self._policy.creatorForNetloc(hostname, port)
