"""One inner step through ``torch.compile``: loss, gradient and update fused into one program with a compiled derivative.

A compiled loss cannot be differentiated twice: torch refuses double backward through it. A compiled *step* need not be.
The inner gradient is taken inside the program by ``torch.func.grad``, so what remains outside is one ordinary derivative
of the step, and that torch compiles along with it. Only the step is compiled, never the loop, so the time to compile
does not grow with k.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from .losses import Loss, StructuredLoss, scalar
from .noise import fixed_rng
from .optimizers import Hyper, InnerOptimizer, apply_updates
from .pytree import Tree, as_leaves, detach, filled, gradient, leaves_of, tensors, tree_map, with_tensors
from .repetition import rebuilding

VARIANTS = 64  # of one step: first or later, with or without a graph, recorded or replayed, each rule, each shape

Stepped = tuple[Tree, Tree, Tensor, list[Tensor | None]]


class CannotCompile(UserError, ValueError):
    """An inner step that torch.compile cannot turn into one program, with torch's reason."""


@dataclass(frozen=True, eq=False)
class Compiled:
    """An inner loss whose step the unroll runs compiled; wrap it once and reuse it, for it holds the compiled programs.

    Any estimator that unrolls (``exact``, ``truncated``, ``first_order``, ``finite_difference``, the implicit ones) takes it
    in the place of the loss, under every memory policy but ``auto``, which cannot see into a compiled step. ``mixed``,
    ``forward`` and ``head`` differentiate the loss itself and evaluate it as it was.

    Torch compiles anew what is another program: another rule, another shape, a module's mode, a Python number in the batch
    or in what the loss refers to. Hyperparameters and step counts may change freely.

    Args:
        loss: ``(theta, c, batch) -> scalar``, plain or structured (then its ``whole``), without control flow on values.
        backend: of torch.compile. ``inductor`` needs a C++ compiler.
    """

    loss: Loss
    backend: str = "inductor"

    def __post_init__(self) -> None:
        if isinstance(self.loss, StructuredLoss) and self.loss.joined is not None:
            raise CannotCompile("a loss that is joined over processes cannot be compiled; pass it as it is")

    @property
    def whole(self) -> Loss:
        return self.loss.whole if isinstance(self.loss, StructuredLoss) else self.loss

    def __call__(self, theta: Tree, c: Tree, batch: Any) -> Tensor:
        return self.loss(theta, c, batch)

    @functools.cached_property
    def _program(self) -> Callable[..., Stepped]:
        return _program(self.whole, self.backend)

    def step(
        self, optimizer: InnerOptimizer, theta: Tree, state: Tree, c: Tree, hyper: Hyper, batch: Any, constant: bool
    ) -> Stepped:
        """One inner step: new parameters, new state, the loss before, and the gradients of theta's tensors.

        Args:
            constant: the inner gradient is a constant to the derivative (first order).

        Raises:
            CannotCompile: when torch cannot, with its reason.
        """
        counted, read = tree_map(tensor_of_count, state), tree_map(tensor_of_number, hyper)
        theta, moved, loss, slopes = self._program(optimizer.update, constant, theta, counted, c, read, batch)
        return theta, like(state, moved), loss, slopes


def tensor_of_count(leaf: Any) -> Any:
    """A step count as a number the program reads, so that it is not compiled anew for each count."""
    return torch.tensor(leaf, dtype=torch.float64, device="cpu") if type(leaf) is int else leaf


def tensor_of_number(leaf: Any) -> Any:
    """A hyperparameter likewise, but for the number 0, which switches a part of the rule off."""
    number = isinstance(leaf, int | float) and not isinstance(leaf, bool)
    return torch.tensor(leaf, dtype=torch.float64, device="cpu") if number and leaf else leaf


