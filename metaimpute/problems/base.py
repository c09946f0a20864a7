"""What a bilevel problem is. It is written by users: it has no loop, no optimiser and no estimator in it.

    c         = couple(meta, batch)                  what the inner loss depends on; evaluated once per outer step
    theta_0   = start(meta, params)                  where the inner steps begin
    C_inner   = inner_loss(theta, c, batch)
    C_outer   = outer_loss(theta_k, c, holdout)

An estimator sees only ``(theta_0, c, inner_loss, outer_loss)``; the product through ``couple`` and ``start`` is taken
afterwards, once. That is what keeps the differentiated quantity small (labels) where the network is large.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeVar, get_args

import torch
from torch import Tensor, nn
from typing_extensions import dataclass_transform

from ..batches import Batch, Labelled
from ..batches.outputs import Output
from ..engine.distributed import Coupling, Reduction
from ..engine.functional import FunctionalModel, HeadNotFound
from ..engine.losses import Factored, StructuredLoss
from ..engine.pytree import Tree, detach, tensors, with_tensors
from ..engine.registry import Registry, require_kind
from ..errors import UserError
from ..methods.base import Method
from .forms import FormName

Learns = Literal["nothing", "network", "labels", "own"]

problems: Registry[Callable[..., BilevelProblem]] = Registry("problem")
ProblemClass = TypeVar("ProblemClass", bound=Callable[..., "BilevelProblem"])


@dataclass_transform(field_specifiers=(field,))
def register_problem(name: str) -> Callable[[ProblemClass], ProblemClass]:
    """Decorator that files a bilevel problem under ``name``; a class becomes a dataclass, whose fields are its options."""

    def add(given: ProblemClass) -> ProblemClass:
        require_kind(given, BilevelProblem, "register_problem")
        return problems.register(name)(given)

    return add


class ProblemError(UserError, ValueError):
    """A problem that does not fit the method, task or options, with the reason. Ends a command with exit code 2."""


@dataclass(frozen=True)
class Sizes:
    """Numbers a problem may need to lay out what it learns: rows of the pools, outputs of the network, rows of a labelled batch,
    shape of one input."""

    labelled: int
    unlabelled: int
    outputs: int
    batch: int = 0
    inputs: tuple[int, ...] = ()


class Adapt(Protocol):
    """Parameters after the inner steps on one batch, without graph; their number is the recipe's where none is given."""

    def __call__(self, theta_0: Tree, c: Tree, batch: Any, steps: int | None = None) -> Tree: ...


@dataclass(frozen=True)
class Context:
    """What a problem is bound to before training.

    Attributes:
        path: ``"labels"``: the inner steps start at detached parameters; ``"full"``: the start is differentiated too.
        inner: ``"all"``: the inner loss is C_T + lambda C_U (Algorithm 1, line 8); ``"unlabelled"``: lambda C_U alone. None:
            as the form has it.
        form: of L2I's look-ahead; see :mod:`.forms`.
    """

    model: FunctionalModel
    method: Method
    output: Output
    sizes: Sizes
    path: Literal["labels", "full"] = "labels"
    inner: Literal["all", "unlabelled"] | None = None
    form: FormName = "ours"


