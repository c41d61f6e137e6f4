"""The server put together: its app, its clients, its endpoints, its workers.

`app` lists what runs, in start order; it stops in the reverse order. `endpoints` says which route
has which gate, handler and upstream.
"""
