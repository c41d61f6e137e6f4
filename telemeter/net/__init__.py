"""Requests to other servers: `exchange` makes one, with a deadline, limits and explanations.

Besides: proxies, URLs, the interface of whatever takes samples (`upstream`), and TLS, which the
listeners use too (`tls`, `reloadable`).
"""
