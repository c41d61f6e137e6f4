"""Requests to other servers, and TLS and addresses, which the listeners use too."""
