"""Tests of the hostile input, and all of it that is kept."""