@dataclass
class BilevelProblem:
    """Base of all bilevel problems. Options are the fields of the concrete class.

    What ``meta`` is depends on :attr:`learns`, and so does what has to be defined beside :meth:`inner_loss`:

    * ``"network"``: the network's own parameters; the hypergradient is applied to them.
    * ``"labels"``: fresh leaf variables of each batch (:meth:`batch_meta`), moved once (:meth:`move`), then trained on
      (:meth:`trained_loss`).
    * ``"own"``: tensors that live through training (:meth:`init_meta`), moved by an optimiser of their own. The base step
      trains the network on :meth:`trained_loss` at them, in the place of the base method's loss.
    * ``"nothing"``: no bilevel stage, and no loss to define.

    All else has a default.

    Attributes:
        needs_estimate: whether what it learns is to have an estimate; without one it defines :meth:`control`.
        controls_at: the parameters that :meth:`control` is given, of the look-ahead's start or of its end.
        remasks: whether confidence masks are taken anew after the base step.
        replaces_base_step: whether the outer step, of a ``"labels"`` problem that on the moved variables, is the only training
            step, so that nothing is trained on what the problem would have changed first.
        episodes: whether rows are episodes (:mod:`metaimpute.batches.episodes`).
        held: keys of what :meth:`couple` returns that stay constant by the objective's definition, though they are computed from
            what is learned.
        max_inner_steps: of its look-ahead, where its equations are of no more; None: any number.
        uses_unlabelled: whether any of its functions look at the unlabelled batch, which else is not drawn for it.
        dealt_coupling: what a batch that is dealt out over several processes makes of its coupling: ``"rows"``: every tensor has
            a row for each of the batch's; ``"whole"``: none depends on the batch; a dict: for each key of it ``"rows"``, or
            ``"whole"`` for a mean over rows. None: a row's part depends on other rows, and one process has to hold them all.
        dealt_reduction: whether its inner loss is a ``"mean"`` over rows, or a ``"sum"``.
    """

    name: ClassVar[str] = ""
    learns: ClassVar[Learns] = "own"
    needs_estimate: ClassVar[bool] = True
    controls_at: ClassVar[Literal["start", "end"]] = "start"
    remasks: ClassVar[bool] = False
    replaces_base_step: ClassVar[bool] = False
    uses_unlabelled: ClassVar[bool] = True
    episodes: ClassVar[bool] = False
    held: ClassVar[tuple[str, ...]] = ()
    max_inner_steps: ClassVar[int | None] = None
    dealt_coupling: ClassVar[Coupling | None] = None
    dealt_reduction: ClassVar[Reduction] = "mean"

    context: Context = field(init=False, repr=False)

    def check(self, method: Method, output: Output) -> None:
        """Called when a recipe is checked, before anything is loaded.

        Raises:
            ProblemError: when the problem cannot work with this method or kind of output, with the reason.
        """

    def bind(self, context: Context) -> BilevelProblem:
        """Attaches the problem to a model and a method."""
        self.context = context
        return self

    @property
    def inner_is_base_loss(self) -> bool:
        """Whether the inner loss where the base step is taken is the base step's loss, so that a fused step may share it."""
        return self.learns == "own" and type(self).trained_loss is BilevelProblem.trained_loss

    @property
    def estimates(self) -> bool:
        """Whether an estimator works for it in training."""
        return self.needs_estimate and self.learns != "nothing"

    @property
    def draws_unlabelled(self) -> bool:
        """Whether unlabelled examples are drawn for it, whatever the base method does."""
        return self.uses_unlabelled and self.learns != "nothing"

    # for use inside the four functions ------------------------------------------------------------------------------

    @property
    def method(self) -> Method:
        return self.context.method

    def predict(self, params: Tree, inputs: Tree) -> Tensor:
        """Raw outputs of the network under ``params``, ``[n, outputs]``."""
        found: Tensor = self.context.model(params, inputs)
        return found

    def losses(self, params: Tree, labelled: Labelled) -> Tensor:
        """Task loss of each row of a labelled batch, ``[n]``."""
        return self.context.output.loss(self.predict(params, labelled.inputs), labelled.targets)

    def supervised(self, params: Tree, labelled: Labelled) -> Tensor:
        """Mean task loss of a labelled batch, a scalar."""
        return self.losses(params, labelled).mean()

    def parts(self, params: Tree, batch: Batch) -> tuple[Tensor, Tensor]:
        """The method's labelled loss, a scalar, and its masked consistency loss of each unlabelled row ``[n]``."""
        raw = self.method.forward(lambda inputs: self.predict(params, inputs), batch)
        known, rows = self.method.targets(batch.imputation, batch)
        losses = rows.weights * self.method.consistency(raw[1], rows.labels)
        return self.method.labelled_loss(raw[0], known, batch.progress), losses

    # what the problem learns ----------------------------------------------------------------------------------------

    def init_meta(self, sizes: Sizes) -> dict[str, Tensor]:
        """Initial values of what an ``"own"`` problem learns; what is random in them is drawn from torch's global generator."""
        raise _undefined(self, "init_meta")

    def batch_meta(self, params: Tree, batch: Batch) -> dict[str, Tensor]:
        """Initial leaf variables of a ``"labels"`` problem for one batch."""
        raise _undefined(self, "batch_meta")

    def move(self, meta: Tree, gradient: Tree) -> Tree:
        """The variables of a ``"labels"`` problem after their one step, without a graph.

        Args:
            gradient: shaped like ``meta``: what :meth:`control` gives, times ``problem.weight``.

        Default: ``meta - gradient``, so that ``problem.weight`` is the step size.
        """
        pairs = zip(tensors(meta), tensors(gradient), strict=True)
        return detach(with_tensors(meta, [leaf - slope for leaf, slope in pairs]))

    def label_change(self, before: Tree, after: Tree) -> Tensor:
        """How far :meth:`move` has moved them, a scalar, for the log; default: the mean absolute difference of all entries."""
        pairs = zip(tensors(before), tensors(after), strict=True)
        return torch.cat([(end - start).abs().flatten() for start, end in pairs]).mean()

    # the bilevel problem --------------------------------------------------------------------------------------------

    def couple(self, meta: Tree, batch: Batch) -> Tree:
        """The coupling c: what the inner loss depends on, as a differentiable function of ``meta``."""
        return meta

    def start(self, meta: Tree, params: Tree) -> Tree:
        """theta_0. Default: the parameters, detached on the ``labels`` path and differentiable on the ``full`` path."""
        return params if self.context.path == "full" else detach(params)

    def inner_loss(self, params: Tree, c: Tree, batch: Batch) -> Tensor:
        """What a training step lowers, a scalar. Every problem that learns something defines it."""
        raise _undefined(self, "inner_loss")

    def outer_loss(self, params: Tree, c: Tree, holdout: Labelled) -> Tensor:
        """Default: the mean task loss on the hold-out batch, C_H."""
        return self.supervised(params, holdout)

    def inner_hyper(self, meta: Tree, given: dict[str, Any]) -> dict[str, Any]:
        """Hyperparameters of the inner optimiser that are learned, such as ``lr``, as a differentiable function of ``meta``.

        Args:
            given: the optimiser's hyperparameters by name, as the recipe has them.

        Values are as of :class:`~metaimpute.engine.InnerOptimizer`: a tensor, or a dict with one per parameter name.
        """
        return {}

    def evaluated(self, module: nn.Module, meta: Tree, adapt: Adapt) -> nn.Module:
        """The network as it is tested and exported, where what is learned belongs to it.

        Args:
            module: the trained network, or its average. meta: what an ``"own"`` problem has learned, else None.
            adapt: takes the inner steps, without graph.
        """
        return module

    def row_weights(self, meta: Tree) -> Tensor | None:
        """Weights ``[labelled]`` of the labelled rows, where an ``"own"`` problem has learned them, for the run's folder."""
        return None

    # optional knowledge and hooks -----------------------------------------------------------------------------------

    def structured_inner(self) -> StructuredLoss:
        """The inner loss with whatever structure the problem can tell estimators about."""
        return StructuredLoss(self.inner_loss, head=self._head())

    def structured_outer(self) -> StructuredLoss:
        model, loss = self.context.model, self.context.output.loss
        if type(self).outer_loss is not BilevelProblem.outer_loss or not self._head():
            return StructuredLoss(self.outer_loss, head=self._head())
        factored = Factored(
            features=lambda params, holdout: model.features(params, holdout.inputs),
            readout=lambda params, found, c, holdout: loss(model.readout(params, found), holdout.targets).mean(),
        )
        return StructuredLoss(self.outer_loss, self._head(), factored=factored)

    def control(self, hypergradient: Tree, params: Tree, holdout: Labelled, rng: torch.Generator) -> Tree:
        """What is applied in the hypergradient's place; experiments' controls override this.

        Args:
            hypergradient: shaped like ``meta``, as the answer is; None where the problem needs no estimate.
            params: the network's, or those at the look-ahead's end where :attr:`controls_at` says so.
        """
        return hypergradient

    def fused_value(self, c: Tree, batch: Batch) -> Tree:
        """Value of the coupling at which a ``fused`` step is taken; its derivative is still that of :meth:`couple`."""
        return detach(c)

    def trained_loss(self, params: Tree, meta: Tree, batch: Batch) -> Tensor:
        """What the network is trained on: the variables just moved of a ``"labels"`` problem, in a step of their own; what an
        ``"own"`` problem has learned so far, in the base step.

        Default: the inner loss at them.
        """
        return self.inner_loss(params, self.couple(meta, batch), batch)

    def measure(self, meta: Any) -> dict[str, float]:
        """Extra numbers to log about what is learned.

        Args:
            meta: the tensors of an ``"own"`` problem, the moved variables of a ``"labels"`` problem, else the network's
                parameters.
        """
        return {}

    def _head(self) -> tuple[str, ...]:
        try:
            return self.context.model.head
        except HeadNotFound:
            return ()


