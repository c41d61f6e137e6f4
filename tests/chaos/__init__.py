"""Tests of the bad day."""
