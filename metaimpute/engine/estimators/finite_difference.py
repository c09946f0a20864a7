"""DARTS's central difference: the mixed second derivative of the last inner step from two more gradients."""

from __future__ import annotations

import torch

from ..ambient import CannotDifferentiate
from ..cuts import Cuts
from ..optimizers import apply_updates
from ..products import product
from ..pytree import (
    Tree,
    as_leaves,
    detach,
    differentiable,
    gradient,
    none_as_zeros,
    norm,
    tensors,
    tree_map,
    with_tensors,
)
from ..repetition import NotRepeatable
from ..unroll import BilevelMap, run
from .base import Estimator, EstimatorError, register_estimator
from .mixed import add, pull_back_update
from .result import HypergradientResult


@register_estimator("finite_difference")
class FiniteDifference(Estimator):
    """Central difference of ``grad_c L`` along the direction that the outer gradient gives the last inner gradient.

    With ``w`` the cotangent of the inner gradient g at ``theta_{k-1}`` (``-lr dC_H/dtheta_k`` for SGD) and ``e = epsilon / |w|``:

        w^T dg/dc  is about  [grad_c L(theta_{k-1} + e w, c) - grad_c L(theta_{k-1} - e w, c)] / (2 e)

    (Liu et al., "DARTS", ICLR 2019, Eq. 7-8.) Earlier inner steps are taken as they are. Cost of k steps: k + 2 plain ones.

    Args:
        epsilon: length of the displacement in parameter space; the error is O(epsilon^2) plus rounding / epsilon.
    """

    epsilon: float = 0.01
    exact = False
    mixes = True
    start_path = False
    dropped = "dependence of all but the last inner step; O(epsilon^2) of that one"

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise EstimatorError(f"'finite_difference' needs a positive epsilon, not {self.epsilon:g}")

    def differentiate(self, problem: BilevelMap) -> HypergradientResult:
        c, hyper, last = detach(problem.c), detach(problem.optimizer.hyper), problem.steps - 1
        theta, state, first, losses = detach(problem.theta_0), None, None, []
        if last:
            before = run(problem, theta, c, hyper, mode="none", stop=last)
            theta, state, first, losses = detach(before.params), before.state, before.first_gradient, before.losses
        else:
            state = problem.optimizer.init(theta)
        at = as_leaves(theta)
        problem.ledger.watch = cuts = Cuts()
        loss = problem.inner(last, at, c)
        problem.ledger.watch = None
        if cuts.noise:
            raise NotRepeatable(
                f"the inner loss draws noise from {cuts.noise[0]}, which differs at the two points of "
                "'finite_difference'; draw it from torch's global generator, which is replayed, or beforehand"
            )
        grads = gradient(loss, at, unused="none")
        with torch.no_grad(), problem.drawing(last):
            updates, new_state = problem.optimizer.update(grads, state, theta, hyper)
            end = as_leaves(apply_updates(theta, updates))
        c_leaf = as_leaves(c)
        outer = problem.outer(end, c_leaf)
        direct = gradient(outer, {"theta": end, "c": c_leaf})
        no_cotangent = with_tensors(new_state, [torch.zeros_like(s) for s in tensors(new_state)])
        to_grads, _, _, to_hyper = pull_back_update(
            problem, last, grads, state, theta, (direct["theta"], no_cotangent), (end, new_state)
        )
        direction = none_as_zeros(to_grads, theta)
        length = norm(direction)
        grad_c = direct["c"]
        if float(length) != 0:  # NaN goes on, to be seen
            size = self.epsilon / length

            def slope(sign: float) -> Tree:
                displaced = with_tensors(
                    theta, [p + sign * size * w for p, w in zip(tensors(theta), tensors(direction), strict=True)]
                )
                return gradient(problem.coupled(last, displaced, leaf, point=None), leaf)

            with (
                torch.no_grad()
            ):  # what the displaced evaluations have nothing to be held against with: the same point again
                problem.inner(last, theta, c)
            leaf = as_leaves(c)
            pairs = zip(tensors(slope(+1.0)), tensors(slope(-1.0)), strict=True)
            difference = with_tensors(c, [(a - b) / (2 * size) for a, b in pairs])
            if cuts.gradients:
                self._require_uncut(problem, theta, c, direction, difference, cuts.gradients)
            grad_c = add(grad_c, difference)
        return HypergradientResult(
            grad_c=grad_c,
            grad_theta_0=None,
            grad_optimizer=to_hyper,
            outer_loss=outer.detach(),
            theta_k=detach(end),
            first_gradient=first if last else grads,
            diagnostics={"inner_losses": [*losses, loss.detach()], "epsilon": self.epsilon},
        )

    def _require_uncut(
        self, problem: BilevelMap, theta: Tree, c: Tree, direction: Tree, difference: Tree, how: list[str]
    ) -> None:
        """Where the loss cuts a gradient: that the cut does not matter, as when a value is only written down.

        Raises:
            CannotDifferentiate: when it does.
        """
        exact = product(problem, problem.steps - 1, theta, c, direction, wrt_theta=False).c
        gap = norm(add(difference, tree_map(lambda x: -x if differentiable(x) else x, exact)))
        if float(gap) > 0.05 * float(norm(exact)) + 1e-12:
            found = ", ".join(how)
            raise CannotDifferentiate(
                f"'finite_difference' moves the parameters, and the inner loss cuts their gradient ({found}): what is "
                "constant to the gradient moves along; use 'mixed', which takes the same product exactly"
            )
