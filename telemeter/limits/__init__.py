"""Whether a request may be served now: rate limit, and what replicas share."""
