"""What a semi-supervised base method is: an imputer, a distance, a weight schedule. Nothing bilevel.

A method turns an unlabelled batch into labels (:meth:`Method.impute`), measures how far a prediction is from them
(:meth:`Method.consistency`), and says how much that counts (:meth:`Method.weight_at`). A problem that learns to impute
asks for :meth:`Method.psi`, the differentiable imputer.

What the student is trained on are rows of inputs (:meth:`Method.inputs`) with targets (:meth:`Method.targets`), a
differentiable function of the imputed labels. By default those are the examples as they come; methods that mix examples
say otherwise. Random choices behind them are made once per batch (:meth:`Method.prepare`) and travel with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar, cast, get_args

import torch
from torch import Tensor
from typing_extensions import dataclass_transform

from ..batches import Batch, Imputation, InputKind, Unlabelled, ViewKind
from ..batches.outputs import Classes, Output
from ..engine.losses import like_cross_entropy
from ..engine.pytree import Tree, filled, leaves_of
from ..engine.registry import Registry, require_kind
from ..errors import UserError
from ..ranges import NonNegative, Share

Predict = Callable[[Tree, Tree], Tensor]
State = dict[str, Tree]

methods: Registry[Callable[..., Method]] = Registry("method")
MethodClass = TypeVar("MethodClass", bound=Callable[..., "Method"])


@dataclass_transform(field_specifiers=(field,))
def register_method(name: str) -> Callable[[MethodClass], MethodClass]:
    """Decorator that files a method under ``name``; a class becomes a dataclass, whose fields are its options."""

    def add(given: MethodClass) -> MethodClass:
        require_kind(given, Method, "register_method")
        return methods.register(name)(given)

    return add


class MethodError(UserError, ValueError):
    """A method that does not apply to the task, with the reason. Ends a command with exit code 2."""


def linear_ramp(progress: float, length: float) -> float:
    """0 to 1 over the first ``length`` fraction of training, then 1; no ramp for a length of 0.

    A compiled step has its progress as a scalar tensor, and gets one.
    """
    if isinstance(progress, Tensor) and length > 0:
        ramped: Any = (progress / length).clamp(max=1.0)
        return cast(float, ramped)
    return 1.0 if length <= 0 else min(1.0, progress / length)


def kl_divergence(output: Output, raw: Tensor, labels: Tensor) -> Tensor:
    """KL(labels || prediction) per example, ``[n]``, from raw outputs and class probabilities."""
    # x log x with a finite slope at a probability that has underflowed to 0
    entropy = (labels * labels.clamp_min(torch.finfo(labels.dtype).tiny).log()).sum(-1)
    return entropy + output.soft_loss(raw, labels)


def ema_decay(step: int, decay: float) -> float:
    """``min(1 - 1/(t+1), decay)``: short runs do not keep their initial weights. ``step`` counts from 1."""
    return min(1.0 - 1.0 / (step + 1), decay)


@dataclass
class Method:
    """Base of all methods. Options are the fields of the concrete class.

    Attributes:
        weak, strong: the views that labels are imputed from and that the student trains on.
        labelled_view: the view of labelled examples.
        joint_forward: labelled and unlabelled rows go through the network in one batch, so that BatchNorm sees both.
            A method whose labelled targets depend on imputed labels needs it.
        uses_unlabelled: whether the base step has a consistency loss at all.
        accepts: kinds of input the method works on.
        row_wise: whether a row's labels and losses depend on that row alone, or on sums over rows that are taken with
            :func:`~metaimpute.engine.shard_sum`, so that several processes can have some rows each. Every class says so itself.
    """

    name: ClassVar[str] = ""
    weak: ClassVar[ViewKind] = "weak"
    strong: ClassVar[ViewKind] = "weak"
    labelled_view: ClassVar[ViewKind] = "weak"
    joint_forward: ClassVar[bool] = False
    uses_unlabelled: ClassVar[bool] = True
    accepts: ClassVar[tuple[InputKind, ...]] = get_args(InputKind)
    row_wise: ClassVar[bool] = False

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

    def check_inputs(self, kind: InputKind) -> None:
        """Called when a recipe is checked, before anything is loaded.

        Raises:
            MethodError: when the method adds inputs up and the task's are not numbers.
        """
        if kind not in self.accepts:
            fitting = " or ".join(self.accepts)
            raise MethodError(
                f"{self.name} adds to inputs as to numbers, and token ids are names; it takes {fitting} inputs, not {kind}"
            )

    @property
    def views(self) -> int:
        """Views of each unlabelled example a step needs. 1: ``strong`` is ``weak``; above 2: ``more`` holds the others."""
        return 2

    @property
    def least_confidence(self) -> float | None:
        """Option ``threshold``: the confidence from which an imputed label counts; None where a method asks for none."""
        return None

    # state -----------------------------------------------------------------------------------------------------------

    def init_state(self, params: Tree) -> State:
        """State carried from step to step (a teacher, an ensemble); empty for most methods."""
        return {}

    def update_state(self, state: State, params: Tree, step: int) -> State:
        """State after optimisation step number ``step`` (from 1)."""
        return state

    # the batch -------------------------------------------------------------------------------------------------------

    def prepare(self, predict: Predict, params: Tree, batch: Batch, rng: torch.Generator) -> Batch:
        """The batch with everything the method chooses at random for it, called once, before imputation.

        The choices hold for the base step, the look-ahead and every evaluation an estimator makes. ``rng`` is a function
        of seed and step; no gradient is recorded.
        """
        return batch

    def inputs(self, batch: Batch) -> tuple[Tree, Tree]:
        """What the student is trained on: labelled and unlabelled rows of inputs."""
        return batch.labelled.inputs, batch.unlabelled.strong

    def targets(self, imputed: Imputation, batch: Batch) -> tuple[Tensor, Imputation]:
        """Targets of the labelled rows, labels and weights of the unlabelled rows that :meth:`inputs` gives.

        A differentiable function of the imputed labels ``[n, outputs]``.
        """
        return batch.labelled.targets, imputed

    # imputation ------------------------------------------------------------------------------------------------------

    def impute(self, predict: Predict, params: Tree, unlabelled: Unlabelled, state: State) -> Imputation:
        """Labels for the base step, without gradient: ``[n, outputs]`` and weights ``[n]``."""
        labels = self.psi(predict, params, unlabelled)
        return Imputation(labels, torch.ones_like(labels[:, 0]))

    def psi(self, predict: Predict, params: Tree, unlabelled: Unlabelled) -> Tensor:
        """The imputer as a differentiable function of the network, ``[n, outputs]`` (paper, section 3 and appendix A.2).

        Default: the network's activated output on the weak view, moved with the example to the strong view.
        """
        return unlabelled.carried(self.output.activate(predict(params, unlabelled.weak)))

    def unsharpened(self) -> Method:
        """The method whose psi sharpens nothing: itself, unless it has a ``temperature``."""
        if getattr(self, "temperature", 1.0) == 1.0:
            return self
        without: dict[str, Any] = {"temperature": 1.0}
        return replace(self, **without).bind(self.output)

    # losses ----------------------------------------------------------------------------------------------------------

    @like_cross_entropy  # where the output's loss is
    def labelled_loss(self, raw: Tensor, targets: Tensor, progress: float) -> Tensor:
        """Supervised loss C_T of labelled rows, a scalar. Targets are class indices, distributions over classes or values."""
        return self.output.loss(raw, targets).mean()

    @like_cross_entropy  # where the output's soft loss is
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
        """``call`` (the network, or its features) on the labelled and the unlabelled rows; :meth:`targets` are theirs."""
        if self.joint_forward:
            found = call(concatenate(*self.inputs(batch)))
            n = len(batch.labelled.targets)
            return found[:n], found[n:]
        return self.forward_labelled(call, batch), self.forward_unlabelled(call, batch)

    def forward_labelled(self, call: Callable[[Tree], Tensor], batch: Batch) -> Tensor:
        """The first of :meth:`forward`'s two passes, where there are two."""
        return call(self.inputs(batch)[0])

    def forward_unlabelled(self, call: Callable[[Tree], Tensor], batch: Batch) -> Tensor:
        """The second of :meth:`forward`'s two passes, where there are two."""
        return call(self.inputs(batch)[1])

    def combine(self, raw: tuple[Tensor, Tensor], labels: Tensor, batch: Batch, weight: float) -> Tensor:
        """``C_T + weight * C_U`` from :meth:`forward`'s raw outputs and imputed labels ``[n, outputs]`` (Eq. 2, OPT1)."""
        known, rows = self.targets(Imputation(labels, batch.imputation.weights), batch)
        supervised = self.labelled_loss(raw[0], known, batch.progress)
        return supervised + weight * self.unlabelled_loss(raw[1], rows.labels, batch.with_imputed(rows))

    def unlabelled_loss(self, raw: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """C_U: mean over all rows of per-example distances times the imputation's weights. Row i of ``raw`` has label i."""
        return (batch.imputation.weights * self.consistency(raw, labels)).mean()

    def loss(self, predict: Predict, params: Tree, batch: Batch) -> Tensor:
        """The base step's loss, OPT1, on a batch whose labels are imputed."""
        weight = self.weight_at(batch.progress)
        if not self.uses_unlabelled:
            return self.labelled_loss(predict(params, batch.labelled.inputs), batch.labelled.targets, batch.progress)
        raw = self.forward(lambda inputs: predict(params, inputs), batch)
        return self.combine(raw, batch.imputation.labels, batch, weight)


def concatenate(left: Tree, right: Tree, *others: Tree) -> Tree:
    """Batches of inputs (tensors, or dicts of tensors such as token ids and masks) as one."""
    if others:
        return concatenate(concatenate(left, right), *others)
    pairs = zip(leaves_of(left), leaves_of(right), strict=True)
    return filled(left, [_padded_cat(x, y) for x, y in pairs])


def _padded_cat(left: Tensor, right: Tensor) -> Tensor:
    """Rows of tokens are padded with zeros to the longer of the two; attention masks are then zero there as well."""
    if left.ndim > 1 and left.shape[1] != right.shape[1] and left.shape[2:] == right.shape[2:]:
        width = max(left.shape[1], right.shape[1])
        after = [0, 0] * (left.ndim - 2)
        left, right = (torch.nn.functional.pad(t, (*after, 0, width - t.shape[1])) for t in (left, right))
    return torch.cat([left, right])
