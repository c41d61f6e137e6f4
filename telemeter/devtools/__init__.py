"""Stand-ins for demos and development: an authorization server, a source of metrics."""
