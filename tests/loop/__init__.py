"""Tests of `telemeter.loop`."""
