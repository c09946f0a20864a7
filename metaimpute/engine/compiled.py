"""One inner step through ``torch.compile``: loss, gradient and update fused into one program with a compiled derivative.

A compiled loss cannot be differentiated twice: torch refuses double backward through it. A compiled *step* need not be.
The inner gradient is taken inside the program by ``torch.func.grad``, so what remains outside is one ordinary derivative
of the step, and that torch compiles along with it. Only the step is compiled, never the loop, so the time to compile
does not grow with k.
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .functional import fixed_rng
from .losses import Loss, StructuredLoss
from .optimizers import Hyper, InnerOptimizer, apply_updates
from .pytree import Tree, as_leaves, detach, gradient, tensors, tree_flatten, tree_unflatten, with_tensors

MANY_OPTIMIZERS = 4


class CannotCompile(ValueError):
    """An inner loss that torch.compile cannot turn into one program, with torch's reason."""


VARIANTS = 64  # of one step: first or later, with or without a graph, recorded or replayed

Stepped = tuple[Tree, Tree, Tensor, list[Tensor | None]]


@dataclass(frozen=True, eq=False)
class Compiled:
    """An inner loss whose step the unroll runs compiled; wrap it once and reuse it, for it holds the compiled programs.

    Any estimator that unrolls (``exact``, ``truncated``, ``first_order``, ``finite_difference``, the implicit ones) takes it
    in the place of the loss, under every memory policy but ``auto``, which cannot see into a compiled step. ``mixed``,
    ``forward`` and ``head`` differentiate the loss itself and evaluate it as it was.

    Args:
        loss: ``(theta, c, batch) -> scalar``, plain or structured (then its ``whole``), without control flow on values.
        backend: of torch.compile. ``inductor`` needs a C++ compiler.
    """

    loss: Loss
    backend: str = "inductor"
    _programs: dict[Any, tuple[Any, Callable[..., Stepped]]] = field(default_factory=dict, repr=False)

    @property
    def whole(self) -> Loss:
        return self.loss.whole if isinstance(self.loss, StructuredLoss) else self.loss

    def __call__(self, theta: Tree, c: Tree, batch: Any) -> Tensor:
        return self.loss(theta, c, batch)

    def step(
        self, optimizer: InnerOptimizer, theta: Tree, state: Tree, c: Tree, hyper: Hyper, batch: Any, constant: bool
    ) -> Stepped:
        """One inner step: new parameters, new state, the loss before, and the gradients of theta's tensors.

        Args:
            constant: the inner gradient is a constant to the derivative (first order).

        Raises:
            CannotCompile: when torch cannot, with its reason.
        """
        spec = tree_flatten(theta)[1]
        key = (id(optimizer.update), constant, str(spec))
        if key not in self._programs:
            if len({k[0] for k in self._programs}) == MANY_OPTIMIZERS:
                warnings.warn(
                    "a compiled loss met many inner optimizers; build one and change it by with_hyper", stacklevel=2
                )
            used = self._used(theta, c, batch)
            self._programs[key] = (optimizer.update, _program(self.whole, optimizer, used, constant, self.backend))
        counted, spec = tree_flatten(state)
        ticking = [tensor_of_count(leaf) for leaf in counted]
        try:
            with torch._dynamo.config.patch(recompile_limit=VARIANTS):
                found = self._programs[key][1](theta, tree_unflatten(ticking, spec), c, hyper, batch)
        except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError) as error:
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise CannotCompile(
                f"the inner loss cannot be compiled as one step ({reason}); pass it uncompiled"
            ) from error
        moved, spec = tree_flatten(found[1])
        moved = [int(new) if type(old) is int else new for new, old in zip(moved, counted, strict=True)]
        return found[0], tree_unflatten(moved, spec), *found[2:]

    def _used(self, theta: Tree, c: Tree, batch: Any) -> list[bool]:
        """Which of theta's tensors the loss depends on; the others do not move, as in torch.optim."""
        with torch.enable_grad(), fixed_rng(0):
            at = as_leaves(theta)
            found = gradient(self.whole(at, detach(c), batch), tensors(at), unused="none")
        return [slope is not None for slope in found]


def tensor_of_count(leaf: Any) -> Any:
    """A step count as a number the program reads, so that it is not compiled anew for each count."""
    return torch.tensor(leaf, dtype=torch.float64) if type(leaf) is int else leaf


def _program(
    loss: Loss, optimizer: InnerOptimizer, used: list[bool], constant: bool, backend: str
) -> Callable[..., Stepped]:
    """The compiled step. Its code object is its own, so that torch's count of recompilations is as well."""
    update = optimizer.update

    def step(theta: Tree, state: Tree, c: Tree, hyper: Hyper, batch: Any) -> Stepped:
        leaves = tensors(theta)

        def of_leaves(values: list[Tensor]) -> Tensor:
            return loss(with_tensors(theta, values), c, batch).reshape(())

        slopes, value = torch.func.grad_and_value(of_leaves)(leaves)
        kept = [
            (slope.detach() if constant else slope) if moves else None
            for slope, moves in zip(slopes, used, strict=True)
        ]
        updates, state = update(with_tensors(theta, kept), state, theta, hyper)
        return apply_updates(theta, updates), state, value.detach(), [None if s is None else s.detach() for s in kept]

    own = types.FunctionType(step.__code__.replace(), step.__globals__, step.__name__, None, step.__closure__)
    options: dict[str, Any] | None = (
        {"fallback_random": True} if backend == "inductor" else None
    )  # the same noise as uncompiled
    return torch.compile(own, backend=backend, fullgraph=True, dynamic=False, options=options)
