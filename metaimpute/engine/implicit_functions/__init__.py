"""Implicit differentiation: solutions as differentiable functions of what their problems depended on."""
