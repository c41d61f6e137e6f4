"""Several processes that answer clients, and the one that owns them.

The process that twistd starts, the parent, listens for clients but accepts nobody: its workers do,
each of which has the listening socket. The parent answers on the internal listener, and keeps what
all must agree on: the signing key, the rate limit, what the authorization server said, the metrics,
the log, and what was in the files when they were last read.

`supervisor` is the parent's side, `process` the worker's, `control` what they say to each other.
"""
