"""Wire formats of samples, selectors and compression; pure: bytes in, bytes out."""
