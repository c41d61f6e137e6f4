"""The answers of the daemons: a module for each group of paths, and in `site/` the guarded site."""
