"""The server put together: its app, its clients, its endpoints, its workers."""
