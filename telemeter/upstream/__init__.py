"""The way to the upstream: the forwarder, its batches, and its circuit breaker."""
