"""Forward mode through the unroll: tangents are carried along with the parameters, and nothing is stored.

For a direction in (theta_0, c, hyper) every inner step is taken on dual numbers: the reverse pass over dual parameters
gives the gradient and its tangent (forward over reverse), the update rule carries both on, and the outer loss's tangent at
the end is the directional derivative of the whole bilevel map.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..functional import derive_seed, forward_mode
from ..optimizers import apply_updates, hyper_tensors
from ..pytree import (
    Tree,
    detach,
    differentiable,
    gradient,
    norm,
    tensors,
    tree_map,
    with_tensors,
    zeros_like,
)  # fmt: skip
from ..unroll import BilevelMap
from .base import Estimator, EstimatorError, HypergradientResult, register_estimator, whole_number

DIRECTION_STREAM = -2


class Pushed(NamedTuple):
    """One forward-mode pass: directional derivative, outer loss, end of the inner steps, inner losses, first gradient."""

    slope: Tensor
    outer: Tensor
    theta_k: Tree
    losses: list[Tensor]
    first_gradient: Tree


def _with_tangent(tree: Tree, direction: Tree) -> Tree:
    pairs = zip(tensors(tree), tensors(direction), strict=True)
    return with_tensors(tree, [forward_ad.make_dual(leaf, d) for leaf, d in pairs])


def _fresh_leaves(tree: Tree) -> tuple[Tree, Tree]:
    """Primal leaves that require a gradient, and dual numbers on top of them with the tree's tangents."""
    found = [forward_ad.unpack_dual(leaf) for leaf in tensors(tree)]
    leaves = [f.primal.detach().requires_grad_() for f in found]
    duals = [
        leaf if f.tangent is None else forward_ad.make_dual(leaf, f.tangent)
        for leaf, f in zip(leaves, found, strict=True)
    ]
    return with_tensors(tree, leaves), with_tensors(tree, duals)


def push_forward(problem: BilevelMap, along: dict[str, Tree]) -> Pushed:
    """The directional derivative of the bilevel map along ``{"theta": ..., "c": ..., "hyper": ...}``.

    A missing part means no movement of it; ``"hyper"`` has the shape of
    :func:`~metaimpute.engine.optimizers.hyper_tensors`.
    """
    theta_0, c, hyper = detach(problem.theta_0), detach(problem.c), detach(dict(problem.optimizer.hyper))
    losses, first = [], None
    with forward_mode():
        theta = _with_tangent(theta_0, along["theta"]) if "theta" in along else theta_0
        c = _with_tangent(c, along["c"]) if "c" in along else c
        if "hyper" in along:
            moving = iter(tensors(along["hyper"]))
            hyper = tree_map(lambda h: forward_ad.make_dual(h, next(moving)) if differentiable(h) else h, hyper)
        state = problem.optimizer.init(theta_0)
        for t in range(problem.steps):
            leaves, dual = _fresh_leaves(theta)
            loss = problem.inner(t, dual, c)
            grads = gradient(loss, leaves, unused="none")
            losses.append(forward_ad.unpack_dual(loss.detach()).primal)
            if t == 0:
                first = tree_map(lambda g: forward_ad.unpack_dual(g).primal if isinstance(g, Tensor) else g, grads)
            with torch.no_grad():
                updates, state = problem.optimizer.update(grads, state, theta, hyper)
                theta = apply_updates(theta, updates)
        with torch.no_grad():
            value = forward_ad.unpack_dual(problem.outer(theta, c))
            theta_k = with_tensors(theta, [forward_ad.unpack_dual(leaf).primal for leaf in tensors(theta)])
        slope = torch.zeros_like(value.primal) if value.tangent is None else value.tangent
        return Pushed(slope.clone(), value.primal.clone(), detach(theta_k), losses, first)


def _one_hots(tree: Tree) -> Iterator[tuple[int, int, Tree]]:
    """``(leaf number, entry, direction)`` for every scalar of a tree."""
    leaves = tensors(tree)
    for number, leaf in enumerate(leaves):
        for entry in range(leaf.numel()):
            direction = [torch.zeros_like(other, memory_format=torch.contiguous_format) for other in leaves]
            direction[number].view(-1)[entry] = 1
            yield number, entry, with_tensors(tree, direction)


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

    def differentiate(self, problem: BilevelMap) -> HypergradientResult:
        c, hyper = problem.c, hyper_tensors(problem.optimizer.hyper)
        count = sum(leaf.numel() for leaf in [*tensors(c), *tensors(hyper)])
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
            for number, entry, direction in _one_hots(tree):
                last = push_forward(problem, {part: direction})
                found[part][number].view(-1)[entry] = last.slope.to(found[part][number])
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
    dropped = "nothing in expectation; one sample of a random estimate"

    def __post_init__(self) -> None:
        whole_number("forward_gradient", "n", self.n, 1)
        if self.distribution not in ("rademacher", "normal"):
            raise EstimatorError(f"'forward_gradient' draws rademacher or normal directions, not '{self.distribution}'")

    def _direction(self, tree: Tree, rng: torch.Generator) -> Tree:
        drawn = []
        for leaf in tensors(tree):
            u = torch.randn(leaf.shape, generator=rng)
            drawn.append((u.sign() if self.distribution == "rademacher" else u).to(leaf))
        return with_tensors(tree, drawn)

    def differentiate(self, problem: BilevelMap) -> HypergradientResult:
        moving: dict[str, Any] = {"c": detach(problem.c), "hyper": detach(hyper_tensors(problem.optimizer.hyper))}
        if problem.wrt_start:
            moving["theta"] = detach(problem.theta_0)
        mean, squares = zeros_like(moving), zeros_like(moving)
        last: Pushed | None = None
        for sample in range(self.n):
            rng = torch.Generator().manual_seed(derive_seed(problem.seed, DIRECTION_STREAM, sample))
            along = {part: self._direction(tree, rng) for part, tree in moving.items()}
            last = push_forward(problem, along)
            slope = last.slope
            for leaf, square, u in zip(tensors(mean), tensors(squares), tensors(along), strict=True):
                leaf += slope * u / self.n
                square += (slope * u).square() / self.n
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
