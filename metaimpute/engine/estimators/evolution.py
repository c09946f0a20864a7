"""Hypergradients from values alone: the whole of training is a black box whose outer loss may be anything that gives a number."""

from __future__ import annotations

from typing import Any, ClassVar

from ...streams import Stream
from ..evolution import BadSmoothing, evolution_gradient
from ..noise import derive_seed
from ..optimizers import hyper_tensors
from ..pytree import Tree, detach, norm, tensors, with_tensors
from ..unroll import BilevelMap, run
from .base import Estimator, EstimatorError, register_estimator, whole_number
from .result import HypergradientResult


@register_estimator("es")
class EvolutionStrategies(Estimator):
    """Evolution strategies: slopes of the outer loss at random points around coupling, hyperparameters and start.

    (Salimans et al. 2017; for unrolled training Metz et al., "Understanding and correcting pathologies", ICML 2019.) The
    estimate is of the gradient of the outer loss's mean under normal noise of width sigma, unbiased for that, and exists where
    the outer loss is an accuracy or a numpy function. Cost of k steps: 2 n plain runs (one more without pairs), memory of one
    training step. The diagnostics have ``standard_error``, in the shape of the coupling, and ``standard_error_norm``.

    Args:
        n: antithetic pairs. sigma: width of the noise, in the units of every entry. antithetic: False takes 2 n points of their
            own against the value at the centre, which has half the variance where the outer loss is smooth over sigma, and more
            where its curvature or jumps weigh more than its slope.
    """

    n: int = 16
    sigma: float = 0.01
    antithetic: bool = True
    exact = False
    mixes = True
    per_scalar = True
    staged = True
    gives_first_gradient = True
    slopes = False
    dropped: ClassVar[str] = "what is finer than sigma; a random estimate, with its standard error"

    def __post_init__(self) -> None:
        whole_number("es", "n", self.n, 2)
        if not 0 < self.sigma < float("inf"):
            raise EstimatorError(f"'es' needs sigma to be above 0, not {self.sigma!r}")

    def differentiate(self, problem: BilevelMap) -> HypergradientResult:
        hyper = problem.optimizer.hyper
        moving: dict[str, Any] = {"c": detach(problem.c), "hyper": detach(hyper_tensors(hyper))}
        if problem.wrt_start:
            moving["theta"] = detach(problem.theta_0)
        end = run(problem, detach(problem.theta_0), detach(problem.c), detach(hyper), mode="none")
        outer = problem.outer(detach(end.params), detach(problem.c)).detach()
        found: dict[str, Tree] = moving
        errors: dict[str, Tree] = {}
        if tensors(moving):
            try:
                estimate = evolution_gradient(
                    lambda at: problem.value(at.get("theta"), at["c"], {**hyper, **at["hyper"]}),
                    moving,
                    sigma=self.sigma,
                    pairs=self.n,
                    antithetic=self.antithetic,
                    seed=derive_seed(problem.seed, Stream.DIRECTION),
                )
            except BadSmoothing as error:
                raise EstimatorError(f"'es': {error}") from None
            found, errors = estimate.gradient, estimate.standard_error
        return HypergradientResult(
            grad_c=found["c"],
            grad_theta_0=found.get("theta"),
            grad_optimizer=with_tensors(hyper_tensors(hyper), tensors(found["hyper"])),
            outer_loss=outer,
            theta_k=detach(end.params),
            first_gradient=end.first_gradient,
            diagnostics={
                "inner_losses": end.losses,
                "pairs": self.n,
                "standard_error": errors.get("c"),
                "standard_error_norm": norm(errors.get("c")),
                "standard_error_optimizer": errors.get("hyper"),
                "standard_error_start": errors.get("theta"),
            },
        )
