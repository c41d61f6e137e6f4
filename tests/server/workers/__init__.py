"""Several processes that answer clients."""
