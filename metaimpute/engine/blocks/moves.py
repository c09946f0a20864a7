"""One step of a block: gradients of a loss at the weights in place, and the weights to which they lead."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..ambient import CannotDifferentiate, double_differentiable, holder
from ..dependence import computed_before, leaves_below
from ..losses import scalar
from ..noise import derive_seed, fixed_rng
from ..operators import in_words, require_second_derivative
from ..optimizers import InnerOptimizer, take_step
from ..optimizers.base import is_closed
from ..pytree import Tree, detach, gradient, tree_map
from ..rebuilt import Rebuilt, as_it_is, flags_as_then, require_no_more, require_untouched, versions
from ..repetition import GIVE_THE_SAME, Ledger, rebuilding, require_same_end
from ..replay import BadMemoryPolicy
from ..unroll import Differentiation, of_its_own
from .beside import gradient_of
from .inside import Inside, others_are_open
from .scalers import is_scaled

Params = dict[str, Tensor]
_WENT_BACK = (
    "the graph of the loss is gone: backward() was called on it; inner.step(loss) takes the gradient itself, so leave out "
    "backward()"
)


class Moved(NamedTuple):
    """Where a step leads, and the loss before it."""

    params: Params
    state: Tree
    loss: Tensor


@dataclass(frozen=True)
class Moves:
    """How a block takes its steps.

    Attributes:
        users: ids of the user's parameters in whose places the block's weights are, which no loss may use. recompute: whether a
            step's tensors are rebuilt in the reverse pass. origin: the block's first weights, which recomputed steps are looked
            at for. neighbours: the steps for which they are.
    """

    inside: Inside
    mode: Differentiation
    users: frozenset[int]
    recompute: bool
    origin: tuple[Tensor, ...] = ()
    neighbours: weakref.WeakSet[Rebuilt] = field(default_factory=weakref.WeakSet)

    def called(
        self, rule: InnerOptimizer, loss: Callable[..., Tensor], args: Any, start: Params, state: Tree, number: int
    ) -> Moved:
        """A step by a function: its noise is drawn from a seed, so that it may be called again.

        Args:
            number: of the step.

        Raises:
            BadMemoryPolicy: for memory ``recompute`` in a block inside another.
        """
        seed = int(torch.randint(2**62, (), dtype=torch.int64, device="cpu"))

        def evaluate(function: Callable[..., Tensor]) -> Callable[[], Tensor]:
            def once() -> Tensor:
                with fixed_rng(seed):
                    return function(*args)

            return once

        inside = self.inside
        try:
            if not self.recompute or self.mode != "full":
                return self.take(rule, evaluate(loss), start, state, seed=seed)
            if others_are_open(inside):
                raise BadMemoryPolicy(
                    "memory 'recompute' takes steps again when no other block is open; use 'store' in blocks inside one another"
                )
            frozen, ledger = evaluate(as_it_is(loss)), Ledger()
            buffers, modes, flags = [b.clone() for b in inside.buffers()], inside.modes(), inside.flags()
            used: list[Tensor] = []  # what requires a gradient, but for the weights
            # a tensor that is a hyperparameter may be written into before the next step, as a schedule
            kept = (*tree_map(_as_leaf, (start, state)), tree_map(_copy, rule.hyper))
            reached: list[Tree] = []  # and how often that and the start have been written into
            settings, part_of = _autocast(), holder()
            find, mode, users = (
                inside.later(),
                self.mode,
                self.users,
            )  # and not self: a graph that holds its own end is never freed

            def again() -> None:
                end, written = reached
                require_untouched(written)
                at, before, hyper = tree_map(_as_leaf, kept)
                inside, using = find(), list[Tensor]()
                with contextlib.ExitStack() as stack:
                    stack.enter_context(double_differentiable(part_of))
                    stack.enter_context(rebuilding())
                    stack.enter_context(inside.as_then(at, buffers, modes, flags))
                    stack.enter_context(flags_as_then([(leaf, True) for leaf in used]))
                    for kind, enabled, dtype in settings:
                        stack.enter_context(torch.autocast(kind, dtype=dtype, enabled=enabled))
                    found = Moves(inside, mode, users, True).take(rule, frozen, at, before, hyper, using, seed)
                require_no_more(using, used)
                ledger.note("inner", number, found.loss, "taken")
                ledger.verify()
                require_same_end((found.params, found.state), end, kept[:2], GIVE_THE_SAME)

            step = Rebuilt(again, self.neighbours)
            with step.taking():
                moved = self.take(rule, evaluate(loss), start, state, used=used, seed=seed)
            ledger.note("inner", number, moved.loss, "taken")
            end = detach((moved.params, moved.state))
            reached[:] = [end, versions((kept[:2], end))]
            return moved
        except BaseException:
            inside.put(start)
            raise

    def take(
        self,
        rule: InnerOptimizer,
        evaluate: Callable[[], Tensor],
        at: Params,
        state: Tree,
        hyper: Any = None,
        used: list[Tensor] | None = None,
        seed: int | None = None,
    ) -> Moved:
        """A step.

        Args:
            hyper: in place of the rule's. used: is told of the tensors that the loss uses and that require a gradient. seed: of
                what the rule draws.
        """
        seed = None if is_closed(rule.update) else seed  # which draws nothing
        first: Tensor | None = None
        for number, with_gradient in enumerate(rule.stages):
            slopes: list[Tensor | None] = [None] * len(at)
            if with_gradient:
                since = torch.autograd._get_sequence_nr()  # type: ignore[attr-defined]
                with rebuilding() if first is not None else contextlib.nullcontext():
                    loss = scalar(evaluate(), "inner")
                if self.recompute and computed_before(loss, since, list(at.values()), self.origin):
                    raise BadMemoryPolicy(
                        "the function uses a tensor that was computed from the block's weights outside of it, which memory "
                        "'recompute' would take for a constant; compute it inside the function, detach it, or use memory 'store'"
                    )
                slopes = self._slopes(loss, at, used)
                first = loss if first is None else first
            noise = contextlib.nullcontext() if seed is None else fixed_rng(derive_seed(seed, number))
            with torch.set_grad_enabled(self.mode != "none"), noise:
                end, state = take_step(rule, slopes, state, at, rule.hyper if hyper is None else hyper)
            at = self.renewed(at, end)
            if number + 1 < len(rule.stages):
                self.inside.put(at)
        assert first is not None
        return Moved(at, state, first)

    def _slopes(self, loss: Tensor, at: Params, used: list[Tensor] | None) -> list[Tensor | None]:
        if not loss.requires_grad:
            raise CannotDifferentiate(
                "the loss depends on nothing that requires a gradient; compute it in the block, outside no_grad, without detach()"
            )
        if is_scaled(loss):
            raise CannotDifferentiate(
                "the loss was scaled by a GradScaler, so that the step would be as many times too long; step down the loss "
                "itself: a block's gradients are not scaled"
            )
        tensors = list(at.values())
        leaves = list(leaves_below([loss], tensors))
        if used is not None:
            used += leaves
        if any(id(leaf) in self.users for leaf in leaves):
            raise CannotDifferentiate(
                "the loss uses a parameter of the model that was taken out of it before the block, which no step moves; take it "
                "from the model inside the block (model.weight, model.parameters()), or from inner.start for the first weights"
            )
        full = self.mode == "full"
        try:
            with gradient_of(self.inside, self.inside.others):
                slopes: list[Tensor | None] = gradient(
                    loss, tensors, create_graph=full, retain_graph=self.mode != "none", unused="none"
                )
            if full:
                require_second_derivative(loss, tensors, slopes)
        except RuntimeError as error:
            words = _WENT_BACK if "backward through the graph a second time" in str(error) else in_words(error)
            if words is None:
                raise
            raise CannotDifferentiate(words) from error
        if all(slope is None for slope in slopes):
            raise CannotDifferentiate(
                "the loss does not depend on the weights in place: it was computed before the last step, by another model, or by "
                "a copy of this one; compute it anew from the model inside the block"
            )
        return slopes if full else detach(slopes)

    def renewed(self, at: Params, end: Sequence[Tensor]) -> Params:
        if self.mode == "none":
            return {name: p.detach().requires_grad_() for name, p in zip(at, end, strict=True)}
        return {
            name: after if after is not before and after.requires_grad else of_its_own(after)
            for (name, before), after in zip(at.items(), end, strict=True)
        }


def _as_leaf(leaf: Any) -> Any:
    return leaf.detach().requires_grad_(leaf.requires_grad) if isinstance(leaf, Tensor) else leaf


def _copy(leaf: Any) -> Any:
    return leaf.detach().clone().requires_grad_(leaf.requires_grad) if isinstance(leaf, Tensor) else leaf


def _autocast() -> list[tuple[str, bool, torch.dtype]]:
    kinds = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return [(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds]
