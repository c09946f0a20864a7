"""Meta pseudo labels: a teacher network whose labels teach a student that does well on labelled rows.

Pham, Dai, Xie and Le (CVPR 2021): the student, which is the network that is trained and evaluated, sees unlabelled rows with
the teacher's labels alone; the teacher moves along the student's loss on labelled rows after one step, plus its own
supervised loss and, with ``uda``, a consistency loss. The labels are the teacher's probabilities, so that the hypergradient is
exact; the paper samples hard ones and estimates it.

With ``schedule: fused`` the student's step is the look-ahead itself, as in the paper.
"""

from __future__ import annotations

import copy
from typing import ClassVar, Literal

from torch import Tensor

from ..batches import Batch, Labelled
from ..batches.outputs import Classes, Output
from ..engine.distributed import Coupling
from ..engine.pytree import Tree
from ..methods.base import Method
from ..ranges import NonNegative, Positive
from .base import BilevelProblem, ProblemError, Sizes, register_problem


@register_problem("meta_pseudo_labels")
class MetaPseudoLabels(BilevelProblem):
    """A teacher's labels for unlabelled rows, learned from what they do to the student (Pham et al., 2021).

    Args:
        supervised_weight: factor of the teacher's loss on the labelled rows. uda: factor of its consistency loss between weak
            and strong views. temperature: of the teacher's labels. teacher: ``fresh``: the network's architecture with weights
            of its own; ``copy``: the network's initial weights, as for pretrained ones.
    """

    dealt_coupling: ClassVar[Coupling | None] = {"labels": "rows", "loss": "whole"}
    supervised_weight: NonNegative = 1.0
    uda: NonNegative = 0.0
    temperature: Positive = 1.0
    teacher: Literal["fresh", "copy"] = "fresh"

    def check(self, method: Method, output: Output) -> None:
        if not isinstance(output, Classes):
            raise ProblemError("a teacher's labels are classes, and the task predicts values; use l2i")

    def init_meta(self, sizes: Sizes) -> dict[str, Tensor]:
        model = self.context.model
        start = copy.deepcopy(model.module)
        if self.teacher == "fresh":
            for part in start.modules():
                reset = getattr(part, "reset_parameters", None)
                if callable(reset):
                    reset()
        return {name: value.detach() for name, value in start.named_parameters() if name in model.params}

    def couple(self, meta: Tree, batch: Batch) -> Tree:
        """The teacher's ``labels`` of the unlabelled rows ``[n, classes]`` and its own ``loss``, a scalar."""
        output = self.context.output
        with self.context.model.updating_buffers(False):  # those of the module are the student's
            raw = self.predict(meta, batch.unlabelled.weak)
            loss = self.supervised_weight * self.supervised(meta, batch.labelled)
            if self.uda:
                strong = self.predict(meta, batch.unlabelled.strong)
                loss = loss + self.uda * output.soft_loss(strong, output.activate(raw).detach()).mean()
        return {"labels": (raw / self.temperature).softmax(-1), "loss": loss}

    def inner_loss(self, params: Tree, c: Tree, batch: Batch) -> Tensor:
        return self.context.output.soft_loss(self.predict(params, batch.unlabelled.strong), c["labels"]).mean()

    def outer_loss(self, params: Tree, c: Tree, holdout: Labelled) -> Tensor:
        """The student's loss on labelled rows, plus the teacher's own."""
        loss: Tensor = self.supervised(params, holdout) + c["loss"]
        return loss
