"""One module per daemon: its flags and its service. Flags are read here and nowhere else."""
