"""Hostile input for everything that decodes: `make fuzz`. See docs/testing.md."""
