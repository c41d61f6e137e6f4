"""Tests that start the real daemons, against a real Prometheus where one is needed."""
