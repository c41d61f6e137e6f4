"""The embedded store of the latest samples."""
