"""What a semi-supervised base method is: an imputer, a distance, a weight schedule. Nothing bilevel.

A method turns an unlabelled batch into labels (:meth:`Method.impute`), measures how far a prediction is from them
(:meth:`Method.consistency`), and says how much that counts (:meth:`Method.weight_at`). A problem that learns to impute
asks for :meth:`Method.psi`, the differentiable imputer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ..bounds import NonNegative, Share
from ..engine.pytree import Tree, tree_flatten, tree_unflatten
from ..engine.registry import Registry
from ..tasks.base import Batch, Imputation, Unlabelled, ViewKind
from ..tasks.outputs import Classes, Output

Predict = Callable[[Tree, Tree], Tensor]
State = dict[str, Tree]

methods: Registry[Callable[..., Method]] = Registry("method")
register_method = methods.register


class MethodError(ValueError):
    """A method that does not apply to the task, with the reason. Ends a command with exit code 2."""


def linear_ramp(progress: float, length: float) -> float:
    """0 to 1 over the first ``length`` fraction of training, then 1; no ramp for a length of 0."""
    return 1.0 if length <= 0 else min(1.0, progress / length)


def ema_decay(step: int, decay: float) -> float:
    """``min(1 - 1/(t+1), decay)``: short runs do not keep their initial weights. ``step`` counts from 1."""
    return min(1.0 - 1.0 / (step + 1), decay)


@dataclass
class Method:
    """Base of all methods. Options are the fields of the concrete class.

    Attributes:
        weak, strong: the views that labels are imputed from and that the student trains on.
        labelled_view: the view of labelled examples.
        joint_forward: labelled and unlabelled examples go through the network in one batch, so that BatchNorm sees both.
        uses_unlabelled: whether the base step has a consistency loss at all.
    """

    name: ClassVar[str] = ""
    weak: ClassVar[ViewKind] = "weak"
    strong: ClassVar[ViewKind] = "weak"
    labelled_view: ClassVar[ViewKind] = "weak"
    joint_forward: ClassVar[bool] = False
    uses_unlabelled: ClassVar[bool] = True

    weight: NonNegative = 1.0
    ramp: Share = 0.0
    output: Output = field(default_factory=lambda: Classes(2), init=False, repr=False)

    def bind(self, output: Output) -> Method:
        """Tells the method what the task predicts.

        Raises:
            MethodError: when the method makes no sense for it.
        """
        self.output = output
        return self

    # state -----------------------------------------------------------------------------------------------------------

    def init_state(self, params: Tree) -> State:
        """State carried from step to step (a teacher, an ensemble); empty for most methods."""
        return {}

    def update_state(self, state: State, params: Tree, step: int) -> State:
        """State after optimisation step number ``step`` (from 1)."""
        return state

    # imputation ------------------------------------------------------------------------------------------------------

    def impute(self, predict: Predict, params: Tree, unlabelled: Unlabelled, state: State) -> Imputation:
        """Labels for the base step, without gradient: ``[n, outputs]`` and weights ``[n]``."""
        labels = self.psi(predict, params, unlabelled)
        return Imputation(labels, torch.ones_like(labels[:, 0]))

    def psi(self, predict: Predict, params: Tree, unlabelled: Unlabelled) -> Tensor:
        """The imputer as a differentiable function of the network, ``[n, outputs]`` (paper, section 3 and appendix A.2).

        Default: the network's activated output on the weak view.
        """
        return self.output.activate(predict(params, unlabelled.weak))

    # losses ----------------------------------------------------------------------------------------------------------

    def labelled_loss(self, raw: Tensor, targets: Tensor, progress: float) -> Tensor:
        """Supervised loss C_T of a labelled batch, a scalar."""
        return self.output.loss(raw, targets).mean()

    def consistency(self, raw: Tensor, labels: Tensor) -> Tensor:
        """Distance d between the student's raw outputs and imputed labels, per example ``[n]``."""
        return self.output.soft_loss(raw, labels)

    def weight_at(self, progress: float) -> float:
        """lambda(t), the factor of C_U in the base step."""
        return self.weight * linear_ramp(progress, self.ramp)

    def lookahead_weight(self, progress: float) -> float:
        """lambda in the look-ahead of a bilevel problem; the base step's own unless a method has none."""
        return self.weight_at(progress)

    def forward(self, call: Callable[[Tree], Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        """``call`` (the network, or its features) on labelled inputs and on the student's unlabelled view."""
        if self.joint_forward:
            together = concatenate(batch.labelled.inputs, batch.unlabelled.strong)
            found = call(together)
            n = len(batch.labelled.targets)
            return found[:n], found[n:]
        return call(batch.labelled.inputs), call(batch.unlabelled.strong)

    def combine(self, raw: tuple[Tensor, Tensor], labels: Tensor, batch: Batch, weight: float) -> Tensor:
        """``C_T + weight * C_U`` from raw outputs, with ``C_U = mean(imputation weights * consistency)`` (Eq. 2, OPT1)."""
        supervised = self.labelled_loss(raw[0], batch.labelled.targets, batch.progress)
        return supervised + weight * self.unlabelled_loss(raw[1], labels, batch)

    def unlabelled_loss(self, raw: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """C_U: mean over the whole batch of weighted per-example distances."""
        return (batch.imputation.weights * self.consistency(raw, labels)).mean()

    def loss(self, predict: Predict, params: Tree, batch: Batch) -> Tensor:
        """The base step's loss, OPT1, on a batch whose labels are imputed."""
        weight = self.weight_at(batch.progress)
        if not self.uses_unlabelled:
            return self.labelled_loss(predict(params, batch.labelled.inputs), batch.labelled.targets, batch.progress)
        raw = self.forward(lambda inputs: predict(params, inputs), batch)
        return self.combine(raw, batch.imputation.labels, batch, weight)


def concatenate(left: Tree, right: Tree) -> Tree:
    """Two batches of inputs (tensors, or dicts of tensors such as token ids and masks) as one."""
    a, spec = tree_flatten(left)
    b = tree_flatten(right)[0]
    return tree_unflatten([_padded_cat(x, y) for x, y in zip(a, b, strict=True)], spec)


def _padded_cat(left: Tensor, right: Tensor) -> Tensor:
    """Rows of tokens are padded with zeros to the longer of the two; attention masks are then zero there as well."""
    if left.ndim > 1 and left.shape[1] != right.shape[1] and left.shape[2:] == right.shape[2:]:
        width = max(left.shape[1], right.shape[1])
        after = [0, 0] * (left.ndim - 2)
        left, right = (torch.nn.functional.pad(t, (*after, 0, width - t.shape[1])) for t in (left, right))
    return torch.cat([left, right])