def like(before: Tree, after: Tree) -> Tree:
    """``after`` with counts where ``before`` has them, and in its types: a float64 number widens a leaf without dimensions."""
    olds, news = leaves_of(before), leaves_of(after)
    if len(olds) != len(news):  # a state that the rule made in this step
        return after

    def one(old: Any, new: Any) -> Any:
        if type(old) is int:
            return int(new)
        return new.to(old.dtype) if isinstance(old, Tensor) and isinstance(new, Tensor) else new

    return filled(after, [one(old, new) for old, new in zip(olds, news, strict=True)])


def _program(loss: Loss, backend: str) -> Callable[..., Stepped]:
    """The compiled step. Its code object is its own, so that torch's count of recompilations is as well."""
    traced: list[tuple[Tree, Tree, Any]] = []
    failed: list[Exception] = []

    def dependence() -> tuple[bool, ...]:
        """Which of theta's tensors the loss depends on; the others do not move, as in torch.optim. Asked at each compilation."""
        theta, c, batch = traced[-1]
        try:
            with torch.enable_grad(), fixed_rng(0, shared_generator=True), rebuilding() as held:
                at = as_leaves(theta)
                found = gradient(scalar(loss(at, detach(c), batch), "inner"), tensors(at), unused="none")
                if held:
                    name = type(held[0]).__name__
                    raise CannotCompile(
                        f"the inner loss updates the running statistics of its {name} (updating_buffers), which a "
                        "compiled step cannot; update them in a pass of their own, or pass the loss uncompiled"
                    )
        except Exception as error:  # the loss's own mistake, which is none of the compiler's
            failed.append(error)
            raise RuntimeError("the loss failed") from None  # torch would write its own words into the loss's exception
        return tuple(slope is not None for slope in found)

    used: Callable[[], tuple[bool, ...]] = torch._dynamo.assume_constant_result(dependence)

    def step(
        update: Callable[..., Any], constant: bool, theta: Tree, state: Tree, c: Tree, hyper: Hyper, batch: Any
    ) -> Stepped:
        leaves, moving = tensors(theta), used()

        def of_leaves(values: list[Tensor]) -> Tensor:
            return loss(with_tensors(theta, values), c, batch).reshape(())

        slopes, value = torch.func.grad_and_value(of_leaves)(leaves)
        kept = [
            (slope.detach() if constant else slope) if moves else None
            for slope, moves in zip(slopes, moving, strict=True)
        ]
        updates, moved = update(with_tensors(theta, kept), state, theta, hyper)
        end = like(theta, apply_updates(theta, updates))
        first = [None if s is None else s.detach().clone() for s in kept]  # no alias of a momentum buffer
        return end, moved, value.detach(), first

    own = types.FunctionType(step.__code__.replace(), step.__globals__, step.__name__, None, step.__closure__)
    # fallback_random: noise from the generator that fixed_rng seeds, so that a repeated step repeats it
    options: dict[str, Any] | None = {"fallback_random": True} if backend == "inductor" else None
    compiled = torch.compile(own, backend=backend, fullgraph=True, dynamic=False, options=options)

    def call(
        update: Callable[..., Any], constant: bool, theta: Tree, state: Tree, c: Tree, hyper: Hyper, batch: Any
    ) -> Stepped:
        exc = torch._dynamo.exc
        traced.append((theta, c, batch))
        try:
            with torch._dynamo.config.patch(recompile_limit=VARIANTS):
                found: Stepped = compiled(update, constant, theta, state, c, hyper, batch)
                return found
        except exc.FailOnRecompileLimitHit as error:
            raise CannotCompile(
                f"the inner step was compiled {VARIANTS} times, each for another shape, mode or Python number; "
                "pad the batches, pass numbers that change as tensors, or pass the loss uncompiled"
            ) from error
        except Exception as error:
            if failed:
                raise failed[0] from None
            if not isinstance(error, exc.TorchDynamoException | torch._inductor.exc.InductorError):
                raise
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise CannotCompile(f"the inner step cannot be compiled ({reason}); pass the loss uncompiled") from error
        finally:
            traced.clear()
            failed.clear()

    return call
