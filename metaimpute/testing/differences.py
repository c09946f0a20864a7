"""Directional derivatives of a bilevel map by central differences of several sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten_with_path

from ..engine import BilevelMap
from ..engine.optimizers import hyper_tensors
from ..engine.pytree import Tree, detach, differentiable, tensors, with_tensors

MOST_LEAVES = 12
DIRECTION = 20_260
SIZES = (1e-4, 1e-5, 1e-6, 1e-7)


@dataclass
class Difference:
    """A directional derivative by central differences of several sizes: smaller ones step over fewer kinks, larger ones round
    less."""

    part: str
    name: str
    value: Callable[[float], float]
    direction: Tree
    scale: float = 1.0  # of the map's values, in which rounding is measured
    found: dict[float, float] = field(default_factory=dict)

    def at(self, h: float) -> float:
        if h not in self.found:
            slopes = [(self.value(step) - self.value(-step)) / (2 * step) for step in (h, 2 * h)]
            self.found[h] = (4 * slopes[0] - slopes[1]) / 3
        return self.found[h]

    def nearest(self, derivative: float, rtol: float) -> tuple[float, bool]:
        """The first difference that equals the derivative, else that of the first size, and whether there is one."""
        for h in SIZES:
            found = self.at(h)
            near = max(rtol, 1e-11 / h) * max(abs(found), abs(derivative)) + max(1e-9, 1e-15 / h) * self.scale
            if abs(found - derivative) <= near:
                return found, True
        return self.at(SIZES[0]), False

    @property
    def settled(self) -> bool:
        """Whether differences of two sizes, and those to either side, agree, so that another number is wrong."""
        a, b, here = self.at(1e-5), self.at(1e-6), self.value(0.0)
        up, down = (self.value(1e-5) - here) / 1e-5, (here - self.value(-1e-5)) / 1e-5
        alike = abs(a - b) <= 1e-3 * max(abs(a), abs(b)) + 1e-8 * self.scale
        return alike and abs(up - down) <= 0.1 * max(abs(up), abs(down)) + 1e-8 * self.scale


def _unit(like: Tensor, rng: torch.Generator) -> Tensor:
    """A random direction of length 1: short, so that a difference along it steps over few kinks."""
    drawn = torch.randn(like.shape, generator=rng, dtype=torch.float64, device="cpu")
    length: Tensor = drawn.norm()
    return (drawn / length.clamp_min(1e-300)).to(like)


def _directions(tree: Tree, name: str, rng: torch.Generator) -> list[tuple[str, Tree]]:
    """A random direction for each tensor where they are few, else one for all."""
    drawn = [_unit(x, rng) for x in tensors(tree)]
    if not 1 < len(drawn) <= MOST_LEAVES:
        return [(name, with_tensors(tree, drawn))] if drawn else []
    paths = [keystr(path) for path, leaf in tree_flatten_with_path(tree)[0] if differentiable(leaf)]
    zeros = [torch.zeros_like(d) for d in drawn]
    return [(name + path, with_tensors(tree, [*zeros[:n], drawn[n], *zeros[n + 1 :]])) for n, path in enumerate(paths)]


def differences(problem: BilevelMap, scale: float) -> list[Difference]:
    rng = torch.Generator(device="cpu").manual_seed(DIRECTION)
    hyper = hyper_tensors(problem.optimizer.hyper)
    spaces = [("c", n, d) for n, d in _directions(problem.c, "coupling", rng)]
    theta = [_unit(x, rng) for x in tensors(problem.theta_0)]
    spaces.append(("theta", "theta_0", with_tensors(problem.theta_0, theta)))
    spaces += [("hyper", n, d) for n, d in _directions(hyper, "hyper", rng)]
    found = []
    for part, name, direction in spaces:

        def value(step: float, part: str = part, direction: Tree = direction) -> float:
            base = {"c": problem.c, "theta": problem.theta_0, "hyper": hyper}[part]
            pairs = zip(tensors(detach(base)), tensors(direction), strict=True)
            moved = with_tensors(detach(base), [a + step * d for a, d in pairs])
            if part == "hyper":
                return float(problem.value(hyper={**problem.optimizer.hyper, **moved}))
            return float(problem.value(**{"c" if part == "c" else "theta_0": moved}))

        found.append(Difference(part, name, value, direction, scale))
    return found
