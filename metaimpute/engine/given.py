"""Losses and rules whose gradient goes on into the caller's graph: they may use what they are given, and nothing else.

An estimator returns gradients for its arguments alone. Where its result stands in a larger graph, a loss that reaches another
tensor which requires a gradient (through a closure, the batch, a module) would leave that tensor without one, silently; here it
is refused. Parts of an argument that need no gradient are kept out of the estimator's sight, so that it does no work for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .ambient import CannotDifferentiate
from .arguments import unchanged
from .compiled import Compiled
from .dependence import other_than
from .losses import Factored, Loss, LossWithAux, NotScalar, Split, StructuredLoss
from .noise import fixed_rng
from .optimizers import Hyper, InnerOptimizer
from .optimizers.base import closed, is_closed
from .pytree import Tree, as_leaves, detach, differentiable, filled, leaves_of, tensors, tree_map
from .repetition import rebuilding


def require_given(value: Tensor, given: Sequence[Tensor], which: str) -> None:
    """Checks that ``value`` depends on nothing that requires a gradient but on ``given``.

    Raises:
        CannotDifferentiate: naming the shape of what it depends on.
    """
    found = other_than([value], given)
    if found is not None:
        raise CannotDifferentiate(
            f"the {which} loss uses a tensor of shape {list(found.shape)} that requires a gradient but is in none of params, the "
            "coupling and the hyperparameters, so that it would get none; put it into the coupling, or detach it"
        )


def only(tree: Tree, kept: Callable[[Any], bool]) -> Tree:
    """The tree with None in place of the leaves that are not kept."""
    return tree_map(lambda leaf: leaf if kept(leaf) else None, tree)


def completed(part: Tree, whole: Tree) -> Tree:
    """``part`` with the leaves of ``whole`` where it has None."""
    pairs = zip(leaves_of(part), leaves_of(whole), strict=True)
    return filled(whole, [theirs if own is None else own for own, theirs in pairs])


@dataclass
class Aux:
    """What the last evaluation of a loss returned beside its value, without graph."""

    last: Any = None


@dataclass
class Given:
    """One member of a loss, watched.

    Attributes:
        function: the member. which: ``"inner"`` or ``"outer"``. place: of the coupling among its arguments, None without one.
        constants: the coupling's parts that need no gradient, in the coupling's shape with None elsewhere; None: there are none.
        checks: how many more evaluations are held against what they are given. has_aux: whether it may return ``(loss, aux)``.
    """

    function: Callable[..., Any]
    which: str
    place: int | None
    constants: Tree
    checks: int
    has_aux: bool
    aux: Aux
    kind: str = "loss"

    def __post_init__(self) -> None:
        self.__code__ = getattr(
            self.function, "__code__", type(self.function)
        )  # memory 'auto' tells losses apart by it

        self.stacked = getattr(self.function, "stacked", False)

    def __call__(self, *args: Any) -> Any:
        given = args[:-1]  # all but the batch
        if self.place is not None and self.constants is not None:
            args = (*args[: self.place], completed(args[self.place], self.constants), *args[self.place + 1 :])
        with unchanged(self.which, {}, self.constants):
            if self.kind == "features" and not torch.is_grad_enabled():
                with torch.enable_grad():
                    found = self.function(detach(args[0]), *args[1:])
            else:
                found = self.function(*args)
        if self.kind == "loss" and isinstance(found, tuple):
            if not self.has_aux or len(found) != 2:
                raise NotScalar(
                    f"the {self.which} loss returned a tuple of {len(found)}; with aux=True it may be (loss, aux), else a scalar"
                )
            found, self.aux.last = found[0], detach(found[1])
        if self.checks > 0 and self.kind != "rows":
            self.checks -= 1
            for value in tensors(found):
                require_given(value, tensors(given), self.which)
        return detach(found) if self.kind == "features" and not torch.is_grad_enabled() else found


@dataclass(frozen=True)
class Watch:
    """How a loss is handed to an estimator.

    Attributes:
        constants: parts of the coupling to be filled in, see :class:`Given`. checks: evaluations to be checked, 0 for none.
        has_aux: whether losses may return ``(loss, aux)``.
    """

    constants: Tree = None
    checks: int = 0
    has_aux: bool = False
    aux: Aux = field(default_factory=Aux)

    def loss(self, loss: LossWithAux, which: str) -> Loss:
        """The loss, watched, in its own kind."""

        def member(function: Callable[..., Any] | None, place: int | None, kind: str = "loss") -> Any:
            if function is None:
                return None
            return Given(function, which, place, self.constants, self.checks, self.has_aux, self.aux, kind)

        if isinstance(loss, Compiled):
            if which == "inner":  # its step is a program, which is not to be seen into; see require_closed_program
                return loss
            loss = loss.loss
        if not isinstance(loss, StructuredLoss):
            plain: Loss = member(loss, 1)
            return plain
        split, factored = loss.split, loss.factored
        if split is not None:
            split = Split(member(split.free, None), member(split.coupled, 1))
        if factored is not None:
            apart = factored.features if isinstance(factored.features, tuple) else (factored.features,)
            seen: Any = tuple(member(one, None, "features") for one in apart)
            factored = Factored(
                seen if isinstance(factored.features, tuple) else seen[0],
                member(factored.readout, 2),
                member(factored.label_rows, 0, "rows"),
            )
        return replace(loss, whole=member(loss.whole, 1), split=split, factored=factored)


def require_closed_program(loss: Compiled, theta: Tree, c: Tree, batch: Any) -> None:
    """Evaluates a compiled loss once as it was, since nothing is seen of what its program uses.

    Raises:
        CannotDifferentiate: when it uses another tensor that requires a gradient. NotScalar: when it returns more than a loss.
    """
    at, c = as_leaves(theta), as_leaves(c)
    with torch.enable_grad(), rebuilding(), fixed_rng(0):
        found = loss.whole(at, c, batch)
    if isinstance(found, tuple):
        raise NotScalar(
            "a compiled inner loss returns its value alone; return aux from the outer loss, or do not compile"
        )
    require_given(found, tensors((at, c)), "inner")


@dataclass(frozen=True)
class GivenRule:
    """A rule's ``init`` or ``update``, watched at every call as :class:`Given` watches a loss. A call is made once.

    Attributes:
        function: the rule's own. label: the rule's.
    """

    function: Callable[..., Any]
    label: str

    def __call__(self, *args: Any) -> Any:
        if torch.is_grad_enabled():
            found = self.function(*args)
            other = other_than(tensors(found), tensors(args))
        else:  # without a graph of the arguments what has one has it from elsewhere
            args = tree_map(lambda leaf: leaf.detach() if differentiable(leaf) and leaf.requires_grad else leaf, args)
            with torch.enable_grad():
                found = self.function(*args)
            other = other_than(tensors(found), ())
        if other is not None:
            raise CannotDifferentiate(
                f"{self.label} uses a tensor that requires a gradient but is none of its hyperparameters, so that it would get "
                "none; pass it as a hyperparameter (a learned schedule as a tensor), or detach it"
            )
        return found

    def require_closed(self, *args: Any) -> None:
        """One more call, for a program that calls the rule where nothing is seen of it.

        Raises:
            CannotDifferentiate: as a call does.
        """
        with torch.no_grad(), fixed_rng(0):
            self(*args)


def given_rule(rule: InnerOptimizer) -> InnerOptimizer:
    """The rule, held at every step it takes to its arguments; itself where it is known to use nothing else."""
    if is_closed(rule.init, rule.update):
        return rule
    return replace(rule, init=GivenRule(rule.init, rule.label), update=GivenRule(rule.update, rule.label))


def with_fixed(rule: InnerOptimizer) -> InnerOptimizer:
    """The rule with those tensors out of its hyperparameters that need no gradient."""
    whole = detach(rule.hyper)
    part = only(rule.hyper, lambda leaf: not differentiable(leaf) or leaf.requires_grad)

    def update(grads: Tree, state: Tree, params: Tree, hyper: Hyper) -> tuple[Tree, Tree]:
        return rule.update(grads, state, params, completed(hyper, whole))

    return replace(rule, update=closed(update) if is_closed(rule.update) else update, hyper=part)
