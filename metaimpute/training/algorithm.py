"""Algorithm 1 of "Learning to Impute" as one loop body, for every problem, method and estimator.

``algorithm1``: impute (line 4), base step (5-6), re-impute through psi (7), look-ahead and hold-out loss (8-10), outer step
(11). ``fused``: the base step's own gradient is the look-ahead's first inner gradient, and base gradient and
hypergradient are applied in one optimiser step, so nothing is computed twice and no second step is taken.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..batches import Batch, Imputation, Labelled
from ..engine import Batches, Estimator, FunctionalModel, HypergradientResult, InnerOptimizer, MemoryPolicy, unroll
from ..engine.losses import StructuredLoss
from ..engine.noise import derive_seed, fixed_rng
from ..engine.pytree import Tree, cosine, detach, gradient, map_tensors, norm, tensors, vjp_through, with_tensors
from ..errors import DIVERGED, UserError
from ..methods.base import Method, MethodError, State
from ..problems.base import BilevelProblem, ProblemError
from ..problems.returned import label_values, moved_values, numbers, single
from ..recipes.rates import TRIES, Look, Rate, change_of, slope_of
from ..streams import Stream
from .around import Watch, once_updating_buffers, watched, without_decay
from .diagnosis import of_imputation, of_lookahead
from .stopwatch import Stopwatch

_NO_GRADIENT = "returned a value that no parameter has a gradient of, a constant or one that was detached"


class Diverged(UserError, RuntimeError):
    """A loss or gradient that is not finite. Ends a command with exit code 4."""

    exit_code = DIVERGED
    prefix = "training diverged: "


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


class Estimate(NamedTuple):
    """What a hypergradient is taken in, what the estimator found, and all that it saw; nothing where a problem needs none."""

    meta: Tree
    found: Tree | None = None
    result: HypergradientResult | None = None


class Algorithm1:
    """One training step for a bound problem, method and model.

    Args:
        optimizer: takes the base step, and the outer step when shared. outer_optimizer: takes the outer step otherwise,
            and moves what an ``"own"`` problem learns. meta: what an ``"own"`` problem learns, else None.

    Attributes:
        stopwatch: seconds in ``imputation``, ``base`` and ``hypergradient`` (psi, look-ahead, outer step). A fused step whose
            base gradient is the look-ahead's counts as ``hypergradient`` whole.
    """

    def __init__(
        self, model: FunctionalModel, method: Method, problem: BilevelProblem, settings: OuterSettings,
        optimizer: torch.optim.Optimizer, outer_optimizer: torch.optim.Optimizer | None,
        meta: dict[str, Tensor] | None, seed: int,
    ) -> None:  # fmt: skip
        self.model, self.method, self.problem, self.settings = model, method, problem, settings
        self.optimizer, self.outer_optimizer, self.meta, self.seed = optimizer, outer_optimizer, meta, seed
        self.inner, self.outer = problem.structured_inner(), problem.structured_outer()
        self.state: State = method.init_state(model.params)
        self.stopwatch = Stopwatch(next(iter(model.params.values())).device)

    def step(
        self, batch: Batch, holdout: Labelled | None, *, measure: bool = False, watch: Watch | None = None
    ) -> dict[str, Tensor | float]:
        """Trains on one set of batches and returns what was measured.

        Args:
            holdout: needed by every problem that learns something. measure: also compute diagnostics that cost extra.
            watch: called on the hold-out batch just before and just after the label update (the outer step, or the one
                step of a fused schedule); what it returns is among the measurements, as ``update_*_before`` and ``_after``.

        Raises:
            Diverged: when a loss is not finite; parameters are then those before the offending update.
        """
        with self.stopwatch("imputation"):
            batch = self.prepare(batch)
        metrics: dict[str, Tensor | float]
        base: Tree = None
        if self.problem.learns == "nothing" or holdout is None:
            metrics, _ = self._base_step(batch, measure)
        elif self.settings.schedule == "fused":
            with self.stopwatch("hypergradient"):
                metrics = watched(lambda: self._fused_step(batch, holdout, measure), watch, holdout)
        else:
            metrics = {"weight": self.method.weight_at(batch.progress)}
            if not self.problem.replaces_base_step:
                metrics, base = self._base_step(batch, measure)
            elif self.problem.learns == "own":
                self.optimizer.step()  # without gradients, for its learning-rate schedule
            with self.stopwatch("hypergradient"):
                metrics.update(watched(lambda: self._outer_step(batch, holdout, base, measure), watch, holdout))
        self.state = self.method.update_state(self.state, self.model.params, batch.step + 1)
        if measure:
            metrics.update(of_imputation(self.method, batch))
            if self.problem.learns != "labels":  # those of this batch have been measured where they were moved
                metrics.update(self._measured(self.model.params if self.meta is None else self.meta))
        return metrics

    def prepare(self, batch: Batch) -> Batch:
        """The batch as base step and look-ahead share it: the method's random choices made, labels imputed (line 4)."""
        rng = torch.Generator(device="cpu").manual_seed(derive_seed(self.seed, Stream.PREPARE, batch.step, 1))
        with torch.no_grad(), self._noise(Stream.PREPARE, batch):
            batch = self.method.prepare(self.model, self.model.params, batch, rng)
        return batch.with_imputed(self._impute(batch))

    def _impute(self, batch: Batch) -> Imputation:
        if not self.method.uses_unlabelled and not self.problem.draws_unlabelled:
            n, where = len(batch.unlabelled.index), batch.unlabelled.index.device
            size = self.method.output.size
            return Imputation(torch.zeros(n, size, device=where), torch.zeros(n, device=where))
        with torch.no_grad(), self._noise(Stream.BASE, batch, 1):
            return self.method.impute(self.model, self.model.params, batch.unlabelled, self.state)

    def _noise(self, stream: Stream, batch: Batch, part: int = 0) -> Any:
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

    # base step -------------------------------------------------------------------------------------------------------

    def _base_gradient(self, batch: Batch) -> tuple[Tensor, Tree]:
        params = self.model.params
        with self.stopwatch("base"):
            with self._noise(Stream.BASE, batch), self.model.updating_buffers():
                loss = self._base_loss(params, batch)
            _require_finite(loss, "base loss", batch)
            return loss.detach(), gradient(loss, params, unused="none")

    def _base_loss(self, params: Tree, batch: Batch) -> Tensor:
        """The base method's loss, or that of an ``"own"`` problem at what it has learned so far."""
        if self.meta is None:
            loss = self.method.loss(self.model, params, batch)
            if not loss.requires_grad:
                raise MethodError(f"method '{self.method.name}': loss(model, params, batch) {_NO_GRADIENT}")
            return loss
        return self._trained_loss(params, detach(self.meta), batch)

    def _trained_loss(self, params: Tree, meta: Tree, batch: Batch) -> Tensor:
        loss = self.problem.trained_loss(params, meta, batch)
        if not loss.requires_grad:
            raise ProblemError(f"problem '{self.problem.name}': trained_loss(params, meta, batch) {_NO_GRADIENT}")
        return loss

    def _base_step(self, batch: Batch, measure: bool) -> tuple[dict[str, Tensor | float], Tree]:
        loss, base = self._base_gradient(batch)
        with self.stopwatch("base"):
            self._apply(base, self.optimizer, "base gradient", batch)
        metrics: dict[str, Tensor | float] = {"loss": loss, "weight": self.method.weight_at(batch.progress)}
        if measure:
            metrics["base_gradient_norm"] = norm(base)
        return metrics, base

    def _apply(
        self, grads: Tree, optimizer: torch.optim.Optimizer, what: str, batch: Batch, decays: bool = True
    ) -> None:
        size = norm(grads)
        _require_finite(size, f"norm of the {what}", batch)
        limit = self.settings.clip_norm
        scale = None if limit is None else (limit / size).clamp(max=1.0)
        for name, param in self.model.params.items():
            param.grad = grads[name] if scale is None or grads[name] is None else grads[name] * scale
        try:
            with nullcontext() if decays else without_decay(optimizer):
                optimizer.step()
        except RuntimeError as error:
            if "overflow" not in str(error):
                raise
            raise Diverged(f"the step along the {what} overflows at step {batch.step}") from None
        optimizer.zero_grad(set_to_none=True)

    # outer step ------------------------------------------------------------------------------------------------------

    def _estimate(
        self, batch: Batch, holdout: Labelled, inner: StructuredLoss, *, measure: bool = False, fused: bool = False
    ) -> Estimate:
        """The estimator on (theta_0, c), then one product through couple and start: d outer / d meta."""
        params, problem, settings = self.model.params, self.problem, self.settings
        if problem.learns == "network":
            meta: Tree = params
        elif problem.learns == "labels":
            with self._noise(Stream.COUPLE, batch):
                meta = label_values(problem, problem.batch_meta(params, batch))
            meta = map_tensors(lambda leaf: leaf.detach().requires_grad_(), meta)
        else:
            meta = self.meta
        if not problem.needs_estimate:
            return Estimate(meta)
        again = settings.psi == "recomputed"
        with torch.set_grad_enabled(not again), self._noise(Stream.COUPLE, batch):
            c = problem.couple(meta, batch)
        theta_0 = problem.start(meta, params)
        hyper = problem.inner_hyper(meta, settings.optimizer.hyper)
        rule = self._inner_optimizer(hyper)
        wrt_start = any(leaf.requires_grad for leaf in tensors(theta_0))
        value = problem.fused_value(c, batch) if fused else detach(c)
        for _ in range(TRIES):
            result = settings.estimator.estimate(
                inner, self.outer, detach(theta_0), value, Batches([batch], holdout), rule, settings.steps,
                settings.memory, seed=derive_seed(self.seed, Stream.ESTIMATE, batch.step), wrt_start=wrt_start,
                measure_start=measure,
            )  # fmt: skip
            if not self._follow_rate(batch, holdout, theta_0, value, result):
                break
            rule = self._inner_optimizer(hyper)
        _require_finite(result.outer_loss, "hold-out loss after the look-ahead", batch)
        if again:
            with self._noise(Stream.COUPLE, batch):
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
        return Estimate(meta, vjp_through(outputs, cotangents, meta), result)

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
            with torch.no_grad(), self._noise(Stream.RATE, batch):
                return change_of(*(self._outputs(params, holdout) for params in (start, result.theta_k)))

        def after(value: float) -> Tensor:
            pairs = zip(tensors(start), tensors(result.theta_k), strict=True)
            point = with_tensors(start, [p + value / used * (end - p) for p, end in pairs])
            with torch.no_grad(), self._noise(Stream.RATE, batch):
                return self.outer(point, detach(c), holdout)

        return rate.follow(Look(batch.step, change, slope_of(result.grad_optimizer), after))

    def evaluated(self, module: nn.Module) -> nn.Module:
        """The network as it is tested, of which what is learned may be a part."""

        def adapt(theta_0: Tree, c: Tree, batch: Any, steps: int | None = None) -> Tree:
            rule = self._inner_optimizer({} if self.meta is None else hyper)
            with torch.inference_mode(False), torch.no_grad():
                start, coupling, rows = (map_tensors(torch.clone, detach(tree)) for tree in (theta_0, c, batch))
                end = unroll(
                    self.inner, start, coupling, (rows,), rule, steps or self.settings.steps, differentiable=False
                )
            return end.params

        meta = detach(self.meta)
        hyper = {} if meta is None else self.problem.inner_hyper(meta, self.settings.optimizer.hyper)
        return self.problem.evaluated(module, meta, adapt)

    def _outputs(self, params: Tree, labelled: Labelled) -> Tensor:
        return self.method.output.activate(self.model(params, labelled.inputs))

    def _direction(
        self, batch: Batch, holdout: Labelled, estimate: Estimate, base: Tree, measure: bool
    ) -> tuple[Tree, dict[str, Tensor | float]]:
        """The hypergradient as it is applied, controlled and scaled to the ``base`` gradient, and diagnostics."""
        problem, params, result = self.problem, self.model.params, estimate.result
        rng = torch.Generator(device="cpu").manual_seed(derive_seed(self.seed, Stream.CONTROL, batch.step))
        point = result.theta_k if problem.controls_at == "end" and result is not None else params
        with self._noise(Stream.CONTROL, batch):
            found = problem.control(estimate.found, point, holdout, rng)
        metrics: dict[str, Tensor | float] = {}
        if measure:
            metrics["hypergradient_norm"] = norm(found)
            metrics["lookahead_weight"] = self.method.lookahead_weight(batch.progress)
            if base is not None:
                metrics["base_gradient_norm"] = norm(base)
            if problem.learns == "network" and base is not None:
                full = {n: torch.zeros_like(p) if base[n] is None else base[n] for n, p in params.items()}
                metrics["cosine"] = cosine(full, found)
            if result is not None:
                metrics["holdout_before"] = result.diagnostics["outer_loss_start"]
                metrics["holdout_after"] = result.outer_loss
                with self._noise(Stream.DIAGNOSIS, batch):
                    metrics.update(of_lookahead(problem, params, batch, holdout, found, result))
            if self.settings.rate is not None and self.settings.rate.moves:
                metrics["inner_lr"] = self.settings.rate.value
        scale: Any = self.settings.weight
        if self.settings.relative is not None:
            size = norm(found)
            ratio = self.settings.relative * norm(base) / torch.where(size > 0, size, 1.0)
            scale = scale * torch.where(size > 0, ratio, 0.0)
        return map_tensors(lambda g: g * scale, found), metrics

    def _outer_step(self, batch: Batch, holdout: Labelled, base: Tree, measure: bool) -> dict[str, Tensor | float]:
        if self.problem.remasks:
            with torch.no_grad(), self._noise(Stream.MASK, batch):
                again = self.method.impute(self.model, self.model.params, batch.unlabelled, self.state)
            batch = batch.with_imputed(Imputation(batch.imputation.labels, again.weights))
        estimate = self._estimate(batch, holdout, self.inner, measure=measure)
        found, metrics = self._direction(batch, holdout, estimate, base, measure)
        if base is None and estimate.result is not None:
            metrics["loss"] = estimate.result.outer_loss
        if self.problem.learns == "network":
            decays = base is None or self.settings.outer_decays
            self._apply(found, self._outer_optimizer(), "hypergradient", batch, decays)
        elif self.problem.learns == "own":
            self._move_own(found)
        else:
            moved = moved_values(self.problem, estimate.meta, self.problem.move(estimate.meta, found))
            params, only = self.model.params, base is None
            with self._noise(Stream.TRAINED, batch), self.model.updating_buffers(only):
                loss = self._trained_loss(params, moved, batch)
            _require_finite(loss, "loss on the moved labels", batch)
            grads = gradient(loss, params, unused="none")
            self._apply(
                grads,
                self._outer_optimizer(),
                "gradient on the moved labels",
                batch,
                only or self.settings.outer_decays,
            )
            if only:
                metrics["loss"] = loss.detach()
            if measure:
                change = self.problem.label_change(estimate.meta, moved)
                metrics["label_change"] = single(self.problem, "label_change(before, after)", change)
                metrics.update(self._measured(moved))
        return metrics

    def _measured(self, meta: Tree) -> dict[str, Any]:
        return numbers(self.problem, "measure(meta)", self.problem.measure(meta))

    def _outer_optimizer(self) -> torch.optim.Optimizer:
        if self.settings.shared or self.outer_optimizer is None:
            return self.optimizer
        return self.outer_optimizer

    def _move_own(self, found: Tree) -> None:
        assert self.outer_optimizer is not None and self.meta is not None
        for name, leaf in self.meta.items():
            leaf.grad = found[name]
        self.outer_optimizer.step()
        self.outer_optimizer.zero_grad(set_to_none=True)

    # fused -----------------------------------------------------------------------------------------------------------

    def _fused_step(self, batch: Batch, holdout: Labelled, measure: bool) -> dict[str, Tensor | float]:
        shares = self._shares_gradient(batch)
        inner = once_updating_buffers(self.inner, self.model) if shares else self.inner
        estimate = self._estimate(batch, holdout, inner, measure=measure, fused=True)
        base: Tree
        if shares and estimate.result is not None:
            loss, base = estimate.result.diagnostics["inner_losses"][0], estimate.result.first_gradient
        else:
            loss, base = self._base_gradient(batch)
        found, metrics = self._direction(batch, holdout, estimate, base, measure)
        total = base
        if self.problem.learns == "network":
            total = {n: g if base[n] is None else base[n] + g for n, g in found.items()}
        else:
            self._move_own(found)
        _require_finite(loss, "base loss", batch)
        self._apply(total, self.optimizer, "gradient", batch)
        return {"loss": loss, "weight": self.method.weight_at(batch.progress), **metrics}

    def _shares_gradient(self, batch: Batch) -> bool:
        """Whether the look-ahead's first inner gradient is the base step's."""
        if not (self.problem.needs_estimate and self.settings.estimator.gives_first_gradient):
            return False
        progress, method = batch.progress, self.method
        if self.problem.learns == "own":
            return self.problem.inner_is_base_loss
        return self.problem.inner_is_base_loss and method.lookahead_weight(progress) == method.weight_at(progress)


def _require_finite(value: Tensor, what: str, batch: Batch) -> None:
    if not bool(torch.isfinite(value)):
        raise Diverged(f"{what} is {float(value.detach())} at step {batch.step}")
