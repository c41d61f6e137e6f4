"""Tests of the endpoints and of the site that guards them, in memory."""
