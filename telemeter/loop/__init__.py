"""The event loop, and the two clocks that everything else is timed by."""
