"""Training loops as people write them, in a differentiable `with` block on the user's own module."""
