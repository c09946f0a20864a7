"""Dataset distillation: a few learned images on which a network trained for k steps suits the real ones.

Wang, Zhu, Torralba and Efros ("Dataset distillation", 2018, Algorithm 1): the outer variables are the images and the inner
learning rate, the inner loss is cross-entropy on all of them, the outer loss that of real examples after k steps,

    theta_k = theta_0 - eta sum_t grad C_inner(theta_t, images)      C_outer = C(theta_k, real)

from a start drawn anew at every outer step, or from one that is fixed. Learned labels are of Sucholutsky and Schonlau
("Soft-label dataset distillation", 2021). No network is trained meanwhile; what is tested is one trained on the images.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..batches import Batch
from ..batches.outputs import Classes, Output
from ..engine.pytree import Tree, detach
from ..methods.base import Method
from ..ranges import Count, NonNegative
from .base import Adapt, BilevelProblem, Context, ProblemError, Sizes, register_problem

SURE = 4.0  # logit of a learned label's class at the beginning, above the others'


@register_problem("dataset_distillation")
class DatasetDistillation(BilevelProblem):
    """Images, their learning rate and labels, so that k steps on them train a network (Wang et al., 2018).

    Args:
        per_class: images of each class. init: ``random``: a network drawn anew at every outer step; ``fixed``: always the first.
        learn_rate: whether the inner learning rate is learned too, from ``problem.inner.lr`` on. learn_labels: whether labels are
            distributions that are learned. spread: standard deviation of the noise that the images begin as.
    """

    dealt_coupling = "whole"
    replaces_base_step = True
    uses_unlabelled = False

    per_class: Count = 1
    init: Literal["random", "fixed"] = "random"
    learn_rate: bool = True
    learn_labels: bool = False
    spread: NonNegative = 1.0

    def check(self, method: Method, output: Output) -> None:
        if not isinstance(output, Classes):
            raise ProblemError("dataset_distillation makes images of classes; a task of values has none")

    def bind(self, context: Context) -> BilevelProblem:
        if self.init == "random":
            for name, part in context.model.module.named_modules():
                if next(part.parameters(recurse=False), None) is not None and not hasattr(part, "reset_parameters"):
                    raise ProblemError(f"init: '{name}' of the network cannot be drawn anew; use init: fixed")
        return super().bind(context)

    def init_meta(self, sizes: Sizes) -> dict[str, Tensor]:
        if not sizes.inputs:
            raise ProblemError("dataset_distillation learns inputs of a fixed shape, and the task's have none")
        count = sizes.outputs * self.per_class
        meta = {"images": self.spread * torch.randn(count, *sizes.inputs, device="cpu")}
        if self.learn_rate:
            meta["log_scale"] = torch.zeros((), device="cpu")
        if self.learn_labels:
            meta["labels"] = SURE * F.one_hot(self._classes(count), sizes.outputs).to(meta["images"])
        return meta

    def _classes(self, count: int) -> Tensor:
        return torch.arange(count, device="cpu") // self.per_class

    def couple(self, meta: Tree, batch: Batch) -> Tree:
        """Images and, where they are learned, labels as probabilities."""
        return {"images": meta["images"]} | ({"labels": meta["labels"].softmax(-1)} if "labels" in meta else {})

    def inner_hyper(self, meta: Tree, given: dict[str, Any]) -> dict[str, Any]:
        return {"lr": given["lr"] * meta["log_scale"].exp()} if "log_scale" in meta else {}

    def start(self, meta: Tree, params: Tree) -> Tree:
        if self.init == "fixed":
            return detach(params)  # which nothing moves
        network = copy.deepcopy(self.context.model.module)
        for part in network.modules():
            reset: Any = getattr(part, "reset_parameters", None)
            if reset is not None:
                reset()
        return {name: p.detach() for name, p in network.named_parameters() if name in params}

    def inner_loss(self, params: Tree, c: Tree, batch: Batch) -> Tensor:
        raw = self.predict(params, c["images"])
        if "labels" in c:
            return self.context.output.soft_loss(raw, c["labels"]).mean()
        return self.context.output.loss(raw, self._classes(len(raw)).to(raw.device)).mean()

    def evaluated(self, module: nn.Module, meta: Tree, adapt: Adapt) -> nn.Module:
        """The network trained on the images for the inner steps, from its own start."""
        trained = copy.deepcopy(module)
        start = {name: p.detach() for name, p in trained.named_parameters() if p.requires_grad}
        end = adapt(start, self.couple(meta, None), None)  # type: ignore[arg-type]  # no batch is looked at
        with torch.no_grad():
            for name, p in trained.named_parameters():
                p.copy_(end.get(name, p))
        return trained

    def measure(self, meta: Tree) -> dict[str, float]:
        """``lr_scale``: of the inner learning rate. ``image_norm``: mean length of an image."""
        found = {"image_norm": float(meta["images"].detach().flatten(1).norm(dim=1).mean())}
        return found | ({"lr_scale": float(meta["log_scale"].detach().exp())} if "log_scale" in meta else {})
