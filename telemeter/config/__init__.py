"""Flags, files and the environment, as typed configurations.

They are checked before anything starts, and read again for a reload (`reload`, `disk`).
`listen_address` makes endpoints of the addresses that flags give.
"""
