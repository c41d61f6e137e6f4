"""The conversion of samples: uploads, remote writes and collections.

`engine` chooses, for each, between the reference and its compiled twin (`_*.pyx`). The room is
pure: bytes in, bytes out. It imports `telemeter.samples`, and of other packages only those without
a reactor, I/O or a clock, which tests/test_imports.py lists (`PURE_IMPORTS`). Two files import
`os` besides: `engine` for one environment variable (`TELEMETER_TRANSCODER`), and `_table`, which
compiled modules include, for the key of its hash (`os.urandom`).
"""
