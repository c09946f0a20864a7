"""Model-agnostic meta-learning: a start from which a few steps on a small support set suit its query set.

Finn, Abbeel and Levine (ICML 2017, Algorithm 1): for every task i of a batch,

    theta_i = theta - alpha grad L_i^support(theta)   (k times)       theta <- theta - beta grad sum_i L_i^query(theta_i)

The start is the network's own parameters (``path: full``); alpha and k are those of ``problem.inner``, beta is
``train.optimizer``'s. A row of a batch is an episode (:mod:`metaimpute.batches.episodes`); all take their steps in one stack.
First-order MAML is ``estimator: first_order``. ANIL (Raghu et al., ICLR 2020) adapts the last layer alone: the rest is the
coupling, and Meta-SGD (Li et al., 2017) learns a rate for every entry along with the start.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..batches import Batch, Labelled, Unlabelled
from ..engine.losses import StructuredLoss
from ..engine.pytree import Tree, map_tensors
from ..engine.stacked import stacked
from ..ranges import Count
from .base import Adapt, BilevelProblem, Context, Learns, ProblemError, Sizes, register_problem


class StackedLoss(StructuredLoss):
    """A loss of many tasks at once, so that an estimator or rule that would mix them is refused."""

    stacked: ClassVar[bool] = True


def copies(tree: Tree, count: int) -> Tree:
    """The tree once for every task, ``[count, ...]``, without taking memory for it."""
    return map_tensors(lambda leaf: leaf.expand(count, *leaf.shape), tree)


@register_problem("maml")
class MAML(BilevelProblem):
    """A start from which few steps suffice (Finn et al., 2017).

    Args:
        test_steps: inner steps in tests; None: as many as in training.
    """

    learns: ClassVar[Learns] = "network"
    replaces_base_step = True
    uses_unlabelled = False
    episodes = True

    test_steps: Count | None = None

    def bind(self, context: Context) -> BilevelProblem:
        if self.learns == "network" and context.path != "full":
            raise ProblemError(f"{self.name} learns where the inner steps start; write problem.path: full")
        return super().bind(context)

    # what moves, and what stays -----------------------------------------------------------------------------------

    def learned(self, meta: Tree, params: Tree) -> Tree:
        """The network's parameters at the start, by name."""
        return params

    def moving(self) -> tuple[str, ...]:
        """Names of the parameters that the inner steps move."""
        return tuple(self.context.model.params)

    def apart(self, params: Tree, count: int) -> tuple[Tree, Tree]:
        """Of each task's copy the parameters that move and those that stay."""
        own = self.moving()
        stay = {name: p for name, p in params.items() if name not in own}
        return copies({name: params[name] for name in own}, count), copies(stay, count)

    def start(self, meta: Tree, params: Tree) -> Tree:
        return self.apart(self.learned(meta, params), self.context.sizes.batch)[0]

    def couple(self, meta: Tree, batch: Batch) -> Tree:
        return self.apart(self.learned(meta, meta), self.context.sizes.batch)[1]

    # losses ---------------------------------------------------------------------------------------------------------

    def _mean(self, params: Tree, c: Tree, inputs: Tensor, targets: Tensor) -> Tensor:
        """Sum over tasks of each one's mean loss."""

        def one(theta: Tree, stay: Tree, rows: Any) -> Tensor:
            raw = self.predict({**stay, **theta}, rows["x"])
            return self.context.output.loss(raw, rows["y"]).mean()

        found: Tensor = stacked(one)(params, c, {"x": inputs, "y": targets})
        return found

    def inner_loss(self, params: Tree, c: Tree, batch: Batch) -> Tensor:
        inputs: Any = batch.labelled.inputs
        return self._mean(params, c, inputs["support"], inputs["given"])

    def outer_loss(self, params: Tree, c: Tree, holdout: Labelled) -> Tensor:
        inputs: Any = holdout.inputs
        return self._mean(params, c, inputs["query"], holdout.targets) / len(holdout.targets)

    def structured_inner(self) -> StructuredLoss:
        return StackedLoss(self.inner_loss)

    def structured_outer(self) -> StructuredLoss:
        return StructuredLoss(self.outer_loss)

    def supervised(self, params: Tree, labelled: Labelled) -> Tensor:
        """Mean loss on the query sets before any step."""
        moving, stay = self.apart(params, len(labelled.targets))
        return self.outer_loss(moving, stay, labelled)

    # tests ----------------------------------------------------------------------------------------------------------

    def evaluated(self, module: nn.Module, meta: Tree, adapt: Adapt) -> nn.Module:
        return Adapted(module, self, meta, adapt)


class Adapted(nn.Module):
    """A network that takes the inner steps on each episode's support set before it answers its queries."""

    def __init__(self, network: nn.Module, problem: MAML, meta: Tree, adapt: Adapt) -> None:
        super().__init__()
        self.network, self.problem, self.meta, self.adapt = network, problem, meta, adapt

    def forward(self, episodes: dict[str, Tensor]) -> Tensor:
        """``[n, q, outputs]``."""
        with torch.inference_mode(False), torch.no_grad():
            rows = {name: value.clone() for name, value in episodes.items()}
            count, problem = len(rows["given"]), self.problem
            params = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
            moving, stay = problem.apart(problem.learned(self.meta, params), count)
            index = torch.arange(count, device=rows["given"].device)
            batch = Batch(Labelled(rows, rows["given"], index), Unlabelled(None, None, index))
            end = self.adapt(moving, stay, batch, problem.test_steps)

            def answer(theta: Tree, rest: Tree, inputs: Tensor) -> Tensor:
                return problem.predict({**rest, **theta}, inputs)

            found: Tensor = torch.vmap(answer)(end, stay, rows["query"])
            return found

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The network's: adapting is no part of its weights."""
        return self.network.state_dict(*args, **kwargs)


@register_problem("anil")
class ANIL(MAML):
    """MAML whose inner steps move the last linear layer alone (Raghu et al., 2020)."""

    def moving(self) -> tuple[str, ...]:
        return self.context.model.head


@register_problem("meta_sgd")
class MetaSGD(MAML):
    """A start and a learning rate for every entry of it (Li et al., 2017): ``theta - alpha * grad``, alpha of any sign.

    Rates begin at ``problem.inner.lr``; both are moved by ``problem.outer``.
    """

    learns: ClassVar[Learns] = "own"

    def init_meta(self, sizes: Sizes) -> dict[str, Tensor]:
        params = self.context.model.params
        start = {f"start.{name}": p.detach().clone() for name, p in params.items()}
        return start | {f"scale.{name}": torch.ones_like(p) for name, p in params.items()}

    def learned(self, meta: Tree, params: Tree) -> Tree:
        return {name: meta[f"start.{name}"] for name in self.context.model.params}

    def inner_hyper(self, meta: Tree, given: dict[str, Any]) -> dict[str, Any]:
        return {"lr": {name: given["lr"] * meta[f"scale.{name}"][None] for name in self.context.model.params}}

    def measure(self, meta: Tree) -> dict[str, float]:
        """``rate_scale``: mean of the rates' factors. ``rates_negative``: share of rates below 0."""
        scales = torch.cat([v.detach().flatten() for name, v in meta.items() if name.startswith("scale.")])
        return {"rate_scale": float(scales.mean()), "rates_negative": float((scales < 0).float().mean())}
