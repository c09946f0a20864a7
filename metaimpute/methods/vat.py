"""VAT: predictions must survive the small perturbation that changes them most (Miyato et al., TPAMI 2018)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..batches import Batch
from ..batches.outputs import Classes, Output
from ..engine.ambient import NoGradStopsTangents, double_differentiable, forward_mode
from ..engine.losses import like_cross_entropy
from ..engine.own_part import shard_rows
from ..engine.products import unmoved
from ..engine.pytree import Tree, detach, tree_map
from ..engine.repetition import rebuilding
from ..ranges import Count, NonNegative, Share
from .base import Method, MethodError, Predict, concatenate, kl_divergence, register_method


def unit_rows(rows: Tensor) -> Tensor:
    """Each example scaled to Euclidean norm 1; zero where it is zero. Scaled by its largest entry first, against underflow."""
    flat, tiny = rows.flatten(1), torch.finfo(rows.dtype).tiny
    flat = flat / flat.abs().amax(1, keepdim=True).clamp_min(tiny)
    length: Tensor = flat.norm(dim=1, keepdim=True)
    return (flat / length.clamp_min(tiny)).view_as(rows)


def curvature_product(call: Callable[[Tensor], Tensor], inputs: Tensor, direction: Tensor) -> Tensor:
    """``H d``, with H the Hessian of KL(p(x) || p(x + r)) in r at r = 0, in the shape of ``inputs``.

    ``H = J^T (diag p - p p^T) J`` with the Jacobian J of the logits: one pass over dual numbers gives J d, one reverse
    pass the rest. Both see the same dropout noise.
    """
    with torch.enable_grad(), double_differentiable():
        at = inputs.detach().requires_grad_()
        try:
            with forward_mode(), NoGradStopsTangents():
                logits, slope = forward_ad.unpack_dual(call(forward_ad.make_dual(at, direction)))
                return _pulled_back(logits, slope, at)
        except (
            RuntimeError,
            NotImplementedError,
        ):  # an operator without forward-mode formula: J d by two reverse passes
            logits = call(at)
            dummy = torch.zeros_like(logits, requires_grad=True)
            pulled = torch.autograd.grad(logits, at, dummy, create_graph=True)[0]
            slope = torch.autograd.grad((pulled * direction).sum(), dummy, retain_graph=True)[0]
            return _pulled_back(logits, slope, at)


def _pulled_back(logits: Tensor, slope: Tensor, at: Tensor) -> Tensor:
    p, slope = logits.detach().softmax(-1), slope.detach()
    return torch.autograd.grad(logits, at, p * (slope - (p * slope).sum(-1, keepdim=True)))[0].detach()


@register_method("vat")
class VAT(Method):
    """KL divergence from the prediction on an example to that at the worst nearby input, plus entropy minimisation.

    The input is ``x + r``, ``r = epsilon * unit(H d)`` per example, from a random direction d by power iteration. The
    paper's finite difference ``grad KL(p(x) || p(x + xi d))`` with xi = 1e-6 tends to ``xi H d``; in float32 almost all its
    digits cancel (cosine 0.3 to 0.8 with the true direction on small conv nets), so its limit is taken exactly and there
    is no xi.

    The perturbed example is the batch's strong view: found once, at the parameters the step begins with, it is a constant
    to every derivative. The clean view goes through the network with the labelled examples, for the entropy; the passes
    that find r or evaluate it leave BatchNorm's running statistics alone. Under a bilevel problem psi is the softmax on the
    clean view. Settings are those of Oliver et al. (NeurIPS 2018).

    Args:
        weight: lambda. ramp: fraction of training over which lambda grows linearly. entropy: factor of the mean entropy,
            from the first step on. epsilon: norm of r, 6 for 32 x 32 images. power_iterations: steps towards the worst d.
    """

    row_wise = True
    accepts = ("vector", "image")

    weight: NonNegative = 0.3
    ramp: Share = 0.4
    entropy: NonNegative = 0.06
    epsilon: NonNegative = 6.0
    power_iterations: Count = 1

    def bind(self, output: Output) -> Method:
        if not isinstance(output, Classes):
            raise MethodError("vat compares class distributions; a regression task has none")
        return super().bind(output)

    @property
    def views(self) -> int:
        return 1

    def prepare(self, predict: Predict, params: Tree, batch: Batch, rng: torch.Generator) -> Batch:
        clean, at = batch.unlabelled.weak, detach(params)
        shape = clean.shape[1:]
        drawn = shard_rows(lambda n: torch.randn(n, *shape, generator=rng, device="cpu"), len(clean))
        direction = unit_rows(drawn.to(clean))

        def predicted(inputs: Tensor) -> Tensor:
            moves = forward_ad.unpack_dual(inputs).tangent is not None
            return predict(tree_map(unmoved, at) if moves else at, inputs)

        for _ in range(self.power_iterations):
            direction = unit_rows(curvature_product(predicted, clean, direction))
        return replace(batch, unlabelled=replace(batch.unlabelled, strong=clean + self.epsilon * direction))

    def inputs(self, batch: Batch) -> tuple[Tree, Tree]:
        labelled, clean = batch.labelled.inputs, batch.unlabelled.weak
        return concatenate(labelled, clean) if self.entropy else labelled, batch.unlabelled.strong

    def forward_unlabelled(self, call: Callable[[Tree], Tensor], batch: Batch) -> Tensor:
        with rebuilding():  # leaves running statistics alone
            return super().forward_unlabelled(call, batch)

    def labelled_loss(self, raw: Tensor, targets: Tensor, progress: float) -> Tensor:
        """C_T of the first rows, which have targets, and the entropy term of the clean unlabelled rows behind them."""
        raw, clean = raw[: len(targets)], raw[len(targets) :]
        loss = super().labelled_loss(raw, targets, progress)
        if not len(clean):
            return loss
        return loss + self.entropy * self.output.soft_loss(clean, self.output.activate(clean)).mean()

    @like_cross_entropy
    def consistency(self, raw: Tensor, labels: Tensor) -> Tensor:
        return kl_divergence(self.output, raw, labels)
