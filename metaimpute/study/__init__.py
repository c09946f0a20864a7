"""Studies: several systems, perhaps a grid of settings, the same seeds for all, and what the runs say together."""
