"""Tests of log lines and of the metrics page."""
