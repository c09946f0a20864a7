"""MT: agree with an exponential moving average of oneself (Tarvainen and Valpola, NeurIPS 2017)."""

from __future__ import annotations

from torch import Tensor

from ..batches import Imputation, Unlabelled
from ..engine.losses import squared_error_of_outputs
from ..engine.pytree import Tree, detach, map_tensors, tensors, with_tensors
from ..ranges import BelowOne, NonNegative, Share
from .base import Method, Predict, State, ema_decay, register_method


@register_method("mean_teacher")
class MeanTeacher(Method):
    """Squared difference between the student's and an averaged teacher's outputs on two weak views.

    The teacher runs in the student's mode (training) on its own view and receives no gradient. Its decay warms up as
    ``min(1 - 1/(t+1), decay)``. Under a bilevel problem psi is the student itself, so that labels depend on the network.

    Args:
        weight: lambda. ramp: fraction of training over which lambda grows linearly. decay: of the teacher.
    """

    row_wise = True
    weight: NonNegative = 50.0
    ramp: Share = 0.4
    decay: BelowOne = 0.999

    def init_state(self, params: Tree) -> State:
        return {"teacher": map_tensors(lambda p: p.detach().clone(), params)}

    def update_state(self, state: State, params: Tree, step: int) -> State:
        decay = ema_decay(step, self.decay)
        now = tensors(detach(params))
        mixed = [old.lerp(new, 1 - decay) for old, new in zip(tensors(state["teacher"]), now, strict=True)]
        return {"teacher": with_tensors(state["teacher"], mixed)}

    def impute(self, predict: Predict, params: Tree, unlabelled: Unlabelled, state: State) -> Imputation:
        return super().impute(predict, state["teacher"], unlabelled, state)

    @squared_error_of_outputs
    def consistency(self, raw: Tensor, labels: Tensor) -> Tensor:
        return self.output.squared_error(raw, labels)
