"""A learning rate for every layer, learned by its hypergradient while the network trains with it.

Baydin et al. ("Online learning rate adaptation with hypergradient descent", ICLR 2018) learn one for all, Antoniou et al.
("How to train your MAML", ICLR 2019, section 4) one for each layer, Li et al. ("Meta-SGD", 2017) one for each entry:

    theta_{t+1} = theta_t - exp(a_l) eta grad_l C(theta_t)      a: moved so that C_H(theta_k) falls

C is the base method's loss. The network's own step has the factors ``exp(a_l)`` too, as factors of its gradient; for it to be the
inner step, ``train.optimizer`` is sgd without momentum at ``problem.inner.lr``.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ..batches import Batch
from ..engine.pytree import Tree
from .base import BilevelProblem, Sizes, register_problem


@register_problem("learned_rates")
class LearnedRates(BilevelProblem):
    """Inner learning rates, one for each layer, learned (Baydin et al., 2018; Antoniou et al., 2019).

    Args:
        per: what has a rate of its own: ``all`` parameters together, each ``layer``, each ``tensor``, or each ``entry``.
    """

    dealt_coupling = "whole"
    per: Literal["all", "layer", "tensor", "entry"] = "layer"

    def init_meta(self, sizes: Sizes) -> dict[str, Tensor]:
        params = self.context.model.params
        shape = {name: p.shape if self.per == "entry" else () for name, p in params.items()}
        return {self.group(name): torch.zeros(shape[name], device="cpu") for name in params}

    def group(self, name: str) -> str:
        """What a parameter shares its rate with."""
        if self.per in ("all", "layer"):
            return "all" if self.per == "all" else name.rpartition(".")[0] or name
        return name

    def scales(self, meta: Tree) -> dict[str, Tensor]:
        """Factor of the learning rate by parameter."""
        return {name: meta[self.group(name)].exp() for name in self.context.model.params}

    def inner_hyper(self, meta: Tree, given: dict[str, Any]) -> dict[str, Any]:
        return {"lr": {name: given["lr"] * scale for name, scale in self.scales(meta).items()}}

    def couple(self, meta: Tree, batch: Batch) -> Tree:
        return {}  # the inner loss depends on nothing that is learned

    def inner_loss(self, params: Tree, c: Tree, batch: Batch) -> Tensor:
        return self.method.loss(self.predict, params, batch)

    def trained_loss(self, params: Tree, meta: Tree, batch: Batch) -> Tensor:
        """The base method's loss, whose gradient is multiplied by the factors."""
        scales = self.scales(meta)
        fixed = {name: p.detach() for name, p in params.items()}
        return self.method.loss(
            self.predict, {n: fixed[n] + scales[n] * (p - fixed[n]) for n, p in params.items()}, batch
        )

    def measure(self, meta: Tree) -> dict[str, float]:
        """Least and largest factor of the learning rate."""
        entries = torch.cat([value.detach().flatten() for value in meta.values()]).exp()
        return {"rate_scale_min": float(entries.min()), "rate_scale_max": float(entries.max())}
