"""The way to the upstream, to which samples are forwarded."""
