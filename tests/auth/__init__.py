"""Tests of keys, tokens and the authorization server."""
