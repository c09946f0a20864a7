"""A run folder: what its files are called, how they are written and read back, and how its run was begun."""
