"""What arms of this benchmark share: the settings, a task's draws with the heads to begin from, and both ways to look on.

An arm that searches evaluates the cross-fitted loss of BUDGET settings; one that learns takes BUDGET steps along hypergradients
of that loss, each of which costs about three evaluations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from metaimpute import momentum, unroll

from .data import Draws
from .heads import Coupling, Head, Loss, held_out, learned, scores, solved, through

BUDGET = 16
PENALTIES = torch.linspace(-6, 9, BUDGET, dtype=torch.float64)  # logarithms; 0 is C = 1 of scikit-learn
RULE = momentum(1.0, 0.9)  # of the inner steps; learning rates are in the losses


@dataclass(frozen=True)
class Settings:
    """What no arm looks for.

    Attributes:
        steps: inner steps of heads with unlabelled rows. speed: their learning rate in units of 1 / curvature.
        weight, balance, temperature: of entropy and balance. imputed, sharpness: weight of imputed labels, and how much they
            are sharpened at the start. width, alpha: of the graph.
        near_blocks, near_directions, near_scalars, near_graph, near_rows, near_map: how far what is learned is expected to be
            from where it starts, a standard deviation: to the loss of all held-out rows comes that of a normal prior, so the
            fewer labels the stronger it is. Outer learning rates are a quarter of them, and at most ``lr``.
        tried_blocks, tried_scalars, tried_graph: standard deviations of the settings among which arms search.
    """

    steps: int = 10
    speed: float = 1.0
    weight: float = 1.0
    balance: float = 3.0
    temperature: float = 1.0
    imputed: float = 1.0
    sharpness: float = 1.0
    width: float = 0.35
    alpha: float = 2.0
    near_blocks: float = 0.3
    near_directions: float = 0.3
    near_scalars: float = 0.3
    near_graph: float = 0.3
    near_rows: float = 1.0
    near_map: float = 0.01
    tried_blocks: float = 0.3
    tried_scalars: float = 0.1
    tried_graph: float = 0.3
    lr: float = 0.2


@dataclass(frozen=True)
class Outcome:
    """Probabilities of the unlabelled rows ``[R, n, C]``, and the cross-fitted loss of each draw ``[R]`` where an arm has one."""

    shares: Tensor
    held: Tensor | None = None


@dataclass(frozen=True)
class Bench:
    """One task's draws, and what several arms share."""

    draws: Draws
    settings: Settings = Settings()

    @property
    def count(self) -> int:
        return len(self.draws.labelled)

    def full(self, value: float, *sizes: int) -> Tensor:
        return torch.full((self.count, *sizes), value, dtype=torch.float64)

    @cached_property
    def chosen(self) -> Tensor:
        """Logarithm of the penalty with the lowest cross-fitted loss in each draw, ``[R, 1]``."""
        losses = torch.stack([held_out(solved(self.full(float(p), 1), self.draws), self.draws) for p in PENALTIES])
        return PENALTIES[losses.argmin(0)][:, None]

    @cached_property
    def start(self) -> Head:
        """The heads with it."""
        return solved(self.chosen, self.draws)

    @cached_property
    def pace(self) -> Tensor:
        """Learning rates ``[R]``: ``speed`` over a bound of the curvature, the rows' largest second moment and the penalty."""
        rows = torch.cat([self.draws.labelled, self.draws.unlabelled], 1)
        rows = torch.cat([rows, torch.ones_like(rows[..., :1])], 2)
        moment = torch.linalg.eigvalsh(rows.mT @ rows / rows.shape[1])[:, -1]
        return self.settings.speed / (moment + self.chosen[:, 0].exp() / self.draws.count.min(1).values)

    def prepare(self) -> None:
        """Computes what arms share: the grid of penalties and the heads with the one chosen."""
        _ = self.start, self.pace

    def altered(self, draws: Draws | None = None, settings: Settings | None = None) -> Bench:
        """The same penalties and heads to begin from, with other draws or settings."""
        found = Bench(draws or self.draws, settings or self.settings)
        vars(found).update(chosen=self.chosen, start=self.start)  # what the cached properties would compute
        return found

    def answer(self, head: Head) -> Outcome:
        return Outcome(scores(head, self.draws.unlabelled)[:, :, -1].softmax(-1), held_out(head, self.draws))

    def trained(self, inner: Loss, coupling: Coupling) -> Head:
        """The heads after the inner steps."""
        steps = self.settings.steps
        found: Head = unroll(inner, self.start, coupling, [self.draws], RULE, steps, differentiable=False).params
        return found

    def learned(
        self, begun: Coupling, along: Callable[[Coupling], Coupling], spread: float, way: str = "hypergradient"
    ) -> Coupling:
        """What is learned in BUDGET steps, expected to be about ``spread`` from where it begins."""
        pull = 1 / (spread**2 * self.draws.given.sum(1))
        return learned(begun, along, BUDGET, min(self.settings.lr, spread / 4), pull, way)

    def along(self, inner: Loss) -> Callable[[Coupling], Coupling]:
        """Hypergradients through the inner steps, exact."""
        return through(inner, self.draws, lambda _: self.start, RULE, self.settings.steps, "exact")


def searched(bench: Bench, candidates: list[Any], answer: Callable[[Any], Outcome]) -> Outcome:
    """Of every draw the candidate with the lowest cross-fitted loss."""
    best: Outcome | None = None
    for candidate in candidates:
        found = answer(candidate)
        assert found.held is not None
        if best is None or best.held is None:
            best = found
            continue
        lower = found.held < best.held
        shares = torch.where(lower[:, None, None], found.shares, best.shares)
        best = Outcome(shares, torch.where(lower, found.held, best.held))
    assert best is not None
    return best


def around(start: Coupling, spread: float, seed: int = 0) -> list[Coupling]:
    """BUDGET settings, the first ``start`` and the others normally distributed around it."""
    generator = torch.Generator().manual_seed(seed)
    found = [start]
    for _ in range(BUDGET - 1):
        drawn = {name: torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype) for name, leaf in start.items()}
        found.append({name: leaf + spread * drawn[name] for name, leaf in start.items()})
    return found
