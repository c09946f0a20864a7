"""Algorithm 1 as one loop: batches, steps, averaging, evaluation, checkpoints, records."""
