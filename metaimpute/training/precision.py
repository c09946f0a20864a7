"""A network in low precision: products and convolutions under autocast; losses, gradients and updates in float32.

``bf16`` and ``fp16`` put ``torch.autocast`` around every pass of the network in a training step (imputation, base step, psi,
look-ahead, hold-out), and nothing else. What comes out is made float32 again, so softmax, losses, couplings, hypergradients,
parameters, the optimisers' states and the inner steps' parameters are float32 throughout; the cast is differentiated, in every
mode of differentiation. A method's random choices (VAT's adversarial direction is a difference of 1e-6), a problem's control,
diagnostics, evaluation, prediction and export are float32 as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..engine import Estimator, FunctionalModel, HypergradientResult, InnerOptimizer
from ..engine.functional import Params
from ..engine.loss_scale import UNSCALABLE, divided, of_the_losses_themselves, structured_times
from ..engine.losses import Loss, StructuredLoss
from ..engine.pytree import Tree, map_tensors
from ..problems.base import BilevelProblem
from ..ranges import Precision
from .loss_scale import LossScale

LOWER: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


def widened(found: Tree) -> Tree:
    """Floating-point tensors of fewer than 32 bits as float32; others as they are."""
    return map_tensors(lambda leaf: leaf.float() if leaf.dtype.itemsize < 4 else leaf, found)


class LowPrecision(FunctionalModel):
    """A network whose passes inside :meth:`lowering` are under autocast, and elsewhere are what they were.

    Args:
        lower: ``torch.bfloat16`` or ``torch.float16``.
    """

    def __init__(self, module: nn.Module, head: str | None, lower: torch.dtype) -> None:
        super().__init__(module, head)
        self.lower, self.active = lower, False
        self.device = next(module.parameters()).device.type

    @contextlib.contextmanager
    def lowering(self, enabled: bool = True) -> Iterator[None]:
        """Passes in this block are in low precision; with ``enabled=False`` they are not."""
        before, self.active = self.active, enabled
        try:
            yield
        finally:
            self.active = before

    def _autocast(self) -> Any:
        # no casts are kept: one made without a graph would cut the gradient of a later use
        return torch.autocast(self.device, dtype=self.lower, cache_enabled=False)

    def __call__(self, params: Params, *args: Any, **kwargs: Any) -> Any:
        if not self.active:
            return super().__call__(params, *args, **kwargs)
        with self._autocast():
            found = super().__call__(params, *args, **kwargs)
        return widened(found)

    def features(self, params: Params, *args: Any, **kwargs: Any) -> Tensor:
        """Input of the last linear layer in float32; the readout from it is float32 too."""
        if not self.active:
            return super().features(params, *args, **kwargs)
        with self._autocast():
            found = super().features(params, *args, **kwargs)
        return found.float()


def functional(module: nn.Module, head: str | None, precision: Precision) -> FunctionalModel:
    """The network as a function of its parameters, for training in a precision."""
    return LowPrecision(module, head, LOWER[precision]) if precision in LOWER else FunctionalModel(module, head)


def lowering(model: FunctionalModel, enabled: bool = True) -> contextlib.AbstractContextManager[None]:
    """The block in which a model is in its low precision, where it has one."""
    return model.lowering(enabled) if isinstance(model, LowPrecision) else contextlib.nullcontext()


def loss_scale_of(model: FunctionalModel, device: torch.device) -> LossScale | None:
    """The factor of training losses in float16; None in other precisions, whose gradients do not fall below what they hold."""
    return LossScale(device) if isinstance(model, LowPrecision) and model.lower == torch.float16 else None


def hypergradient_scale_of(model: FunctionalModel, problem: BilevelProblem, device: torch.device) -> LossScale | None:
    """Likewise of the losses that an estimator differentiates."""
    return loss_scale_of(model, device) if problem.estimates else None


class ScaledLosses:
    """An estimator's losses, rule and result under a factor (:mod:`metaimpute.engine.loss_scale`); as they are without one.

    ``approx`` takes a closed form of float32 numbers and needs none.

    Args:
        compiled: makes the inner loss one with compiled steps, for an estimator that unrolls it.
    """

    def __init__(
        self, scale: LossScale | None, estimator: Estimator, compiled: Callable[[StructuredLoss], Loss] | None = None
    ) -> None:
        self.scale = None if scale is None or estimator.name in UNSCALABLE else scale.value
        self.compiled = compiled if estimator.unrolls else None
        self._made: dict[int, tuple[Loss, Loss]] = {}  # one program for all steps

    def losses(self, inner: StructuredLoss, outer: StructuredLoss) -> tuple[Loss, Loss]:
        if self.scale is None and self.compiled is None:
            return inner, outer
        if self.compiled is None:  # of a fused step the inner loss is a new one each time
            return self._of(inner, outer)
        if id(inner) not in self._made:
            self._made[id(inner)] = self._of(inner, outer)
        return self._made[id(inner)]

    def _of(self, inner: StructuredLoss, outer: StructuredLoss) -> tuple[Loss, Loss]:
        if self.scale is not None:
            inner, outer = structured_times(self.scale, inner), structured_times(self.scale, outer)
        return inner if self.compiled is None else self.compiled(inner), outer

    def rule(self, rule: InnerOptimizer) -> InnerOptimizer:
        return rule if self.scale is None else divided(self.scale, rule)

    def result(self, found: HypergradientResult) -> HypergradientResult:
        return found if self.scale is None else of_the_losses_themselves(self.scale, found)
