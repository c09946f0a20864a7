"""Gradients of functions that autograd cannot see, from their values at random points around one.

The gradient of the smoothed function ``E f(x + sigma u)``, u standard normal, is ``E f(x + sigma u) u / sigma`` (Rechenberg 1973;
Nesterov and Spokoiny, "Random gradient-free minimization of convex functions", 2017; Salimans et al., "Evolution strategies as a
scalable alternative to reinforcement learning", 2017). It has a slope where f is a staircase, as an accuracy is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from .arguments import require_tensors
from .linear_solvers.krylov import axpy
from .noise import derive_seed
from .pytree import Tree, detach, dot, map_tensors, norm, tensors, with_tensors, zeros_like


class BadSmoothing(UserError, ValueError):
    """Samples or a width from which no gradient can be estimated, or a function that returns no number."""


@dataclass(frozen=True)
class EvolutionEstimate:
    """What :func:`evolution_gradient` returns.

    Attributes:
        gradient: of the smoothed function, in the shape of the point. standard_error: of every component, one standard deviation
            of the mean over samples. standard_error_norm: the Euclidean length of that. evaluations: of the function.
    """

    gradient: Tree
    standard_error: Tree
    standard_error_norm: Tensor
    evaluations: int


def _number(value: Any) -> float:
    if isinstance(value, Tensor) and value.numel() != 1:
        raise BadSmoothing(
            f"the function returns one number, not a tensor of shape {list(value.shape)}; take its mean or sum"
        )
    try:
        found = float(value)
    except (TypeError, ValueError):
        raise BadSmoothing(f"the function returns one number, not {type(value).__name__}") from None
    if not math.isfinite(found):
        raise BadSmoothing(f"the function is {found} at a point around the one asked for; lower sigma, or bound it")
    return found


def evolution_gradient(
    function: Callable[[Tree], Any],
    at: Tree,
    *,
    sigma: float = 0.1,
    pairs: int = 16,
    antithetic: bool = True,
    control: Tree = None,
    seed: int = 0,
) -> EvolutionEstimate:
    """The gradient of ``E function(at + sigma u)`` from values alone: unbiased, with its standard error.

    An antithetic pair gives ``(f(x + sigma u) - f(x - sigma u)) u / (2 sigma)``, which has no part of f's even terms; without,
    two points of their own give ``(f(x + sigma u) - f(x)) u / sigma`` each, whose baseline f(x) takes off the largest of them:
    half the variance where the function is smooth over sigma (1.4 times the error of pairs less), more where even terms weigh.

    Args:
        function: ``tree -> number`` (a float, a numpy scalar, a tensor), called without a graph.
        at: a tree of real tensors. sigma: width of the smoothing, in the units of every entry; the bias against the gradient at
            the point itself is of second order in it, and zero where the function is quadratic.
        pairs: number of antithetic pairs, or of two points without them.
        control: a guess of the gradient, a tree in the shape of ``at``: ``control - <control, u> u``, whose mean is zero, is
            added to every sample, and the variance is that of the rest. Any guess is right, a good one saves samples.
        seed: of the directions: sample i is drawn from a seed derived from this and i.

    Raises:
        BadSmoothing: for a function that returns no finite number, or samples that give no error (fewer than 2).
    """
    require_tensors("the point", at)
    if not tensors(at) or any(leaf.is_complex() for leaf in tensors(at)):
        raise BadSmoothing(
            "evolution_gradient() takes a tree with real floating-point tensors; pass complex ones as torch.view_as_real(...)"
        )
    if not sigma > 0 or not math.isfinite(sigma):
        raise BadSmoothing(f"sigma must be a number above 0, not {sigma!r}")
    if not isinstance(pairs, int) or isinstance(pairs, bool) or pairs < 2:
        raise BadSmoothing(f"pairs must be a whole number of at least 2, which an error needs, not {pairs!r}")
    point = detach(at)
    if control is not None:
        require_tensors("control", control)
        if [leaf.shape for leaf in tensors(control)] != [leaf.shape for leaf in tensors(point)]:
            raise BadSmoothing("control= is a tree in the shape of the point")
        control = with_tensors(point, [c.detach().to(x) for c, x in zip(tensors(control), tensors(point), strict=True)])

    def value(step: float, u: Tree) -> float:
        with torch.no_grad():
            return _number(function(axpy(step, u, point)))

    baseline = 0.0 if antithetic else value(0.0, zeros_like(point))
    samples = pairs if antithetic else 2 * pairs
    mean, squares = zeros_like(point), zeros_like(point)
    for number in range(samples):
        u = direction(point, derive_seed(seed, number))
        if antithetic:
            slope = (value(sigma, u) - value(-sigma, u)) / (2 * sigma)
        else:
            slope = (value(sigma, u) - baseline) / sigma
        sample = map_tensors(lambda leaf, slope=slope: slope * leaf, u)  # type: ignore[misc]
        if control is not None:
            sample = axpy(-float(dot(control, u)), u, axpy(1.0, control, sample))
        before = axpy(-1.0, mean, sample)  # Welford's update: nothing is lost where samples are nearly equal
        mean = axpy(1.0 / (number + 1), before, mean)
        after = axpy(-1.0, mean, sample)
        moved = zip(tensors(squares), tensors(before), tensors(after), strict=True)
        squares = with_tensors(squares, [s + b * a for s, b, a in moved])
    error = map_tensors(lambda leaf: (leaf.clamp_min(0) / (samples * (samples - 1))).sqrt(), squares)
    return EvolutionEstimate(mean, error, norm(error), 2 * pairs if antithetic else 2 * pairs + 1)


def direction(like: Tree, seed: int) -> Tree:
    """Standard normal numbers in the shape of a tree, the same on every device."""
    rng = torch.Generator(device="cpu").manual_seed(seed)
    drawn = [
        torch.randn(leaf.shape, generator=rng, device="cpu", dtype=torch.float64).to(leaf) for leaf in tensors(like)
    ]
    return with_tensors(like, drawn)
