"""Reverse mode through the whole unroll (MAML's full gradient; Maclaurin et al. 2015, Finn et al. 2017)."""

from __future__ import annotations

from ..optimizers import hyper_as_leaves, hyper_tensors
from ..pytree import as_leaves, detach, gradient
from ..unroll import BilevelMap, Differentiation, run
from .base import Estimator, register_estimator, whole_number
from .result import HypergradientResult


def reverse(problem: BilevelMap, mode: Differentiation, plain_steps: int = 0) -> HypergradientResult:
    """Unrolls with the given treatment of inner gradients and takes one reverse pass over all of it.

    Args:
        plain_steps: that many first steps are taken without being differentiated.
    """
    hyper = hyper_as_leaves(problem.optimizer.hyper)
    theta_0, c, before, state = as_leaves(problem.theta_0), as_leaves(problem.c), None, None
    if plain_steps:
        before = run(problem, detach(theta_0), detach(c), detach(hyper), mode="none", stop=plain_steps)
        theta_0, state = as_leaves(before.params), before.state
    end = run(problem, theta_0, c, hyper, mode=mode, start=plain_steps, state=state)
    outer = problem.outer(end.params, c)
    wanted = {"c": c, "hyper": hyper_tensors(hyper), "theta": theta_0 if problem.wrt_start else None}
    grads = gradient(outer, wanted)
    return HypergradientResult(
        grad_c=grads["c"],
        grad_theta_0=grads["theta"],
        grad_optimizer=grads["hyper"],
        outer_loss=outer.detach(),
        theta_k=detach(end.params),
        first_gradient=(before or end).first_gradient,
        diagnostics={"inner_losses": [*(before.losses if before else []), *end.losses]},
    )


@register_estimator("exact")
class Exact(Estimator):
    """Reverse mode through k stored (or checkpointed) inner steps; exact.

    ``dC_H/dc`` by back-propagating through ``theta_{t+1} = theta_t + U(grad L(theta_t, c), s_t)``, which is Eq. 4 of the
    L2I paper for k = 1. Cost about 3 plain training steps per inner step, 4 when the memory policy recomputes.
    """

    uses_memory = True
    staged = True
    sharded = True

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
    staged = True
    sharded = True
    dropped = "second-order terms: inner gradients are constants"

    def differentiate(self, problem: BilevelMap) -> HypergradientResult:
        return reverse(problem, "first_order")


@register_estimator("truncated")
class Truncated(Estimator):
    """Reverse mode through the last ``h`` inner steps (Shaban et al., "Truncated back-propagation", AISTATS 2019).

    The steps before are taken as they are; their dependence on the coupling and the hyperparameters is dropped. Cost of an
    inner step: one plain training step, three for each of the last h. With ``h`` of at least k it is ``exact``.

    Args:
        h: number of last steps differentiated.
    """

    h: int = 1
    exact = False
    uses_memory = True
    staged = True
    sharded = True
    start_path = False
    dropped = "dependence of all but the last h inner steps"

    def __post_init__(self) -> None:
        whole_number("truncated", "h", self.h, 1)

    def differentiate(self, problem: BilevelMap) -> HypergradientResult:
        return reverse(problem, "full", plain_steps=max(0, problem.steps - self.h))
