"""What every estimator returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..pytree import Tree, differentiable, filled, leaves_of


@dataclass
class HypergradientResult:
    """What every estimator returns.

    Attributes:
        grad_c, grad_coupling: ``d outer / d c``, shaped like the coupling.
        grad_theta_0, grad_params: ``d outer / d theta_0`` through the whole trajectory, or None when it was not asked for.
        grad_optimizer: ``d outer / d hyper`` for each tensor-valued hyperparameter of the inner optimiser.
        outer_loss: outer loss at ``theta_k``, a scalar without graph.
        theta_k, params: end of the inner steps, without graph.
        first_gradient: inner gradient at ``theta_0`` over all parameters, where the estimator computed it, else None.
        diagnostics: inner losses, gradient norms, under ``"dropped"`` what the estimate leaves out, and under
            ``"reverse_over_reverse"`` the operator for which products were taken by reverse over reverse.
    """

    grad_c: Tree
    grad_theta_0: Tree | None
    grad_optimizer: dict[str, Any]
    outer_loss: Tensor
    theta_k: Tree
    first_gradient: Tree | None = None
    diagnostics: dict[str, Any] = field(default_factory=dict)

    @property
    def grad_coupling(self) -> Tree:
        """``grad_c``."""
        return self.grad_c

    @property
    def grad_params(self) -> Tree | None:
        """``grad_theta_0``."""
        return self.grad_theta_0

    @property
    def params(self) -> Tree:
        """``theta_k``."""
        return self.theta_k


def only_gradients(grads: Tree, values: Tree) -> Tree:
    """None in place of leaves that have no gradient (counts, masks), where trees carry the value itself along."""
    pairs = zip(leaves_of(grads), leaves_of(values), strict=True)
    return filled(values, [g if differentiable(v) else None for g, v in pairs])
