"""The event loop: clocks, timeouts, turns, threads, waiters, signals, Twisted's private names."""
