"""Authorization, which says who is calling: tokens, keys, the authorization server and its caches.

`oidc` has the tokens that the server itself shows to other servers.
"""
