"""Backward sweep over the inner steps by forward-over-reverse products; one forward-mode pass for the first step.

Step t of the unroll is ``theta' = theta + U(g(theta, c), s, theta)`` with ``g = grad_theta L``. Given the cotangent of
``(theta', s')``, the update rule's own vector-Jacobian product gives a cotangent ``w`` of the gradient ``g``, and

    w^T dg/dtheta = d/d eps  grad_theta L(theta + eps w, c)        (a Hessian-vector product)
    w^T dg/dc     = d/d eps  grad_c     L(theta + eps w, c)

come together from one ``jvp`` of ``grad`` (Pearlmutter 1994). Where the start's gradient is not wanted, as for labels
imputed by a detached start, only the second is needed, and it equals ``grad_c [ d/d eps L(theta + eps w, c) ]``: one
forward-mode pass of the loss, then a reverse pass over the few operations that touch c. No graph of a gradient is ever
built, so memory is that of ordinary training (mixed-mode differentiation: Kemaev et al., "MixFlow-MG", 2025).

The products use ``torch.autograd.forward_ad`` and not ``torch.func.jvp``: inside torch.func, dropout fills its mask in
logical order, outside in memory order, so on a transposed input the same seed gives another mask and the replayed step
would silently be a different function.
"""

from __future__ import annotations

import torch
from torch.autograd import forward_ad

from ..functional import forward_mode
from ..optimizers import Hyper, apply_updates, hyper_as_leaves, hyper_tensors
from ..pytree import (
    Tree,
    as_leaves,
    detach,
    gradient,
    tensors,
    tree_flatten,
    tree_unflatten,
    vjp_through,
    with_tensors,
    zeros_like,
)  # fmt: skip
from ..unroll import BilevelMap
from .base import Estimator, HypergradientResult, register_estimator


def add(left: Tree, right: Tree) -> Tree:
    return with_tensors(left, [a + b for a, b in zip(tensors(left), tensors(right), strict=True)])


def pull_back_update(
    problem: BilevelMap, grads: Tree, state: Tree, theta: Tree, cotangents: tuple[Tree, Tree]
) -> tuple[Tree, Tree, Tree, Hyper]:
    """Vector-Jacobian product of one update rule with respect to (gradient, state, parameters, hyperparameters)."""
    inputs = (as_leaves(grads), as_leaves(state), as_leaves(theta), hyper_as_leaves(problem.optimizer.hyper))
    updates, new_state = problem.optimizer.update(*inputs)
    outputs = (apply_updates(inputs[2], updates), new_state)
    wanted = (*inputs[:3], hyper_tensors(inputs[3]))
    return vjp_through(outputs, cotangents, wanted)


def none_like(grads: Tree, values: Tree) -> Tree:
    """Zeros where the gradient was None, so that the tree can serve as a tangent."""
    flat, spec = tree_flatten(values)
    found = tree_flatten(grads)[0]
    return tree_unflatten([torch.zeros_like(v) if g is None else g for g, v in zip(found, flat, strict=True)], spec)


def _dual(tree: Tree, direction: Tree, *, requires_grad: bool) -> tuple[Tree, Tree]:
    """The tree as fresh leaves, and as dual numbers ``leaf + eps * direction`` on top of those leaves."""
    leaves = [leaf.detach().requires_grad_(requires_grad) for leaf in tensors(tree)]
    duals = [forward_ad.make_dual(leaf, w) for leaf, w in zip(leaves, tensors(direction), strict=True)]
    return with_tensors(tree, leaves), with_tensors(tree, duals)


def _tangents(tree: Tree) -> Tree:
    found = [forward_ad.unpack_dual(leaf) for leaf in tensors(tree)]
    return with_tensors(tree, [torch.zeros_like(d.primal) if d.tangent is None else d.tangent for d in found])


def label_product(problem: BilevelMap, t: int, theta: Tree, c: Tree, direction: Tree) -> Tree:
    """``w^T d(grad_theta L)/dc`` by one forward-mode pass of the coupled part of the loss."""
    c = as_leaves(c)
    with forward_mode():
        _, dual = _dual(theta, direction, requires_grad=False)
        tangent = forward_ad.unpack_dual(problem.coupled(t, dual, c)).tangent
        return zeros_like(c) if tangent is None else gradient(tangent, c)


def hessian_product(problem: BilevelMap, t: int, theta: Tree, c: Tree, direction: Tree) -> tuple[Tree, Tree]:
    """``w^T dg/dtheta`` and ``w^T dg/dc``: the tangents of one reverse pass over dual parameters."""
    c = as_leaves(c)
    with forward_mode():
        leaves, dual = _dual(theta, direction, requires_grad=True)
        slopes = gradient(problem.inner(t, dual, c), {"theta": leaves, "c": c})
        products = _tangents(slopes)
        return products["theta"], products["c"]


@register_estimator("mixed")
class Mixed(Estimator):
    """Backward sweep by forward-over-reverse products; for one step and a label coupling one forward-mode pass. Exact.

    Keeps ``theta_t``, the optimiser's state and the inner gradient of every step, never a graph of a gradient. Cost
    about 4 plain training steps per inner step, and for the last one swept without a wanted start gradient one
    forward-mode pass (about one training step).
    """

    unrolls = False

    def differentiate(self, problem: BilevelMap) -> HypergradientResult:
        c = detach(problem.c)
        theta, state = detach(problem.theta_0), problem.optimizer.init(detach(problem.theta_0))
        tape: list[tuple[Tree, Tree, Tree]] = []
        losses = []
        for t in range(problem.steps):
            at = as_leaves(theta)
            loss = problem.inner(t, at, c)
            grads = gradient(loss, at, unused="none")
            losses.append(loss.detach())
            tape.append((theta, state, grads))
            with torch.no_grad():
                updates, state = problem.optimizer.update(grads, state, theta, detach(problem.optimizer.hyper))
                theta = apply_updates(theta, updates)

        end, c_leaf = as_leaves(theta), as_leaves(c)
        outer = problem.outer(end, c_leaf)
        direct = gradient(outer, {"theta": end, "c": c_leaf})
        cotangent, grad_c = direct["theta"], direct["c"]
        state_cotangent = with_tensors(state, [torch.zeros_like(s) for s in tensors(state)])
        grad_hyper: Tree = None
        for t in reversed(range(problem.steps)):
            theta_t, state_t, grads_t = tape.pop()
            to_grads, state_cotangent, to_theta, to_hyper = pull_back_update(
                problem, grads_t, state_t, theta_t, (cotangent, state_cotangent)
            )
            grad_hyper = to_hyper if grad_hyper is None else add(grad_hyper, to_hyper)
            direction = none_like(to_grads, theta_t)
            if t == 0 and not problem.wrt_start:
                grad_c = add(grad_c, label_product(problem, t, theta_t, c, direction))
            else:
                through_theta, through_c = hessian_product(problem, t, theta_t, c, direction)
                cotangent, grad_c = add(to_theta, through_theta), add(grad_c, through_c)
            first_gradient = grads_t
        return HypergradientResult(
            grad_c=grad_c,
            grad_theta_0=cotangent if problem.wrt_start else None,
            grad_optimizer=grad_hyper,
            outer_loss=outer.detach(),
            theta_k=detach(theta),
            first_gradient=first_gradient,
            diagnostics={"inner_losses": losses},
        )
