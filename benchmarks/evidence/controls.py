"""What the families of ``families.yaml`` need beside the package: controls of objectives with weights, and rare classes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from metaimpute import TaskData, register_problem, register_task
from metaimpute.batches import Labelled
from metaimpute.engine.pytree import Tree
from metaimpute.problems.hyper_cleaning import HyperCleaning
from metaimpute.problems.l2i import RandomDirection
from metaimpute.problems.learned_scalars import LearnedScalars
from metaimpute.problems.unlabelled_weights import UnlabelledWeights
from metaimpute.ranges import Positive
from metaimpute.streams import Stream
from metaimpute.tasks.digits import Digits
from metaimpute.tasks.splits import generator

from .frozen import FrozenFeatures


@register_problem("random_hyper_cleaning")
class RandomHyperCleaning(HyperCleaning):
    """Control: weights of the labelled rows that go a random way, as far as the hypergradient would take them."""

    control = RandomDirection.control


@register_problem("zero_hyper_cleaning")
class ZeroHyperCleaning(HyperCleaning):
    """Control: weights of the labelled rows that stay where they begin; as ``problem.weight: 0``, without the cost."""

    needs_estimate = False

    def control(self, hypergradient: Tree, params: Tree, holdout: Labelled, rng: torch.Generator) -> Tree:
        return {"logits": torch.zeros(self.context.sizes.labelled)}


@register_problem("random_unlabelled_weights")
class RandomUnlabelledWeights(UnlabelledWeights):
    """Control: weights of the unlabelled rows that go a random way, as far as the hypergradient would take them."""

    control = RandomDirection.control


@register_problem("random_learned_scalars")
class RandomLearnedScalars(LearnedScalars):
    """Control: scalars of the consistency loss that go a random way, as far as the hypergradient would take them."""

    control = RandomDirection.control


@register_task("imbalanced_digits")
@dataclass
class ImbalancedDigits(Digits):
    """Digits whose labels thin out from class to class: class k keeps ``ratio ** (-k / 9)`` of its ``labels / 10``.

    Test and validation rows stay balanced.
    """

    ratio: Positive = 10.0

    def load(self, seed: int) -> TaskData:
        return thinned(super().load(seed), self.labels // self.output.size, self.ratio, seed)


@register_task("rare_frozen_features")
@dataclass
class RareFrozenFeatures(FrozenFeatures):
    """Features of a frozen encoder whose labels thin out from class to class, as those of :class:`ImbalancedDigits`."""

    ratio: Positive = 10.0

    def load(self, seed: int) -> TaskData:
        return thinned(super().load(seed), self.labels // self.classes, self.ratio, seed)


def thinned(data: TaskData, each: int, ratio: float, seed: int) -> TaskData:
    """Of ``each`` labels a class those of class k that ``ratio ** (-k / (classes - 1))`` leaves, one at least."""
    targets = data.labelled.targets
    assert targets is not None
    classes, kept = int(targets.max()) + 1, []
    for label in range(classes):
        rows = (targets == label).nonzero()[:, 0]
        count = max(1, round(each * ratio ** (-label / (classes - 1))))
        kept.append(rows[torch.randperm(len(rows), generator=generator(seed, Stream.MISMATCH, label))[:count]])
    return dataclasses.replace(data, labelled=data.labelled.subset(torch.cat(kept).sort().values))
