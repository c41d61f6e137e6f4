"""Flags and files, parsed and checked before anything starts."""
