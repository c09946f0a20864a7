"""A bilevel problem whose batches are dealt out over processes: what an estimator sees of it is that of the joined batch.

A problem says in :attr:`~metaimpute.problems.base.BilevelProblem.dealt_coupling` what its coupling is made of. ``couple`` and
``batch_meta`` are evaluated on a process's own rows and gathered; losses are given its own rows of the coupling and joined.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from ..batches import Batch, Labelled
from ..engine.across_ranks import reduce_from_ranks
from ..engine.distributed import Coupling, Joined
from ..engine.losses import StructuredLoss
from ..engine.pytree import Tree, tensors, with_tensors
from ..problems.base import BilevelProblem


class Dealt:
    """A bound problem, to be used as one; what is not here is the problem's own.

    Args:
        joined: over which processes. A process's loss is a mean over rows, or a sum where the problem says so.
    """

    def __init__(self, problem: BilevelProblem, joined: Joined) -> None:
        self.problem, self.joined = problem, joined
        coupling = problem.dealt_coupling
        self.coupling: Coupling = "whole" if coupling is None else coupling

    def __getattr__(self, name: str) -> Any:
        return getattr(self.problem, name)

    def _join(self, coupling: Coupling, inner: bool) -> Joined:
        reduction = self.problem.dealt_reduction if inner else "mean"
        return dataclasses.replace(self.joined, coupling=coupling, reduction=reduction)

    def structured_inner(self) -> StructuredLoss:
        return dataclasses.replace(self.problem.structured_inner(), joined=self._join(self.coupling, inner=True))

    def structured_outer(self) -> StructuredLoss:
        return dataclasses.replace(self.problem.structured_outer(), joined=self._join(self.coupling, inner=False))

    def supervised(self, params: Tree, labelled: Labelled) -> Tensor:
        params, _ = self.joined.enter(params, None)
        with self.joined.within():
            value = self.problem.supervised(params, labelled)
        return self.joined.leave(value)

    def trained_loss(self, params: Tree, meta: Tree, batch: Batch) -> Tensor:
        joined = self._join("rows" if self.problem.learns == "labels" else "whole", inner=True)
        params, meta = joined.enter(params, meta)
        with joined.within():
            value = self.problem.trained_loss(params, meta, batch)
        return joined.leave(value)

    def batch_meta(self, params: Tree, batch: Batch) -> Tree:
        with self.joined.within():
            own = self.problem.batch_meta(params, batch)
        with torch.no_grad():
            return self.joined.gathered(own)

    def couple(self, meta: Tree, batch: Batch) -> Tree:
        if self.coupling == "whole":
            return self.problem.couple(meta, batch)
        own, _ = self._join("whole", inner=False).enter(meta, None)
        if self.problem.learns == "labels":
            own = self._join("rows", inner=False).rows_of(own)
        with self.joined.within():
            return self._of_all(self.problem.couple(own, batch))

    def fused_value(self, c: Tree, batch: Batch) -> Tree:
        if self.coupling == "whole":
            return self.problem.fused_value(c, batch)
        with self.joined.within():
            own = self.problem.fused_value(self._join(self.coupling, inner=False).rows_of(c), batch)
        with torch.no_grad():
            return self._of_all(own)

    def _of_all(self, own: Tree) -> Tree:
        """The joined coupling: rows one after another, other numbers their mean."""
        if not isinstance(self.coupling, dict):
            return self.joined.gathered(own)
        return {
            name: self.joined.gathered(value) if self.coupling.get(name) == "rows" else self._mean(value)
            for name, value in own.items()
        }

    def _mean(self, tree: Tree) -> Tree:
        ranks = self.joined.ranks
        return with_tensors(tree, reduce_from_ranks(ranks, [leaf / ranks.size for leaf in tensors(tree)]))

    def control(self, hypergradient: Tree, params: Tree, holdout: Labelled, rng: torch.Generator) -> Tree:
        if type(self.problem).control is BilevelProblem.control:
            return hypergradient
        with self.joined.within():
            found = self.problem.control(hypergradient, params, holdout, rng)
        with torch.no_grad():
            return self._mean(found)
