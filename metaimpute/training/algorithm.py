"""Algorithm 1 of "Learning to Impute" as one loop body, for every problem, method and estimator.

``algorithm1``: impute (line 4), base step (5-6), re-impute through psi (7), look-ahead and hold-out loss (8-10), outer step
(11). ``fused``: the base step's own gradient is the look-ahead's first inner gradient, and base gradient and
hypergradient are applied in one optimiser step, so nothing is computed twice and no second step is taken.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ..batches import Batch, Imputation, Labelled
from ..engine import FunctionalModel
from ..engine.noise import derive_seed
from ..engine.pytree import Tree, cosine, detach, gradient, map_tensors, norm
from ..methods.base import Method, MethodError, State
from ..problems.base import BilevelProblem, ProblemError
from ..problems.returned import moved_values, numbers, single
from ..streams import Stream
from .around import Watch, once_updating_buffers, watched, without_decay
from .compiled import CompiledLoss
from .diagnosis import of_imputation, of_lookahead
from .finite import Diverged, Finite
from .lookahead import Estimate, LookAhead, OuterSettings
from .loss_scale import LossScale
from .precision import loss_scale_of, lowering
from .processes import ALONE, Processes
from .stopwatch import Stopwatch
from .updates import looks_late, take

_NO_GRADIENT = "returned a value that no parameter has a gradient of, a constant or one that was detached"


class Algorithm1:
    """One training step for a bound problem, method and model.

    Args:
        optimizer: takes the base step, and the outer step when shared. outer_optimizer: takes the outer step otherwise,
            and moves what an ``"own"`` problem learns. meta: what an ``"own"`` problem learns, else None.
        processes: over which batches are dealt out; each takes the joined batch's step.

    Attributes:
        stopwatch: seconds in ``imputation``, ``base`` and ``hypergradient`` (psi, look-ahead, outer step). A fused step whose
            base gradient is the look-ahead's counts as ``hypergradient`` whole.
    """

    def __init__(
        self, model: FunctionalModel, method: Method, problem: BilevelProblem, settings: OuterSettings,
        optimizer: torch.optim.Optimizer, outer_optimizer: torch.optim.Optimizer | None,
        meta: dict[str, Tensor] | None, seed: int, processes: Processes = ALONE,
    ) -> None:  # fmt: skip
        problem = processes.dealt(problem)
        self.model, self.method, self.problem, self.settings = model, method, problem, settings
        self.processes = processes
        self.optimizer, self.outer_optimizer, self.meta, self.seed = optimizer, outer_optimizer, meta, seed
        device = next(iter(model.params.values())).device
        self.finite = Finite(device, looks_late(device, (optimizer, outer_optimizer)))
        self.scale = loss_scale_of(model, device)
        self.lookahead = LookAhead(model, method, problem, settings, meta, seed, self.finite, processes)
        self.compiled = CompiledLoss(self._training_loss, model, "training loss") if settings.compile else None
        self.state: State = method.init_state(model.params)
        self.stopwatch = Stopwatch(device)

    def step(
        self, batch: Batch, holdout: Labelled | None, *, measure: bool = False, watch: Watch | None = None
    ) -> dict[str, Tensor | float]:
        """Trains on one set of batches and returns what was measured.

        Args:
            holdout: needed by every problem that learns something. measure: also compute diagnostics that cost extra.
            watch: called on the hold-out batch just before and just after the label update (the outer step, or the one
                step of a fused schedule); what it returns is among the measurements, as ``update_*_before`` and ``_after``.

        Raises:
            Diverged: when a loss is not finite; parameters are then those before the offending update. On an accelerator this
                may show later, in :meth:`settle`.
        """
        with lowering(self.model):
            metrics = self._step(batch, holdout, measure, watch)
        if measure:
            metrics.update(self._loss_scales())
        return metrics

    def settle(self) -> None:
        """Looks at what an accelerator has not been asked yet; before anything is logged, evaluated or saved.

        Raises:
            Diverged: when a loss or gradient of a step since the last look was not finite.
        """
        self.finite.settle()

    def _step(
        self, batch: Batch, holdout: Labelled | None, measure: bool, watch: Watch | None
    ) -> dict[str, Tensor | float]:
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
            metrics.update(of_imputation(self.method, self.processes.whole(batch)))
            if self.problem.learns != "labels":  # those of this batch have been measured where they were moved
                metrics.update(self._measured(self.model.params if self.meta is None else self.meta))
        return metrics

    def prepare(self, batch: Batch) -> Batch:
        """The batch as base step and look-ahead share it: the method's random choices made, labels imputed (line 4)."""
        rng = torch.Generator(device="cpu").manual_seed(derive_seed(self.seed, Stream.PREPARE, batch.step, 1))
        noise = self.lookahead.noise(Stream.PREPARE, batch)
        with torch.no_grad(), noise, self.processes.local(), lowering(self.model, False):
            batch = self.method.prepare(self.model, self.model.params, batch, rng)
        return batch.with_imputed(self._impute(batch))

    def _impute(self, batch: Batch) -> Imputation:
        if not self.method.uses_unlabelled and not self.problem.draws_unlabelled:
            n, where = len(batch.unlabelled.index), batch.unlabelled.index.device
            size = self.method.output.size
            return Imputation(torch.zeros(n, size, device=where), torch.zeros(n, device=where))
        with torch.no_grad(), self.lookahead.noise(Stream.BASE, batch, 1), self.processes.local():
            return self.method.impute(self.model, self.model.params, batch.unlabelled, self.state)

    # base step -------------------------------------------------------------------------------------------------------

    def _base_gradient(self, batch: Batch) -> tuple[Tensor, Tree]:
        params = self.model.params
        with self.stopwatch("base"):
            loss = self._noisy_loss(Stream.BASE, params, self.meta, batch)
            self.finite.require(loss, "base loss", batch)
            return loss.detach(), self._gradient(loss, params)

    def _gradient(self, loss: Tensor, params: Tree) -> Tree:
        """Of a training loss, taken at a larger scale where it went through float16."""
        if self.scale is None:
            return gradient(loss, params, unused="none")
        return self.scale.divided(gradient(self.scale.multiplied(loss), params, unused="none"))

    def _noisy_loss(self, stream: Stream, params: Tree, meta: Tree, batch: Batch, updating: bool = True) -> Tensor:
        """A training loss under the noise of its part of the step, compiled where the recipe asks for that.

        Args:
            meta: what the problem trains on; None for the base method's own loss. updating: whether running statistics follow.
        """
        meta = detach(meta)
        if self.compiled is not None:
            loss = self.compiled(params, meta, batch, derive_seed(self.seed, stream, batch.step, 0), updating)
        else:
            with self.lookahead.noise(stream, batch), self.model.updating_buffers(updating):
                loss = self._training_loss(params, meta, batch)
        if loss.requires_grad:
            return loss
        if meta is None:
            raise MethodError(f"method '{self.method.name}': loss(model, params, batch) {_NO_GRADIENT}")
        raise ProblemError(f"problem '{self.problem.name}': trained_loss(params, meta, batch) {_NO_GRADIENT}")

    def _training_loss(self, params: Tree, meta: Tree, batch: Batch) -> Tensor:
        """The base method's loss, or that of a problem at what it has learned or moved."""
        if meta is None:
            return self.processes.loss(lambda own: self.method.loss(self.model, own, batch), params)
        return self.problem.trained_loss(params, meta, batch)

    def _base_step(self, batch: Batch, measure: bool) -> tuple[dict[str, Tensor | float], Tree]:
        loss, base = self._base_gradient(batch)
        with self.stopwatch("base"):
            self._apply(base, self.optimizer, "base gradient", batch, scale=self.scale)
        metrics: dict[str, Tensor | float] = {"loss": loss, "weight": self.method.weight_at(batch.progress)}
        if measure:
            metrics["base_gradient_norm"] = norm(base)
        return metrics, base

    def _apply(
        self, grads: Tree, optimizer: torch.optim.Optimizer, what: str, batch: Batch, decays: bool = True,
        scale: LossScale | None = None,
    ) -> None:  # fmt: skip
        size = norm(grads)
        limit = self.settings.clip_norm
        clip = None if limit is None else (limit / size).clamp(max=1.0)
        for name, param in self.model.params.items():
            param.grad = grads[name] if clip is None or grads[name] is None else grads[name] * clip
        try:
            with nullcontext() if decays else without_decay(optimizer):
                take(self.finite, optimizer, size, what, batch, scale)
        except RuntimeError as error:
            if "overflow" not in str(error):
                raise
            raise Diverged(f"the step along the {what} overflows at step {batch.step}", batch.step) from None
        optimizer.zero_grad(set_to_none=True)

    # outer step ------------------------------------------------------------------------------------------------------

    def _direction(
        self, batch: Batch, holdout: Labelled, estimate: Estimate, base: Tree, measure: bool
    ) -> tuple[Tree, dict[str, Tensor | float]]:
        """The hypergradient as it is applied, controlled and scaled to the ``base`` gradient, and diagnostics."""
        problem, params, result = self.problem, self.model.params, estimate.result
        rng = torch.Generator(device="cpu").manual_seed(derive_seed(self.seed, Stream.CONTROL, batch.step))
        point = result.theta_k if problem.controls_at == "end" and result is not None else params
        with self.lookahead.noise(Stream.CONTROL, batch), lowering(self.model, False):
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
                with self.lookahead.noise(Stream.DIAGNOSIS, batch), lowering(self.model, False):
                    whole = self.processes.whole(batch)
                    metrics.update(of_lookahead(problem, params, whole, holdout, found, result))
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
            with torch.no_grad(), self.lookahead.noise(Stream.MASK, batch), self.processes.local():
                again = self.method.impute(self.model, self.model.params, batch.unlabelled, self.state)
            batch = batch.with_imputed(Imputation(batch.imputation.labels, again.weights))
        estimate = self.lookahead.estimate(batch, holdout, measure=measure)
        found, metrics = self._direction(batch, holdout, estimate, base, measure)
        scale = self.lookahead.scale_of(estimate)
        if base is None and estimate.result is not None:
            metrics["loss"] = estimate.result.outer_loss
        if self.problem.learns == "network":
            decays = base is None or self.settings.outer_decays
            self._apply(found, self._outer_optimizer(), "hypergradient", batch, decays, scale)
        elif self.problem.learns == "own":
            self._move_own(found, batch, scale)
        else:
            found = found if scale is None else scale.finite_or_zero(found)
            moved = moved_values(self.problem, estimate.meta, self.problem.move(estimate.meta, found))
            params, only = self.model.params, base is None
            loss = self._noisy_loss(Stream.TRAINED, params, moved, batch, updating=only)
            self.finite.require(loss, "loss on the moved labels", batch)
            grads, decays = self._gradient(loss, params), only or self.settings.outer_decays
            self._apply(grads, self._outer_optimizer(), "gradient on the moved labels", batch, decays, self.scale)
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

    def _move_own(self, found: Tree, batch: Batch, scale: LossScale | None) -> None:
        assert self.outer_optimizer is not None and self.meta is not None
        for name, leaf in self.meta.items():
            leaf.grad = found[name]
        take(self.finite, self.outer_optimizer, norm(found), "hypergradient", batch, scale)
        self.outer_optimizer.zero_grad(set_to_none=True)

    def _loss_scales(self) -> dict[str, Tensor | float]:
        """Those of float16 as they are now, and how many updates they have cost; empty in other precisions."""
        found: dict[str, Tensor | float] = {name: scale.value.clone() for name, scale in self.scales.items()}
        return found | ({"skipped_updates": self.skipped} if found else {})

    @property
    def scales(self) -> dict[str, LossScale]:
        """The factors of losses in float16, by their names in the log."""
        scales = {"loss_scale": self.scale, "hypergradient_loss_scale": self.lookahead.scale}
        return {name: scale for name, scale in scales.items() if scale is not None}

    @property
    def skipped(self) -> int:
        """Updates that were left out since their gradient was not finite in float16."""
        return int(sum(scale.skipped for scale in self.scales.values()))

    # fused -----------------------------------------------------------------------------------------------------------

    def _fused_step(self, batch: Batch, holdout: Labelled, measure: bool) -> dict[str, Tensor | float]:
        shares = self._shares_gradient(batch)
        inner = once_updating_buffers(self.lookahead.inner, self.model) if shares else None
        estimate = self.lookahead.estimate(batch, holdout, inner, measure=measure, fused=True)
        base: Tree
        if shares and estimate.result is not None:
            loss, base = estimate.result.diagnostics["inner_losses"][0], estimate.result.first_gradient
        else:
            loss, base = self._base_gradient(batch)
        found, metrics = self._direction(batch, holdout, estimate, base, measure)
        total, scale, outer = base, self.scale, self.lookahead.scale_of(estimate)
        if outer is not None and self.problem.learns == "network":
            if shares:  # one pass, under the look-ahead's scale
                scale = outer
            else:
                found = outer.finite_or_zero(found)
        if self.problem.learns == "network":
            total = {n: g if base[n] is None else base[n] + g for n, g in found.items()}
        else:
            self._move_own(found, batch, outer)
        self.finite.require(loss, "base loss", batch)
        self._apply(total, self.optimizer, "gradient", batch, scale=scale)
        return {"loss": loss, "weight": self.method.weight_at(batch.progress), **metrics}

    def _shares_gradient(self, batch: Batch) -> bool:
        """Whether the look-ahead's first inner gradient is the base step's."""
        if not (self.problem.needs_estimate and self.settings.estimator.gives_first_gradient):
            return False
        progress, method = batch.progress, self.method
        if self.problem.learns == "own":
            return self.problem.inner_is_base_loss
        return self.problem.inner_is_base_loss and method.lookahead_weight(progress) == method.weight_at(progress)
