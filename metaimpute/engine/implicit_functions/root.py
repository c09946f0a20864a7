"""A condition of the user's at a solution that was given, and what is checked of both before anything is differentiated."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..ambient import CannotDifferentiate, holder
from ..arguments import unchanged
from ..cuts import Cuts
from ..dependence import other_than
from ..linear_solvers.base import LinearSolver
from ..linear_solvers.choice import WarmStart
from ..noise import derive_seed
from ..pytree import Tree, detach, leaves_of, norm, tensors, with_tensors
from ..repetition import NotRepeatable
from .conditions import Condition
from .maps import Map, Tensors, slopes

Batches = Callable[[torch.Generator], Any]
Support = Callable[[Tree], Tree]


class PlainOnly(TorchFunctionMode):
    """Refuses tensors of a transform of ``torch.func``: the condition is evaluated outside, where its arguments are plain."""

    def __init__(self, named: str) -> None:
        super().__init__()
        self.named = named

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in leaves_of((args, kwargs or {})):
            if isinstance(leaf, Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(leaf):
                raise CannotDifferentiate(
                    f"{self.named} uses a tensor of a transform of torch.func that is none of the arguments, so that its "
                    "derivative "
                    "would be lost: pass it to implicit() behind the solution; a transform inside the condition is told apart "
                    "from "
                    "one around implicit() only where there is none around it, so take objective= or torch.autograd.grad there"
                )
        return func(*args, **(kwargs or {}))


@dataclass
class Root(Condition):
    """A condition of the user's at a solution that was given. Its ``a`` are the solution's tensors, then those of the arguments.

    Attributes:
        function: ``(x, *args[, batch]) -> tree in the shape of x``, zero at the solution.
        x, args: trees in which tensors have their places and other leaves are used.
        requires: for every tensor of the arguments whether somebody waits for its derivative. transformed: whether a transform of
            ``torch.func`` is around.
    """

    function: Callable[..., Tree]
    x: Tree
    args: tuple[Any, ...]
    solver: LinearSolver | WarmStart
    tolerance: float
    seed: int
    support: Support | None
    batches: Batches | None
    requires: list[bool]
    named: str
    transformed: bool = False
    draw: int = 0
    part_of: object | None = field(default_factory=holder)

    def __post_init__(self) -> None:
        self.unknowns = self.held = len(tensors(self.x))
        self.samples = self.batches is not None

    def masks(self, a: Tensors) -> list[Tensor] | None:
        if self.support is None:
            return None
        found = [
            leaf for leaf in leaves_of(self.support(with_tensors(self.x, a[: self.held]))) if isinstance(leaf, Tensor)
        ]
        if [mask.shape for mask in found] != [leaf.shape for leaf in a[: self.held]] or any(
            m.dtype != torch.bool for m in found
        ):
            raise CannotDifferentiate(
                "support= returns a mask (a tensor of bool) for every tensor of the solution, in its shape"
            )
        return found

    def sample(self, draw: int) -> Map:
        return replace(self, draw=draw)

    def shaped(self, x: Tensors) -> Tree:
        return with_tensors(self.x, x)

    def value(self, inputs: Tensors, graph: bool = True) -> Tensors:
        x, a = inputs[: self.unknowns], inputs[self.unknowns :]
        masks = self.masks(a)
        if masks is not None:
            x = [torch.where(mask, own, given) for mask, own, given in zip(masks, x, a[: self.held], strict=True)]
        at, args = with_tensors(self.x, x), with_tensors(self.args, a[self.held :])
        batch = []
        if self.batches is not None:
            seed = derive_seed(self.seed, self.draw)
            batch = [self.batches(torch.Generator(device="cpu").manual_seed(seed))]
        with unchanged("implicit", at, args):
            found = self.function(at, *args, *batch)
        value = self._like_the_solution(found, x)
        return (
            value
            if masks is None
            else [torch.where(m, v, torch.zeros_like(v)) for m, v in zip(masks, value, strict=True)]
        )

    def _like_the_solution(self, found: Tree, x: Tensors) -> Tensors:
        value = tensors(found)
        shapes = [[list(leaf.shape) for leaf in part] for part in (value, x)]
        if shapes[0] != shapes[1]:
            what = shapes[0] if value else type(found).__name__
            raise CannotDifferentiate(
                f"{self.named} returns the tensors of the solution's shapes {shapes[1]}, as many conditions as unknowns, not "
                f"{what}"
            )
        return value

    def solution(self, a: Tensors) -> Tensors:
        with self.evaluating():
            x, args = ([leaf.detach().requires_grad_() for leaf in part] for part in (a[: self.held], a[self.held :]))
            with Cuts() as cuts, PlainOnly(self.named) if self.transformed else contextlib.nullcontext():
                value = self._evaluated(x, [*x, *args])
            other = other_than(value, [*x, *args])
            if other is not None:
                raise CannotDifferentiate(
                    f"{self.named} uses a tensor of shape {list(other.shape)} that requires a gradient but is none of the "
                    "arguments, so "
                    "that it would "
                    "get none; pass it to implicit() behind the solution, or detach it"
                )
            if cuts.noise and not self.samples:
                with self.evaluating():  # torch's noise from its beginning
                    again = zip(self.value([*x, *x, *args]), value, strict=True)
                if any(not torch.equal(one, other) for one, other in again):
                    raise NotRepeatable(
                        f"{self.named} draws noise from {cuts.noise[0]}, which differs in every evaluation; draw it from torch's "
                        "global generator, which is replayed, or beforehand"
                    )
            self._require_a_way(value, args, cuts)
            if not self.samples:
                self._require_root(value, x)
        return [leaf.detach().clone() for leaf in x]

    def _evaluated(self, x: Tensors, a: Tensors) -> Tensors:
        try:
            return self.value([*x, *a])
        except RuntimeError as error:
            if "in-place operation" in str(error):
                raise CannotDifferentiate(
                    f"{self.named} changes the solution or an argument in place; compute a new tensor, or clone() it before"
                ) from error
            kinds = {(leaf.dtype, leaf.device) for leaf in a}
            if (
                len(kinds) < 2
                or isinstance(error, CannotDifferentiate)
                or ("dtype" not in str(error) and "device" not in str(error))
            ):
                raise
            first, rest = a[0], next(leaf for leaf in a if (leaf.dtype, leaf.device) != (a[0].dtype, a[0].device))
            raise CannotDifferentiate(
                f"the solution is {first.dtype} on {first.device} and an argument {rest.dtype} on {rest.device}, which "
                f"{self.named} cannot mix; "
                f"pass solution.to(argument)"
            ) from error

    def _require_a_way(self, value: Tensors, args: Tensors, cuts: Cuts) -> None:
        """That a derivative can come through: F depends on x, and on what it hides from autograd it depends in no other way."""
        if not any(leaf.requires_grad for leaf in value):
            raise CannotDifferentiate(
                f"{self.named} returns numbers without a graph, so nothing can be differentiated; write it in torch's "
                "operations (a solver "
                "may be anything, its condition may not)"
            )
        if not cuts.gradients:
            return
        live = [leaf for leaf in value if leaf.requires_grad]
        found = torch.autograd.grad(
            live, args, [torch.ones_like(leaf) for leaf in live], retain_graph=True, allow_unused=True
        )
        for number, (slope, waits) in enumerate(zip(found, self.requires, strict=True)):
            if slope is None and waits:
                raise CannotDifferentiate(
                    f"{self.named} cuts the gradient ({', '.join(cuts.gradients)}) and depends on tensor {number} of the "
                    "arguments in no "
                    "other way, so that it would get none; write it in torch's operations, or detach that argument"
                )

    def _require_root(self, value: Tensors, x: Tensors) -> None:
        """That the solution is one. How far it is off is estimated by ``|F|^2 / |A^T F|``, in the units of the solution."""
        size = float(norm(detach(value)))
        if size == 0.0:
            return
        if not size < float("inf"):
            raise CannotDifferentiate(f"{self.named} is not finite at the solution")
        pulled = float(norm(slopes(value, x, [leaf.detach() / size for leaf in value])))
        off = size / pulled if pulled else float("inf")
        if off > self.tolerance * (1 + float(norm(detach(x)))):
            raise CannotDifferentiate(
                f"{self.named} has norm {size:.2g} at the solution, which is about {off:.2g} away from where it is zero "
                "(allowed is tolerance "
                f"{self.tolerance:g} times 1 + the solution's norm), so that it has not this derivative; solve it to a smaller "
                "tolerance, "
                "or pass a larger tolerance="
            )
