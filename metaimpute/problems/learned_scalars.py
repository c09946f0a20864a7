"""The knobs of a semi-supervised loss as what is learned: consistency weight, temperature, confidence threshold, class prior.

Hyperparameters are moved along their hypergradient on held-out labels while the network trains, as in Luketina et al. ("Scalable
gradient-based tuning of continuous regularization hyperparameters", ICML 2016) and Franceschi et al. (ICML 2017). With q the
network's own prediction on the weak view, held constant, and d the base method's distance,

    z_i = softmax((log q_i + b) / T)      m_i = sigmoid((max z_i - tau) / width)      tau = sigmoid(s)
    C_inner = C_T + lambda 1/n sum_i m_i d(p_i, z_i)

The threshold is FixMatch's (Sohn et al., NeurIPS 2020) made smooth; ``b`` is the log of a class prior relative to a uniform one,
as the distribution alignment of ReMixMatch (Berthelot et al., ICLR 2020) multiplies it in.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ..batches import Batch, Imputation
from ..batches.outputs import Classes, Output
from ..engine.pytree import Tree
from ..methods.base import Method
from ..ranges import Positive
from .base import BilevelProblem, ProblemError, Sizes, register_problem

Scalar = Literal["weight", "temperature", "threshold", "prior"]
ALL: tuple[Scalar, ...] = ("weight", "temperature", "threshold", "prior")


@register_problem("learned_scalars")
class LearnedScalars(BilevelProblem):
    """Weight, temperature, threshold and class prior of the consistency loss, learned (Luketina et al., 2016).

    Of values only the weight is learned.

    Args:
        learn: what of ``weight``, ``temperature``, ``threshold`` and ``prior`` is learned; the others stay. None: all that the
            task's output has.
        consistency_weight, temperature, threshold: where they begin. width: of the sigmoid that stands for the threshold's step.
    """

    dealt_coupling = "whole"
    learn: tuple[Scalar, ...] | None = None
    consistency_weight: Positive = 1.0
    temperature: Positive = 1.0
    threshold: float = 0.8
    width: Positive = 0.05

    def check(self, method: Method, output: Output) -> None:
        if self.learn is not None and not self.learn:
            raise ProblemError(f"learn: name one of {', '.join(ALL)} at least")
        if not 0 < self.threshold < 1:
            raise ProblemError(f"threshold: is a confidence between 0 and 1, not {self.threshold:g}")
        others = [name for name in self.learn or () if name != "weight"]
        if others and not isinstance(output, Classes):
            raise ProblemError(f"learn: '{others[0]}' is of classes, and the task's output is values; learn: [weight]")

    def init_meta(self, sizes: Sizes) -> dict[str, Tensor]:
        start = {
            "log_weight": torch.tensor(math.log(self.consistency_weight), device="cpu"),
            "log_temperature": torch.tensor(math.log(self.temperature), device="cpu"),
            "threshold_logit": torch.tensor(math.log(self.threshold / (1 - self.threshold)), device="cpu"),
            "prior_logits": torch.zeros(sizes.outputs, device="cpu"),
        }
        classes = isinstance(self.context.output, Classes)
        chosen = self.learn or (ALL if classes else ("weight",))
        return {key: value for key, value in start.items() if any(name in key for name in chosen)}

    def labels(self, c: Tree, batch: Batch) -> tuple[Tensor, Tensor]:
        """Imputed labels ``[n, outputs]`` and their weights ``[n]``."""
        with torch.no_grad():
            own = self.method.unsharpened().psi(self.predict, self.context.model.params, batch.unlabelled)
        if not isinstance(self.context.output, Classes):
            return own, torch.ones_like(own[:, 0])
        temperature = c["log_temperature"].exp() if "log_temperature" in c else self.temperature
        threshold = c["threshold_logit"].sigmoid() if "threshold_logit" in c else self.threshold
        raised = own.clamp_min(torch.finfo(own.dtype).tiny).log()
        if "prior_logits" in c:
            raised = raised + c["prior_logits"]
        labels = (raised / temperature).softmax(-1)
        return labels, ((labels.max(-1).values - threshold) / self.width).sigmoid()

    def inner_loss(self, params: Tree, c: Tree, batch: Batch) -> Tensor:
        raw = self.method.forward(lambda inputs: self.predict(params, inputs), batch)
        labels, weights = self.labels(c, batch)
        weight = c["log_weight"].exp() if "log_weight" in c else self.consistency_weight
        known, rows = self.method.targets(Imputation(labels, weights), batch)  # of what the method makes of the rows
        supervised = self.method.labelled_loss(raw[0], known, batch.progress)
        return supervised + weight * (rows.weights * self.method.consistency(raw[1], rows.labels)).mean()

    def measure(self, meta: Tree) -> dict[str, float]:
        """What has been learned: ``learned_weight``, ``_temperature``, ``_threshold`` and the largest share of ``_prior``."""
        ways = {
            "log_weight": ("learned_weight", torch.exp),
            "log_temperature": ("learned_temperature", torch.exp),
            "threshold_logit": ("learned_threshold", torch.sigmoid),
            "prior_logits": ("learned_prior_max", lambda logits: logits.softmax(-1).max()),
        }
        return {ways[key][0]: float(ways[key][1](value.detach())) for key, value in meta.items()}
