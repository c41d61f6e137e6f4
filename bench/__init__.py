"""The benchmark: what a request costs, next to other programs and to other ways of doing it."""
