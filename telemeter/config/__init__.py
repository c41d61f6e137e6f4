"""Flags, files and the environment, checked before anything starts, as typed configurations."""
