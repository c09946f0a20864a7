"""Meta label correction (MLC): a learned function from a row and its given label to the label that is trained on.

Zheng, Awadallah and Dumais (AAAI 2021): the label correction network sees the row's features in the main network,
without a gradient to them, and the given label; the main network is trained on the soft labels it returns, and the outer
loss is that of trusted rows after one step. Here it has one hidden layer; theirs has two.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batches import Batch
from ..batches.outputs import Classes, Output
from ..engine.functional import HeadNotFound
from ..engine.pytree import Tree, detach
from ..methods.base import Method
from ..ranges import Count, NonNegative
from .base import BilevelProblem, Context, ProblemError, Sizes, register_problem
from .functions import call_function, init_function


@register_problem("label_correction")
class LabelCorrection(BilevelProblem):
    """Labels of the labelled rows as a function of their features and the given labels (MLC; Zheng et al., 2021).

    Args:
        width: hidden units of the function. trust: how far the given class is ahead of the others, in logits, before anything
            is learned; not in the paper, whose function begins at random labels.
    """

    dealt_coupling = "rows"
    uses_unlabelled = False

    width: Count = 128
    trust: NonNegative = 3.0

    def check(self, method: Method, output: Output) -> None:
        if not isinstance(output, Classes):
            raise ProblemError("corrects classes, and the task predicts values; use meta_weight_net")

    def bind(self, context: Context) -> BilevelProblem:
        try:
            context.model.head  # noqa: B018  # refused here rather than in the first step
        except HeadNotFound as error:
            raise ProblemError(f"problem '{self.name}' reads the inputs of the last linear layer: {error}") from None
        return super().bind(context)

    def init_meta(self, sizes: Sizes) -> dict[str, Tensor]:
        features = self.context.model.params[self.context.model.head[0]].shape[1]
        return init_function(features + sizes.outputs, self.width, sizes.outputs)

    def couple(self, meta: Tree, batch: Batch) -> Tree:
        """Corrected labels ``[n, classes]``, probabilities."""
        model, rows = self.context.model, batch.labelled
        with torch.no_grad(), model.updating_buffers(False):
            features = model.features(detach(model.params), rows.inputs)
        given = F.one_hot(rows.targets, self.context.output.size).to(features.dtype)
        scores = call_function(meta, torch.cat([features.detach(), given], 1)) + self.trust * given
        return scores.softmax(-1)

    def inner_loss(self, params: Tree, c: Tree, batch: Batch) -> Tensor:
        return self.context.output.soft_loss(self.predict(params, batch.labelled.inputs), c).mean()
