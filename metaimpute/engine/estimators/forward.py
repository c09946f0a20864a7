"""Forward mode through the unroll: tangents are carried along with the parameters, and nothing is stored.

For a direction in (theta_0, c, hyper) every inner step has its gradient from one reverse pass and the gradient's tangent from one
product (:mod:`..products`); the update rule carries both on as dual numbers, and the outer loss's slope along the tangent of
theta_k is the directional derivative of the whole bilevel map.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ...streams import Stream
from ..ambient import forward_mode
from ..noise import derive_seed
from ..optimizers import apply_updates, hyper_tensors
from ..products import product, solid
from ..pytree import (
    Tree,
    as_leaves,
    detach,
    differentiable,
    dot,
    filled,
    gradient,
    leaves_of,
    norm,
    tensors,
    with_tensors,
    zeros_like,
)
from ..unroll import BilevelMap
from .base import Estimator, EstimatorError, register_estimator, whole_number
from .result import HypergradientResult

DIRECTION_STREAM = Stream.DIRECTION


class Pushed(NamedTuple):
    """One forward-mode pass: directional derivative, outer loss, end of the inner steps, inner losses, first gradient."""

    slope: Tensor
    outer: Tensor
    theta_k: Tree
    losses: list[Tensor]
    first_gradient: Tree


def _duals(tree: Tree, tangents: Tree) -> Tree:
    pairs = zip(tensors(tree), tensors(tangents), strict=True)
    return with_tensors(tree, [forward_ad.make_dual(leaf, d) for leaf, d in pairs])


def _parts(tree: Tree) -> tuple[Tree, Tree]:
    """Values and tangents of a tree of dual numbers; zeros where one has no tangent."""
    found = [forward_ad.unpack_dual(leaf) for leaf in tensors(tree)]
    tangents = [torch.zeros_like(f.primal) if f.tangent is None else solid(f.tangent) for f in found]
    return with_tensors(tree, [f.primal for f in found]), with_tensors(tree, tangents)


def push_forward(problem: BilevelMap, along: dict[str, Tree]) -> Pushed:
    """The directional derivative of the bilevel map along ``{"theta": ..., "c": ..., "hyper": ...}``.

    A missing part means no movement of it; ``"hyper"`` has the shape of
    :func:`~metaimpute.engine.optimizers.hyper_tensors`.
    """
    theta, c, hyper = detach(problem.theta_0), detach(problem.c), detach(dict(problem.optimizer.hyper))
    to_theta, to_c = along.get("theta", zeros_like(theta)), along.get("c")
    with forward_mode(), torch.no_grad():
        state, to_state = _parts(problem.optimizer.init(_duals(theta, to_theta)))
    losses, first = [], None
    leading = problem.optimizer.stages.index(True)
    for t in problem.moves:
        found = product(problem, t, theta, c, to_theta, to_c, wrt_c=False)
        losses.append(found.loss)
        first = found.slopes if t == leading else first
        with forward_mode(), torch.no_grad():
            values = _duals(hyper, along["hyper"]) if "hyper" in along else hyper
            pairs = zip(leaves_of(found.slopes), leaves_of(found.theta), strict=True)
            dual_grads = filled(theta, [forward_ad.make_dual(g, to) if differentiable(g) else g for g, to in pairs])
            dual_theta = _duals(theta, to_theta)
            with problem.drawing(t):
                updates, dual_state = problem.optimizer.update(dual_grads, _duals(state, to_state), dual_theta, values)
            theta, to_theta = _parts(apply_updates(dual_theta, updates))
            state, to_state = _parts(dual_state)
    end, c_leaf = as_leaves(theta), as_leaves(c)
    outer = problem.outer(end, c_leaf)
    slopes = gradient(outer, {"theta": end, "c": c_leaf})
    slope = dot(slopes["theta"], to_theta)
    if to_c is not None:
        slope = slope + dot(slopes["c"], to_c)
    return Pushed(slope, outer.detach(), theta, problem.first_of_each_step(losses), first)


def _one_hots(tree: Tree) -> Iterator[tuple[int, int, complex, Tree]]:
    """``(leaf number, entry, unit, direction)`` for every scalar of a tree; a complex one has the units 1 and i."""
    leaves = tensors(tree)
    for number, leaf in enumerate(leaves):
        for entry, unit in itertools.product(range(leaf.numel()), (1, 1j) if leaf.is_complex() else (1,)):
            direction = [torch.zeros_like(other, memory_format=torch.contiguous_format) for other in leaves]
            direction[number].view(-1)[entry].fill_(unit)
            yield number, entry, unit, with_tensors(tree, direction)


@register_estimator("forward")
class Forward(Estimator):
    """Forward mode, one pass per scalar of the coupling and of each learned hyperparameter. Exact.

    (Franceschi et al., "Forward and reverse gradient-based hyperparameter optimization", ICML 2017.) Cost 2 to 3 plain
    training runs per scalar, memory of one training step whatever k: for a handful of hyperparameters.

    Args:
        max_scalars: refuse more scalars than this.
    """

    max_scalars: int = 256
    start_path = False
    per_scalar = True
    staged = True

    def differentiate(self, problem: BilevelMap) -> HypergradientResult:
        c, hyper = problem.c, hyper_tensors(problem.optimizer.hyper)
        count = sum(leaf.numel() * (2 if leaf.is_complex() else 1) for leaf in [*tensors(c), *tensors(hyper)])
        if count > self.max_scalars:
            raise EstimatorError(
                f"'forward' takes one pass per scalar and {count:,} are asked for (max_scalars is {self.max_scalars}); "
                "use 'mixed' or 'exact'"
            )
        plain = torch.contiguous_format
        found = {
            part: [torch.zeros_like(x, memory_format=plain) for x in tensors(tree)]
            for part, tree in (("c", c), ("hyper", hyper))
        }
        last = None
        for part, tree in (("c", c), ("hyper", hyper)):
            for number, entry, unit, direction in _one_hots(tree):
                last = push_forward(problem, {part: direction})
                found[part][number].view(-1)[entry] += last.slope.to(found[part][number].real) * unit
        if last is None:
            last = push_forward(problem, {})
        return HypergradientResult(
            grad_c=with_tensors(c, found["c"]),
            grad_theta_0=None,
            grad_optimizer=with_tensors(hyper, found["hyper"]),
            outer_loss=last.outer,
            theta_k=last.theta_k,
            first_gradient=last.first_gradient,
            diagnostics={"inner_losses": last.losses, "passes": count},
        )


@register_estimator("forward_gradient")
class ForwardGradient(Estimator):
    """Mean over ``n`` random directions u of ``u * (directional derivative along u)``: unbiased, and cheap in memory.

    (Baydin et al., "Gradients without backpropagation", 2022.) Its variance grows with the number of scalars. Cost 2 to 3
    plain training runs per direction, memory of one training step whatever k.

    Args:
        n: directions. distribution: of their entries; ``rademacher`` (signs) has the smaller variance.
    """

    n: int = 1
    distribution: Literal["rademacher", "normal"] = "rademacher"
    exact = False
    per_scalar = True
    staged = True
    dropped = "nothing in expectation; one sample of a random estimate"

    def __post_init__(self) -> None:
        whole_number("forward_gradient", "n", self.n, 1)
        if self.distribution not in ("rademacher", "normal"):
            raise EstimatorError(f"'forward_gradient' draws rademacher or normal directions, not '{self.distribution}'")

    def _direction(self, tree: Tree, rng: torch.Generator) -> Tree:
        drawn = []
        for leaf in tensors(tree):
            u = torch.randn(leaf.shape, generator=rng, device="cpu", dtype=torch.float32)
            drawn.append((u.sign() if self.distribution == "rademacher" else u).to(leaf))
        return with_tensors(tree, drawn)

    def differentiate(self, problem: BilevelMap) -> HypergradientResult:
        moving: dict[str, Any] = {"c": detach(problem.c), "hyper": detach(hyper_tensors(problem.optimizer.hyper))}
        if problem.wrt_start:
            moving["theta"] = detach(problem.theta_0)
        if any(leaf.is_complex() for leaf in tensors(moving)):
            raise EstimatorError(
                "'forward_gradient' draws real directions; pass complex tensors as torch.view_as_real(...)"
            )
        mean, squares = zeros_like(moving), zeros_like(moving)
        last: Pushed | None = None
        for sample in range(self.n):
            rng = torch.Generator(device="cpu").manual_seed(derive_seed(problem.seed, DIRECTION_STREAM, sample))
            along = {part: self._direction(tree, rng) for part, tree in moving.items()}
            last = push_forward(problem, along)
            slope = last.slope
            for leaf, square, u in zip(tensors(mean), tensors(squares), tensors(along), strict=True):
                found = slope.to(leaf.device) * u  # a hyperparameter may stand on the CPU
                leaf += found / self.n
                square += found.square() / self.n
        assert last is not None
        diagnostics: dict[str, Any] = {"inner_losses": last.losses, "directions": self.n}
        if self.n > 1:
            spread = [
                (s - m.square()).clamp_min(0).div(self.n - 1).sqrt()
                for s, m in zip(tensors(squares["c"]), tensors(mean["c"]), strict=True)
            ]
            diagnostics["standard_error_norm"] = norm(spread)
        return HypergradientResult(
            grad_c=mean["c"],
            grad_theta_0=mean.get("theta"),
            grad_optimizer=mean["hyper"],
            outer_loss=last.outer,
            theta_k=last.theta_k,
            first_gradient=last.first_gradient,
            diagnostics=diagnostics,
        )
