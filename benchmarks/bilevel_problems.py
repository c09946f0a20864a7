"""Three bilevel problems of the field, on data at hand: quadratics, penalties of a logistic regression, data cleaning.

The forms are those of benchopt's bilevel benchmark (Dagréou, Ablin, Vaiter and Moreau, NeurIPS 2022; github.com/benchopt/
benchmark_bilevel), whose data sets (ijcnn1, covtype, MNIST) are not at hand: breast cancer and digits of scikit-learn stand in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_breast_cancer, load_digits
from torch import Tensor

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # inner variable, outer variable, rows


@dataclass(frozen=True)
class Bilevel:
    """``min over outer of F(outer) = upper(z*, outer)``, ``z* = argmin lower(z, outer)``, both means over rows.

    Attributes:
        lower_rows, upper_rows: how many there are. z, outer: where to start. step: 1 / (largest inner curvature at the start).
    """

    name: str
    lower: Loss
    upper: Loss
    lower_rows: int
    upper_rows: int
    z: Tensor
    outer: Tensor

    def solved(self, outer: Tensor, z: Tensor) -> Tensor:
        """The inner problem to 1e-9, from ``z``."""
        at, rows = z.detach().clone().requires_grad_(), torch.arange(self.lower_rows)
        lbfgs = torch.optim.LBFGS([at], 1.0, 400, None, 1e-9, 0.0, 30, "strong_wolfe")

        def closure() -> Tensor:
            lbfgs.zero_grad()
            value = self.lower(at, outer.detach(), rows)
            value.backward()
            return value

        lbfgs.step(closure)
        return at.detach()

    def step(self) -> float:
        """1 / (largest eigenvalue of the inner Hessian at the start), by power iteration."""
        z, rows = self.z.detach().requires_grad_(), torch.arange(self.lower_rows)
        slope = torch.autograd.grad(self.lower(z, self.outer, rows), z, create_graph=True)[0]
        v = torch.randn(z.shape, generator=torch.Generator().manual_seed(0), dtype=z.dtype)
        for _ in range(60):
            v = torch.autograd.grad(slope, z, v / v.norm(), retain_graph=True)[0]
        return 1 / float(v.norm())


def quadratics(rows: int = 256, size: int = 30) -> Bilevel:
    """Means of random quadratics with curvatures between 0.1 and 1, and a cross term of 0.1."""
    rng = torch.Generator().manual_seed(2442)

    def curvatures() -> Tensor:
        basis = torch.linalg.qr(torch.randn(size, size, generator=rng, dtype=torch.float64))[0]
        values = torch.logspace(-1, 0, size, dtype=torch.float64)
        noise = torch.randn(rows, size, generator=rng, dtype=torch.float64)
        return torch.einsum("ij,j,kj->ik", basis, values, basis) + 0.05 * (
            noise[:, :, None] * noise[:, None] - torch.eye(size)
        )

    def cross() -> Tensor:
        return 0.1 * torch.randn(rows, size, size, generator=rng, dtype=torch.float64) / size**0.5

    def linear() -> Tensor:
        return torch.randn(rows, size, generator=rng, dtype=torch.float64)

    parts = [(curvatures(), curvatures(), cross(), linear(), linear()) for _ in range(2)]

    def loss(which: int) -> Loss:
        zz, oo, oz, z1, o1 = parts[which]

        def value(z: Tensor, outer: Tensor, rows: Tensor) -> Tensor:
            mean = [part[rows].mean(0) for part in (zz, oo, oz, z1, o1)]
            return (
                z @ mean[0] @ z / 2 + outer @ mean[1] @ outer / 2 + outer @ mean[2] @ z + mean[3] @ z + mean[4] @ outer
            )

        return value

    start = torch.randn(2, size, generator=rng, dtype=torch.float64)
    return Bilevel("quadratics", loss(0), loss(1), rows, rows, start[0], start[1])


def penalties() -> Bilevel:
    """A penalty ``exp(outer_j)`` for every feature of a logistic regression, by its loss on other rows."""
    x, y = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x = torch.as_tensor(((x - x.mean(0)) / x.std(0))[order])
    sign = torch.as_tensor(2.0 * y[order] - 1)
    half = len(x) // 2

    def data(z: Tensor, rows: Tensor) -> Tensor:
        return -F.logsigmoid(sign[rows] * (x[rows] @ z)).mean()

    def lower(z: Tensor, outer: Tensor, rows: Tensor) -> Tensor:
        return data(z, rows) + (outer.exp() * z.square()).sum() / 2

    def upper(z: Tensor, outer: Tensor, rows: Tensor) -> Tensor:
        return data(z, rows + half) + 0 * outer.sum()

    start = torch.zeros(2, x.shape[1], dtype=torch.float64)
    return Bilevel("penalties", lower, upper, half, len(x) - half, start[0], start[1])


def cleaning(ratio: float = 0.5, rows: int = 800, reg: float = 0.2) -> Bilevel:
    """A weight ``sigmoid(outer_i)`` for every training digit, half of whose labels are random, by the loss on clean ones."""
    rng = np.random.default_rng(0)
    x, y = load_digits(return_X_y=True)
    order = rng.permutation(len(x))
    x = torch.as_tensor(((x - x.mean(0)) / np.maximum(x.std(0), 1e-3))[order])
    clean = torch.as_tensor(y[order])
    noisy = clean.clone()
    wrong = torch.as_tensor(rng.random(rows) < ratio)
    noisy[:rows][wrong] = torch.as_tensor(rng.integers(0, 10, int(wrong.sum())))

    def losses(z: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
        return F.cross_entropy(x[rows] @ z.reshape(64, 10), labels[rows], reduction="none")

    def lower(z: Tensor, outer: Tensor, at: Tensor) -> Tensor:
        return (outer[at].sigmoid() * losses(z, noisy, at)).mean() + reg * z.square().mean() * 10

    def upper(z: Tensor, outer: Tensor, at: Tensor) -> Tensor:
        return losses(z, clean, at + rows).mean() + 0 * outer.sum()

    return Bilevel(
        "cleaning",
        lower,
        upper,
        rows,
        len(x) - rows,
        torch.zeros(640, dtype=torch.float64),
        torch.zeros(rows, dtype=torch.float64),
    )


PROBLEMS = (quadratics, penalties, cleaning)
