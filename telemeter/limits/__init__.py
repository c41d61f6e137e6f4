"""The limits of senders: the rate limit, and what replicas share of it."""
