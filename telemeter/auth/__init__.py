"""Who is calling: tokens, keys, and the authorization server."""
