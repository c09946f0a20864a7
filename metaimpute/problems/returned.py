"""What a problem's own methods return, held to what they are to return: a mistake is named, not found by torch later."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..engine.pytree import Tree, leaves_of, tensors
from .base import BilevelProblem, ProblemError


def _wrong(problem: BilevelProblem, method: str, wanted: str, found: object) -> ProblemError:
    return ProblemError(f"problem '{problem.name}': {method} returns {wanted}, not {_named(found)}")


def _named(found: object) -> str:
    if isinstance(found, Tensor):
        return f"a tensor of shape {list(found.shape)} and type {str(found.dtype).removeprefix('torch.')}"
    if found is None or found == {}:
        return "None" if found is None else "an empty dict"
    return f"a {type(found).__name__}"


def own_values(problem: BilevelProblem, found: object) -> dict[str, Tensor]:
    """What ``init_meta`` of an ``"own"`` problem returned, without graph.

    Raises:
        ProblemError: for anything but a dict of floating-point tensors by name, with one at least.
    """
    wanted = "a dict of floating-point tensors by name"
    if not isinstance(found, dict) or not found:
        raise _wrong(problem, "init_meta(sizes)", wanted, found)
    for name, value in found.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise ProblemError(
                f"problem '{problem.name}': init_meta(sizes) returns {wanted}; '{name}' is {_named(value)}"
            )
    return {str(name): value.detach() for name, value in found.items()}


def label_values(problem: BilevelProblem, found: Tree) -> Tree:
    """What ``batch_meta`` of a ``"labels"`` problem returned.

    Raises:
        ProblemError: where it holds no floating-point tensor.
    """
    if not tensors(found):
        raise _wrong(problem, "batch_meta(params, batch)", "floating-point tensors, such as {'labels': ...}", found)
    return found


def moved_values(problem: BilevelProblem, before: Tree, found: Tree) -> Tree:
    """What ``move`` returned.

    Raises:
        ProblemError: unless it is shaped as what was to be moved.
    """
    shapes = [leaf.shape for leaf in tensors(before)]
    if len(leaves_of(found)) != len(leaves_of(before)) or [leaf.shape for leaf in tensors(found)] != shapes:
        raise _wrong(problem, "move(meta, gradient)", "what it was given, moved: of the same shapes", found)
    return found


def numbers(problem: BilevelProblem, method: str, found: object) -> dict[str, Any]:
    """Measurements by name, as ``measure`` is to return them.

    Raises:
        ProblemError: for anything but a dict of numbers, or of tensors with one entry.
    """
    if not isinstance(found, dict):
        raise _wrong(problem, method, "a dict of numbers by name", found)
    for name, value in found.items():
        if value.numel() != 1 if isinstance(value, Tensor) else not hasattr(value, "__float__"):
            raise ProblemError(f"problem '{problem.name}': {method} returns numbers; '{name}' is {_named(value)}")
    return {name: value.detach() if isinstance(value, Tensor) else value for name, value in found.items()}


def single(problem: BilevelProblem, method: str, found: object) -> Tensor:
    """A scalar tensor, without graph.

    Raises:
        ProblemError: for anything else.
    """
    if not isinstance(found, Tensor) or found.numel() != 1:
        raise _wrong(problem, method, "one number as a tensor", found)
    return found.detach().reshape(())
