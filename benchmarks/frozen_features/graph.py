"""Label spreading (Zhou et al., 2004) as an inner problem: gradient descent on a quadratic with a closed form.

With the graph S and ``mu = (1 - alpha) / alpha`` the minimum of ``F^T (I - S) F / 2 + mu |F - Y|^2 / 2`` is
``(1 - alpha) (I - alpha S)^-1 Y``. The coupling is the width of the graph's Gaussian weights and alpha, two numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metaimpute.engine import on_trees

from .data import Draws
from .heads import Coupling, Loss, Solver

NEIGHBOURS, LOCAL = 10, 7  # edges of a row; the neighbour whose distance is a row's own scale
FLOOR = 1e-3  # share of a prediction that stands for what no label reaches


@dataclass(frozen=True)
class Graph:
    """Labelled and unlabelled rows of every draw, and what labels of them each problem knows.

    Attributes:
        squares: squared distances over the scales of both rows, infinite where there is no edge, ``[R, N, N]`` (Zelnik-Manor and
            Perona, 2004). known: one-hot labels that a problem trains on, ``[R, N, P, C]``, labelled rows first.
    """

    squares: Tensor
    known: Tensor


def graph_of(draws: Draws) -> Graph:
    rows = torch.cat([draws.labelled, draws.unlabelled], 1)
    squares = torch.cdist(rows, rows).square()
    padding = torch.cat([~draws.given, torch.zeros_like(draws.truth, dtype=torch.bool)], 1)
    squares.masked_fill_(padding[:, :, None] | padding[:, None, :], torch.inf)
    squares.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    near = squares.topk(NEIGHBOURS, 2, largest=False)
    scale = near.values[:, :, LOCAL - 1].clamp_min(1e-12).sqrt().nan_to_num(posinf=1.0)
    edges = torch.zeros_like(squares, dtype=torch.bool).scatter_(2, near.indices, True)
    kept = torch.where(edges | edges.mT, squares / (scale[:, :, None] * scale[:, None, :]), torch.inf)
    known = draws.targets[:, :, None] * (draws.trained > 0)[..., None]
    none = known.new_zeros(len(rows), draws.unlabelled.shape[1], *known.shape[2:])
    return Graph(kept, torch.cat([known, none], 1))


def weights(graph: Graph, coupling: Coupling) -> Tensor:
    """S: ``D^-1/2 W D^-1/2`` with ``W = exp(-squares / (2 width^2))``, ``[R, N, N]``."""
    there = graph.squares.isfinite()
    scaled = torch.where(there, graph.squares, 0.0) / (2 * (2 * coupling["log_width"]).exp()[:, None, None])
    edges = torch.where(there, (-scaled).exp(), 0.0)
    size = edges.sum(2).clamp_min(1e-30).rsqrt()
    return size[:, :, None] * edges * size[:, None, :]


def quadratic(graph: Graph) -> Loss:
    """The inner loss of what labels are spread to, ``{"spread": [R, N, P, C]}``."""

    def inner(theta: dict[str, Tensor], coupling: Coupling, draws: Draws) -> Tensor:
        spread = theta["spread"]
        flat = spread.flatten(2)
        rough = (flat * (flat - weights(graph, coupling) @ flat)).sum()
        off = (-coupling["alpha"]).exp()[:, None, None, None] * (spread - graph.known).square()
        return 0.5 * (rough + off.sum())

    return inner


def spread(graph: Graph, coupling: Coupling) -> dict[str, Tensor]:
    """Its minimum. ``alpha``'s logit is the coupling's, so ``mu`` is ``exp(-alpha)``."""
    alpha = coupling["alpha"].sigmoid()[:, None, None]
    system = torch.eye(graph.known.shape[1], dtype=torch.float64) - alpha * weights(graph, coupling)
    found = torch.linalg.solve(system, (1 - alpha) * graph.known.flatten(2))
    return {"spread": found.unflatten(2, graph.known.shape[2:])}


def linear_system(graph: Graph, coupling: Coupling) -> Solver:
    """For the engine's implicit differentiation: ``(I - S + mu I) x = b``, solved directly. The engine measures the residual."""

    def solver(matvec: Callable[[Any], Any], b: Any) -> Any:
        system = -weights(graph, coupling)
        system.diagonal(dim1=1, dim2=2).add_(1 + (-coupling["alpha"]).exp()[:, None])
        found = torch.linalg.solve(system, b["spread"].flatten(2))
        return {"spread": found.unflatten(2, graph.known.shape[2:])}

    return on_trees(solver)


def shares(theta: dict[str, Tensor], graph: Graph) -> Tensor:
    """Probabilities of all rows, ``[R, N, P, C]``: spread labels over their sum; where none arrive, the shares of the labels."""
    prior = graph.known.sum(1, keepdim=True)
    prior = prior / prior.sum(-1, keepdim=True)
    found = theta["spread"].clamp_min(0.0)
    return (found + FLOOR * prior * found.sum(-1, keepdim=True) + 1e-12 * prior) / (
        (1 + FLOOR) * found.sum(-1, keepdim=True) + 1e-12
    )


def judged(graph: Graph, draws: Draws) -> Loss:
    """The outer loss: mean cross-entropy of the rows held out, summed over draws."""

    def loss(theta: dict[str, Tensor], coupling: Coupling, batch: Draws) -> Tensor:
        return held_shares(theta, graph, draws).sum()

    return loss


def held_shares(theta: dict[str, Tensor], graph: Graph, draws: Draws) -> Tensor:
    """That of each draw, ``[R]``."""
    logs = shares(theta, graph)[:, : draws.labelled.shape[1]].log()
    return -(draws.held[..., None] * draws.targets[:, :, None] * logs).sum((1, 2, 3))
