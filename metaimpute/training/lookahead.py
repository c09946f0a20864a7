"""The look-ahead of a training step and its hypergradient: lines 8 to 10 of "Learning to Impute", Algorithm 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..batches import Batch, Labelled
from ..engine import Batches, Estimator, FunctionalModel, HypergradientResult, InnerOptimizer, MemoryPolicy, unroll
from ..engine.losses import StructuredLoss
from ..engine.noise import derive_seed, fixed_rng
from ..engine.pytree import Tree, detach, map_tensors, tensors, vjp_through, with_tensors
from ..methods.base import Method
from ..problems.base import BilevelProblem, ProblemError
from ..problems.returned import label_values
from ..recipes.rates import TRIES, Look, Rate, change_of, slope_of
from ..streams import Stream
from .compiled import compiled_inner
from .finite import Finite
from .loss_scale import LossScale
from .precision import ScaledLosses, hypergradient_scale_of
from .processes import ALONE, Processes


@dataclass(frozen=True)
class OuterSettings:
    """How the hypergradient is taken and applied.

    Attributes:
        steps, optimizer, memory: of the look-ahead. weight: factor of the hypergradient.
        schedule: see the module's docstring. relative: rescale the hypergradient to this multiple of the base gradient's
            norm (None: raw). psi: keep the imputer's graph while the estimator works, or evaluate it again afterwards: one
            forward pass more, less memory. shared: the base step's optimiser takes the outer step too, as in the authors' code.
        clip_norm: largest norm of a gradient that is applied to the network; longer ones are scaled down.
        outer_decays: whether the outer step decays weights as well; the base step has done so in this iteration.
        rate: how the look-ahead's learning rate goes on; None: it stays the optimizer's.
        compile: training losses, and the look-ahead's steps where the estimator unrolls them, through torch.compile.
    """

    estimator: Estimator
    optimizer: InnerOptimizer
    memory: MemoryPolicy
    steps: int = 1
    weight: float = 1.0
    schedule: Literal["algorithm1", "fused"] = "algorithm1"
    relative: float | None = None
    shared: bool = True
    psi: Literal["kept", "recomputed"] = "kept"
    clip_norm: float | None = None
    outer_decays: bool = False
    rate: Rate | None = None
    compile: bool = False


class Estimate(NamedTuple):
    """What a hypergradient is taken in, what the estimator found, and all that it saw; nothing where a problem needs none."""

    meta: Tree
    found: Tree | None = None
    result: HypergradientResult | None = None


class LookAhead:
    """What line 8 to 10 of Algorithm 1 ask of a bound problem, method and model.

    Args:
        meta: what an ``"own"`` problem learns, else None. seed: of all that is random. processes: over which
            batches are dealt out.
    """

    def __init__(
        self, model: FunctionalModel, method: Method, problem: BilevelProblem, settings: OuterSettings,
        meta: dict[str, Tensor] | None, seed: int, finite: Finite | None = None, processes: Processes = ALONE,
    ) -> None:  # fmt: skip
        self.model, self.method, self.problem, self.settings = model, method, problem, settings
        self.processes = processes
        self.meta, self.seed = meta, seed
        self.inner, self.outer = problem.structured_inner(), problem.structured_outer()
        device = next(iter(model.params.values())).device
        self.finite = Finite(device) if finite is None else finite
        self.scale = hypergradient_scale_of(model, problem, device)
        self.scaled = ScaledLosses(self.scale, settings.estimator, compiled_inner if settings.compile else None)

    def noise(self, stream: Stream, batch: Batch, part: int = 0) -> Any:
        """The random state of one part of the batch's step."""
        return fixed_rng(derive_seed(self.seed, stream, batch.step, part))

    @property
    def rate(self) -> float | None:
        """The look-ahead's learning rate as it is now, where it moves."""
        rate = self.settings.rate
        return rate.value if rate is not None and rate.moves else None

    @rate.setter
    def rate(self, value: float | None) -> None:
        if value is not None and self.settings.rate is not None:
            self.settings.rate.value = value

    def estimate(
        self,
        batch: Batch,
        holdout: Labelled,
        inner: StructuredLoss | None = None,
        *,
        measure: bool = False,
        fused: bool = False,
    ) -> Estimate:
        """The estimator on (theta_0, c), then one product through couple and start: d outer / d meta.

        Args:
            inner: the inner loss where it is not the problem's as it stands.
        """
        params, problem, settings = self.model.params, self.problem, self.settings
        if problem.learns == "network":
            meta: Tree = params
        elif problem.learns == "labels":
            with self.noise(Stream.COUPLE, batch):
                meta = label_values(problem, problem.batch_meta(params, batch))
            meta = map_tensors(lambda leaf: leaf.detach().requires_grad_(), meta)
        else:
            meta = self.meta
        if not problem.needs_estimate:
            return Estimate(meta)
        again = settings.psi == "recomputed"
        with torch.set_grad_enabled(not again), self.noise(Stream.COUPLE, batch):
            c = problem.couple(meta, batch)
        theta_0 = problem.start(meta, params)
        hyper = problem.inner_hyper(meta, settings.optimizer.hyper)
        rule = self._inner_optimizer(hyper)
        wrt_start = any(leaf.requires_grad for leaf in tensors(theta_0))
        value = problem.fused_value(c, batch) if fused else detach(c)
        for _ in range(TRIES):
            result = settings.estimator.estimate(
                *self.scaled.losses(inner or self.inner, self.outer), detach(theta_0), value, Batches([batch], holdout),
                self.scaled.rule(rule), settings.steps, settings.memory, wrt_start=wrt_start, measure_start=measure,
                seed=derive_seed(self.seed, Stream.ESTIMATE, batch.step), **self.finite.ledger(),
            )  # fmt: skip
            result = self.scaled.result(result)
            if not self._follow_rate(batch, holdout, theta_0, value, result):
                break
            rule = self._inner_optimizer(hyper)
        if self.scale is None:  # else it is a look-ahead that is left out
            self.finite.require(result.outer_loss, "hold-out loss after the look-ahead", batch)
        if again:
            with self.noise(Stream.COUPLE, batch):
                c = problem.couple(meta, batch)
        outputs, cotangents = {"c": c}, {"c": result.grad_c}
        if wrt_start:
            outputs["start"], cotangents["start"] = theta_0, result.grad_theta_0
        if hyper:
            learned = {name: result.grad_optimizer.get(name) for name in hyper}
            if any(slope is None for slope in learned.values()):
                raise ProblemError(
                    f"problem '{problem.name}' learns {', '.join(hyper)} of the inner steps, and estimator "
                    f"'{settings.estimator.name}' gives no gradient of that; exact, mixed and forward do"
                )
            outputs["hyper"], cotangents["hyper"] = hyper, learned
        if self.scale is None:
            return Estimate(meta, vjp_through(outputs, cotangents, meta), result)
        found = vjp_through(outputs, self.scale.multiplied(cotangents), meta)  # through the network in float16 again
        return Estimate(meta, self.scale.divided(found), result)

    def scale_of(self, estimate: Estimate) -> LossScale | None:
        """The factor that the losses of an estimate had, where they had one."""
        return None if estimate.result is None else self.scale

    def _inner_optimizer(self, hyper: dict[str, Any]) -> InnerOptimizer:
        rate, rule = self.settings.rate, self.settings.optimizer
        if hyper:
            return rule.with_hyper(**detach(hyper))
        if rate is None or not rate.moves:
            return rule
        value = next(iter(self.model.params.values())).new_tensor(rate.value) if rate.needs_slope else rate.value
        return rule.with_hyper(lr=value)

    def _follow_rate(
        self, batch: Batch, holdout: Labelled, theta_0: Tree, c: Tree, result: HypergradientResult
    ) -> bool:
        """Lets the look-ahead's learning rate go on; True where it asks for the look-ahead again."""
        rate = self.settings.rate
        if rate is None or not rate.moves:
            return False
        start, used = detach(theta_0), rate.value

        def change() -> Tensor:
            with torch.no_grad(), self.noise(Stream.RATE, batch):
                with self.processes.local():
                    change = change_of(*(self.outputs(params, holdout) for params in (start, result.theta_k)))
                return self.processes.root_mean_square(change)

        def after(value: float) -> Tensor:
            pairs = zip(tensors(start), tensors(result.theta_k), strict=True)
            point = with_tensors(start, [p + value / used * (end - p) for p, end in pairs])
            with torch.no_grad(), self.noise(Stream.RATE, batch):
                return self.outer(point, detach(c), holdout)

        return rate.follow(Look(batch.step, change, slope_of(result.grad_optimizer), after))

    def evaluated(self, module: nn.Module) -> nn.Module:
        """The network as it is tested, of which what is learned may be a part."""

        problem = self.processes.own(self.problem)
        inner = problem.structured_inner()  # of the rows at hand, whatever processes there are

        def adapt(theta_0: Tree, c: Tree, batch: Any, steps: int | None = None) -> Tree:
            rule = self._inner_optimizer({} if self.meta is None else hyper)
            with torch.inference_mode(False), torch.no_grad():
                start, coupling, rows = (map_tensors(torch.clone, detach(tree)) for tree in (theta_0, c, batch))
                end = unroll(inner, start, coupling, (rows,), rule, steps or self.settings.steps, differentiable=False)
            return end.params

        meta = detach(self.meta)
        hyper = {} if meta is None else problem.inner_hyper(meta, self.settings.optimizer.hyper)
        return problem.evaluated(module, meta, adapt)

    def outputs(self, params: Tree, labelled: Labelled) -> Tensor:
        """The network's outputs on labelled rows, as the loss has them."""
        return self.method.output.activate(self.model(params, labelled.inputs))
