"""The evidence study: where does a hypergradient help, beyond every control and the simple rivals?"""
