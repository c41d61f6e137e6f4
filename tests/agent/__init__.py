"""Tests of the cycle and of its steps, in memory."""
