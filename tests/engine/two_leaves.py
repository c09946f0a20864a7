"""A small bilevel problem of two parameters, for tests of update rules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metaimpute.engine import Batches, hypergradient, unroll


def T(*values: Any, **options: Any) -> Tensor:
    return torch.tensor(*values, dtype=torch.float64, **options)


START, C = {"a": T([3.0, -0.2]), "b": T([[1.0, 0.5], [0.2, -1.0]])}, T([0.3, 0.1])


def inner(th: Any, c: Any, batch: Any) -> Tensor:
    return ((th["b"] @ th["a"] - c) ** 2).sum() + 0.1 * (th["a"] ** 4).sum()


def outer(th: Any, c: Any, batch: Any) -> Tensor:
    return (th["a"] - 0.3).square().sum() + (th["b"].sum() - 1).square()


def end(rule: Any, steps: int = 3, loss: Any = inner) -> Any:
    return unroll(loss, START, C, [None], rule, steps, differentiable=False).params


def estimate(rule: Any, estimator: str = "exact", loss: Any = inner, **options: Any) -> Any:
    return hypergradient(loss, outer, START, C, Batches([None], None), rule, estimator, steps=3, **options)


def assert_same(found: Any, expected: Any) -> None:
    for name, p in expected.items():
        torch.testing.assert_close(found[name], p, rtol=1e-13, atol=1e-14)
