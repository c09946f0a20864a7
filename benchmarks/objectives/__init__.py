"""Every bilevel objective against a claim of its paper. One file per objective; ``python -m benchmarks.objectives`` runs them."""
