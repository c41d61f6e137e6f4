"""The limits of senders, which the gates of the endpoints ask (`telemeter.web.upload`).

`ratelimit` decides whether a cluster may upload now, in all processes of a server; `replicas` asks
what other servers have decided. `inflight` decides how many bytes of requests a sender may have
held.
"""
