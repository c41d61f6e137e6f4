"""The conversion of samples: uploads, remote writes and collections.

It is pure: bytes in, bytes out. tests/test_imports.py holds what it may import.
"""