_SIGNATURES = {
    "init_meta": "init_meta(sizes)",
    "batch_meta": "batch_meta(params, batch)",
    "inner_loss": "inner_loss(params, c, batch)",
    "control": "control(hypergradient, params, holdout, rng)",
}
_OF_KIND = {"own": "something of its own", "nothing": "nothing"}


def _undefined(problem: BilevelProblem, method: str) -> ProblemError:
    learned = _OF_KIND.get(problem.learns, problem.learns)
    estimated = "" if problem.needs_estimate else " without an estimate"
    return ProblemError(
        f"problem '{problem.name}' learns {learned}{estimated}, so it must define {_SIGNATURES[method]}"
    )


def require_complete(problem: BilevelProblem) -> None:
    """Whether a problem's class defines what its kind needs, before anything is loaded.

    Raises:
        ProblemError: naming the first method that is missing, or a kind that there is not.
    """
    if problem.learns not in get_args(Learns):
        raise ProblemError(
            f"problem '{problem.name}' learns '{problem.learns}'; write one of: {', '.join(get_args(Learns))}"
        )

    def inherits(method: str) -> bool:
        return getattr(type(problem), method) is getattr(BilevelProblem, method)

    if problem.learns == "nothing":
        return
    needed = {"own": ["init_meta"], "labels": ["batch_meta"]}.get(problem.learns, [])
    if not problem.needs_estimate:
        needed.append("control")
    estimated = problem.needs_estimate and inherits("structured_inner")
    trained = problem.learns in ("labels", "own") and inherits("trained_loss")
    if estimated or trained:
        needed.append("inner_loss")
    for method in needed:
        if inherits(method):
            raise _undefined(problem, method)
