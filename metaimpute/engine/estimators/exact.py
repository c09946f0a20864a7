"""Reverse mode through the whole unroll (MAML's full gradient; Maclaurin et al. 2015, Finn et al. 2017)."""

from __future__ import annotations

from ..optimizers import hyper_as_leaves, hyper_tensors
from ..pytree import as_leaves, detach, gradient
from ..unroll import BilevelMap, Differentiation, run
from .base import Estimator, HypergradientResult, register_estimator


def reverse(problem: BilevelMap, mode: Differentiation) -> HypergradientResult:
    """Unrolls with the given treatment of inner gradients and takes one reverse pass over all of it."""
    theta_0, c, hyper = as_leaves(problem.theta_0), as_leaves(problem.c), hyper_as_leaves(problem.optimizer.hyper)
    end = run(problem, theta_0, c, hyper, mode=mode)
    outer = problem.outer(end.params, c)
    wanted = {"c": c, "hyper": hyper_tensors(hyper), "theta": theta_0 if problem.wrt_start else None}
    grads = gradient(outer, wanted)
    return HypergradientResult(
        grad_c=grads["c"],
        grad_theta_0=grads["theta"],
        grad_optimizer=grads["hyper"],
        outer_loss=outer.detach(),
        theta_k=detach(end.params),
        first_gradient=end.first_gradient,
        diagnostics={"inner_losses": end.losses},
    )


@register_estimator("exact")
class Exact(Estimator):
    """Reverse mode through k stored (or checkpointed) inner steps; exact.

    ``dC_H/dc`` by back-propagating through ``theta_{t+1} = theta_t + U(grad L(theta_t, c), s_t)``, which is Eq. 4 of the
    L2I paper for k = 1. Cost about 3 plain training steps per inner step, 4 when the memory policy recomputes.
    """

    def differentiate(self, problem: BilevelMap) -> HypergradientResult:
        return reverse(problem, "full")


@register_estimator("first_order")
class FirstOrder(Estimator):
    """Inner gradients taken as constants (first-order MAML, Finn et al. 2017; Nichol et al. 2018).

    ``grad_c`` holds only the outer loss's direct dependence on c; ``grad_theta_0`` is ``dC_H/dtheta_k`` carried through
    the update rule alone. A coupling that acts only through the inner loss, such as L2I's labels, gets zero.
    Cost 1 + 1/k plain training steps per inner step.
    """

    exact = False
    dropped = "second-order terms: inner gradients are constants"

    def differentiate(self, problem: BilevelMap) -> HypergradientResult:
        return reverse(problem, "first_order")
