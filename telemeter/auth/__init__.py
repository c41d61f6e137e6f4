"""Authorization, which says who is calling: tokens, keys, and the authorization server."""
