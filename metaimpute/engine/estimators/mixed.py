"""Backward sweep over the inner steps by products with second derivatives; one forward-mode pass for the first step.

Step t of the unroll is ``theta' = theta + U(g(theta, c), s, theta)`` with ``g = grad_theta L``. Given the cotangent of
``(theta', s')``, the update rule's own vector-Jacobian product gives a cotangent ``w`` of the gradient ``g``, and

    w^T dg/dtheta = d/d eps  grad_theta L(theta + eps w, c)        (a Hessian-vector product)
    w^T dg/dc     = d/d eps  grad_c     L(theta + eps w, c)

come together from one product (:mod:`..products`). Where the start's gradient is not wanted, as for labels imputed by a detached
start, only the second is needed of the first step: one forward-mode pass of the loss, then a reverse pass over the few operations
that touch c (mixed-mode differentiation: Kemaev et al., "MixFlow-MG", 2025).
"""

from __future__ import annotations

import torch

from ..ambient import HooksChangeNothing
from ..optimizers import Hyper, hyper_as_leaves, hyper_tensors, take_step
from ..optimizers.base import is_closed
from ..products import product
from ..pytree import (
    Tree,
    as_leaves,
    detach,
    filled,
    gradient,
    leaves_of,
    map_tensors,
    none_as_zeros,
    tensors,
    vjp_through,
    with_tensors,
)
from ..repetition import GIVE_THE_SAME_ALWAYS, require_same_end
from ..unroll import BilevelMap
from .base import Estimator, register_estimator
from .result import HypergradientResult


def add(left: Tree, right: Tree) -> Tree:
    return with_tensors(left, [a + b for a, b in zip(tensors(left), tensors(right), strict=True)])


def as_is(tree: Tree) -> Tree:
    return tree


def map_stand_ins(tree: Tree) -> Tree:
    """Tensors of the same shapes that hold one number each."""
    return map_tensors(lambda leaf: leaf.new_zeros(()).expand_as(leaf), tree)


def pull_back_update(
    problem: BilevelMap,
    t: int,
    grads: Tree,
    state: Tree,
    theta: Tree,
    cotangents: tuple[Tree, Tree],
    end: tuple[Tree, Tree] | None = None,
) -> tuple[Tree, Tree, Tree, Hyper]:
    """Vector-Jacobian product of call ``t`` of the rule with respect to (gradient, state, parameters, hyperparameters).

    Args:
        end: the parameters and the state to which the call led.

    Raises:
        NotRepeatable: for a rule that leads elsewhere now.
    """
    inputs = (as_leaves(grads), as_leaves(state), as_leaves(theta), hyper_as_leaves(problem.optimizer.hyper))
    with problem.drawing(t):
        outputs = take_step(problem.optimizer, leaves_of(inputs[0]), *inputs[1:])
    if end is not None and not is_closed(problem.optimizer.update):
        require_same_end(outputs, (leaves_of(end[0]), end[1]), (theta, state), GIVE_THE_SAME_ALWAYS)
    wanted = (*inputs[:3], hyper_tensors(inputs[3]))
    grads, state, theta, hyper = vjp_through(outputs, cotangents, wanted)
    return grads, state, theta, hyper


@register_estimator("mixed")
class Mixed(Estimator):
    """Backward sweep of products; for one step and a label coupling one forward-mode pass. Exact.

    Products are forward over reverse wherever torch has right formulas for it, and reverse over reverse through other operators
    (SiLU, GroupNorm, solve), at the cost of ``exact``; ``diagnostics["reverse_over_reverse"]`` names the operator then.

    Keeps ``theta_t``, the optimiser's state and the inner gradient of every step, never a graph of a gradient; for ``sgd`` and
    ``momentum`` whose hyperparameters are not learned, ``theta_t`` alone. Cost
    about 4 plain training steps per inner step, and for the last one swept without a wanted start gradient one
    forward-mode pass (about one training step).
    """

    unrolls = False
    staged = True
    sharded = True

    def differentiate(self, problem: BilevelMap) -> HypergradientResult:
        c = detach(problem.c)
        theta, state = detach(problem.theta_0), problem.optimizer.init(detach(problem.theta_0))
        hyper = detach(problem.optimizer.hyper)
        # a linear rule's own derivative depends on no value, so that parameters are all there is to keep
        kept = map_stand_ins if problem.optimizer.options.get("linear") and not hyper_tensors(hyper) else as_is
        tape: list[tuple[Tree, Tree, Tree]] = []
        losses, first_gradient, leading = [], None, problem.optimizer.stages.index(True)
        for t in problem.moves:
            at = as_leaves(theta)
            problem.ledger.watch = HooksChangeNothing()
            loss = problem.inner(t, at, c)
            problem.ledger.watch = None
            grads = gradient(loss, at, unused="none")
            losses.append(loss.detach())
            tape.append((theta, kept(state), kept(grads)))
            first_gradient = grads if t == leading else first_gradient
            with torch.no_grad(), problem.drawing(t):
                flat, state = take_step(problem.optimizer, leaves_of(grads), state, theta, hyper)
                theta = filled(theta, flat)

        end, c_leaf = as_leaves(theta), as_leaves(c)
        outer = problem.outer(end, c_leaf)
        direct = gradient(outer, {"theta": end, "c": c_leaf})
        cotangent, grad_c = direct["theta"], direct["c"]
        del at, grads, direct  # copies of the parameters that nothing below needs
        state_cotangent = with_tensors(state, [torch.zeros_like(s) for s in tensors(state)])
        grad_hyper: Tree = None
        reached = (theta, state)
        for t in reversed(problem.moves):
            theta_t, state_t, grads_t = tape.pop()
            to_grads, state_cotangent, to_theta, to_hyper = pull_back_update(
                problem, t, grads_t, state_t, theta_t, (cotangent, state_cotangent), reached if kept is as_is else None
            )
            reached = (theta_t, state_t)
            grad_hyper = to_hyper if grad_hyper is None else add(grad_hyper, to_hyper)
            direction = none_as_zeros(to_grads, theta_t)
            onwards = t > 0 or problem.wrt_start
            found = product(problem, t, theta_t, c, direction, wrt_theta=onwards)
            grad_c = add(grad_c, found.c)
            if onwards:
                cotangent = add(to_theta, found.theta)
        if problem.wrt_start:  # through a state that starts at the parameters
            start = as_leaves(problem.theta_0)
            made = problem.optimizer.init(start)
            if any(leaf.requires_grad for leaf in tensors(made)):
                cotangent = add(cotangent, vjp_through(made, state_cotangent, start))
        return HypergradientResult(
            grad_c=grad_c,
            grad_theta_0=cotangent if problem.wrt_start else None,
            grad_optimizer=grad_hyper,
            outer_loss=outer.detach(),
            theta_k=detach(theta),
            first_gradient=first_gradient,
            diagnostics={"inner_losses": problem.first_of_each_step(losses)},
        )
