"""The demo of the whole path, and the tools that start real programs for it and for the tests."""
