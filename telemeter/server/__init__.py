"""How a server is put together."""
