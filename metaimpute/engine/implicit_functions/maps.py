"""Functions of tensors whose derivatives are functions of the same kind, computed on plain tensors.

All is reverse mode, forward products are reverse over reverse, so that no operator is asked for a formula that torch has not or
has wrong; and all of it is computed outside whatever transforms of ``torch.func`` are open.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..ambient import CannotDifferentiate, autocast_off, double_differentiable
from ..noise import fixed_rng
from ..operators import in_words, require_second_derivative
from ..sharded import refusing_shards
from ..unroll import of_its_own

Tensors = list[Tensor]


@contextlib.contextmanager
def evaluating(seed: int, part_of: object | None) -> Iterator[None]:
    """Torch as every evaluation of a condition finds it: the same noise, no autocast, a graph that can be differentiated again.

    Raises:
        CannotDifferentiate: in the place of torch's error over an operator that it cannot differentiate.
    """
    try:
        with double_differentiable(part_of), autocast_off(), torch.enable_grad(), fixed_rng(seed), refusing_shards():
            yield
    except (RuntimeError, NotImplementedError) as error:
        sentence = in_words(error)
        if sentence is None:
            raise
        raise CannotDifferentiate(f"implicit(): {sentence}") from error


def slopes(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor], create_graph: bool = False
) -> Tensors:
    """``cotangents^T d outputs / d inputs``, zeros where an input has no influence; the graph is kept."""
    pairs = [(out, cot) for out, cot in zip(outputs, cotangents, strict=True) if out.requires_grad]
    if not pairs or not inputs:
        return [torch.zeros_like(x) for x in inputs]
    found = torch.autograd.grad(
        [out for out, _ in pairs], list(inputs), [cot for _, cot in pairs], True, create_graph, allow_unused=True
    )
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True)]


def linearised(outputs: Tensors, inputs: Tensors) -> Callable[..., Tensors]:
    """``along -> (d outputs / d inputs) along``: the pullback is linear in its cotangent, and the derivative of that is this."""
    for out in outputs:
        if out.requires_grad:
            require_second_derivative(out, inputs)
    dummies = [torch.zeros_like(out).requires_grad_() for out in outputs]
    pulled = slopes(outputs, inputs, dummies, create_graph=True)

    def image(along: Tensors, create_graph: bool = False) -> Tensors:
        return slopes(pulled, dummies, along, create_graph)

    return image


class Map:
    """A function of lists of tensors whose derivatives are functions of the same kind.

    Attributes:
        seed, part_of: of :func:`evaluating`.
    """

    seed: int
    part_of: object | None

    def value(self, inputs: Tensors, graph: bool = True) -> Tensors:
        """The value at plain tensors, within :func:`evaluating`; with a graph where one is wanted and the inputs have one."""
        raise TypeError(f"{type(self).__name__} does not define value()")

    def evaluating(self) -> contextlib.AbstractContextManager[None]:
        return evaluating(self.seed, self.part_of)


class Pulled(Map):
    """``(inputs, cotangents) -> cotangents^T d base / d inputs``, for those inputs that want one."""

    def __init__(self, base: Map, wanted: Sequence[bool]) -> None:
        self.base, self.wanted, self.seed, self.part_of = base, list(wanted), base.seed, base.part_of

    def value(self, inputs: Tensors, graph: bool = True) -> Tensors:
        count = len(self.wanted)
        at = [
            of_its_own(leaf) if graph or wants else leaf
            for leaf, wants in zip(inputs[:count], self.wanted, strict=True)
        ]
        out = self.base.value(at)
        if graph:
            for one in out:
                if one.requires_grad:
                    require_second_derivative(one, at)
        chosen = [leaf for leaf, wants in zip(at, self.wanted, strict=True) if wants]
        return slopes(out, chosen, inputs[count:], create_graph=graph)


class Pushed(Map):
    """``(inputs, tangents) -> (d base / d inputs) tangents``."""

    def __init__(self, base: Map) -> None:
        self.base, self.seed, self.part_of = base, base.seed, base.part_of

    def value(self, inputs: Tensors, graph: bool = True) -> Tensors:
        half = len(inputs) // 2
        at = [of_its_own(leaf) for leaf in inputs[:half]]
        return linearised(self.base.value(at), at)(inputs[half:], graph)


def row_by_row(function: Any, info: Any, in_dims: Any, what: Map, given: tuple[Tensor, ...]) -> Any:
    """A mapped call as a call per problem, as iterations end at their own time."""
    pairs = list(zip(given, in_dims[1:], strict=True))
    if all(dim is None for _, dim in pairs):
        found = function.apply(what, *given)
        return found, (None,) * len(found)
    rows = [
        function.apply(what, *[leaf if dim is None else leaf.select(dim, row) for leaf, dim in pairs])
        for row in range(info.batch_size)
    ]
    return tuple(torch.stack(column) for column in zip(*rows, strict=True)), (0,) * len(rows[0])


class Value(torch.autograd.Function):
    """The value of a map, whose derivatives are values of maps."""

    @staticmethod
    def forward(what: Map, *inputs: Tensor) -> tuple[Tensor, ...]:
        with what.evaluating():
            return tuple(leaf.detach().clone() for leaf in what.value([leaf.detach() for leaf in inputs], graph=False))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.map, ctx.outputs = inputs[0], len(output)
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def vmap(info: Any, in_dims: Any, what: Map, *inputs: Tensor) -> Any:
        return row_by_row(Value, info, in_dims, what, inputs)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        wanted = list(ctx.needs_input_grad[1:])
        found = iter(Value.apply(Pulled(ctx.map, wanted), *ctx.saved_tensors, *cotangents))
        return None, *(next(found) if wants else None for wants in wanted)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        along = zeros_for_none(ctx.saved_tensors, tangents[1:])
        return Value.apply(Pushed(ctx.map), *ctx.saved_tensors, *along)


def zeros_for_none(leaves: Sequence[Tensor], tangents: Sequence[Tensor | None]) -> Tensors:
    return [torch.zeros_like(leaf) if d is None else d for leaf, d in zip(leaves, tangents, strict=True)]
