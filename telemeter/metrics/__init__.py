"""The data: wire formats, selectors, transforms.

Everything below is pure: bytes in, bytes out, no reactor, no I/O, and the time is an argument.
"""
