"""Tests of the flags, and of the services that they make."""
