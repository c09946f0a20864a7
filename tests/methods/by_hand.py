"""Losses in plain Python numbers, and their derivatives by complex step: nothing of the package is used here."""

from __future__ import annotations

import cmath
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from metaimpute.batches import Batch, Labelled, Unlabelled
from metaimpute.batches.outputs import Classes
from metaimpute.methods import Method, methods
from metaimpute.methods.mixup import Mixing

LABELLED = [[1.0, 0.2], [0.0, 0.5]]
WEAK = [[2.0, 0.0], [0.1, -0.3], [0.0, 1.5]]
STRONG = [[0.5, 0.0], [0.0, 1.0], [1.0, 0.4]]
TARGETS = [0, 1]
SCALE = 1.3

Row = Sequence[complex]


def softmax(row: Row) -> list[complex]:
    values = [cmath.exp(v) for v in row]
    return [v / sum(values) for v in values]


def cross_entropy(raw: Row, label: Row) -> complex:
    return -sum(z * cmath.log(p) for z, p in zip(label, softmax(raw), strict=True))


def brier(raw: Row, label: Row) -> complex:
    return sum((p - z) ** 2 for z, p in zip(label, softmax(raw), strict=True)) / len(label)


def mixed(rows: Sequence[Row], partners: Sequence[int], shares: Sequence[float]) -> list[list[complex]]:
    return [
        [s * a + (1 - s) * b for a, b in zip(rows[i], rows[j], strict=True)]
        for i, (j, s) in enumerate(zip(partners, shares, strict=True))
    ]


def mixing(partners: Sequence[int], shares: Sequence[float]) -> Mixing:
    """The same choices as the package holds them."""
    return Mixing(torch.tensor(partners), torch.tensor(shares, dtype=torch.float64))


def times(scale: complex, row: Row) -> list[complex]:
    return [scale * v for v in row]


def mean(values: Sequence[complex]) -> complex:
    return sum(values) / len(values)


def one_hot(target: int) -> list[float]:
    return [float(target == 0), float(target == 1)]


def value_and_slope(loss: Callable[[complex], complex], at: float = SCALE) -> tuple[float, float]:
    """``loss(at)`` and its derivative to machine precision: ``Im loss(at + i h) / h`` has no cancellation."""
    found = loss(at + 1e-30j)
    return found.real, found.imag / 1e-30


def network(params: dict[str, Tensor], inputs: Tensor) -> Tensor:
    """Logits are the inputs, scaled by the one parameter."""
    return params["scale"] * inputs


def case(
    name: str, progress: float = 1.0, drawn: Any = None, **options: Any
) -> tuple[Method, dict[str, Tensor], Batch]:
    """A method, the network's parameter, and the batch above with its labels imputed; ``drawn`` replaces random choices."""
    method = methods.get(name)(**options).bind(Classes(2))
    params = {"scale": torch.tensor(SCALE, dtype=torch.float64, requires_grad=True)}
    labelled, weak, strong = (torch.tensor(rows, dtype=torch.float64) for rows in (LABELLED, WEAK, STRONG))
    batch = Batch(
        Labelled(labelled, torch.tensor(TARGETS), torch.arange(2)), Unlabelled(weak, strong, torch.arange(3)), progress
    )
    with torch.no_grad():
        batch = method.prepare(network, params, batch, torch.Generator().manual_seed(0))
        if drawn is not None:
            batch = replace(batch, drawn=drawn)
        return method, params, batch.with_imputed(method.impute(network, params, batch.unlabelled, {}))


def loss_and_slope(method: Method, params: dict[str, Tensor], batch: Batch) -> tuple[float, float]:
    loss = method.loss(network, params, batch)
    return float(loss), float(torch.autograd.grad(loss, params["scale"])[0])
