"""Benchmarks: what a hypergradient costs and how exact it is, and what a bilevel training step costs."""
