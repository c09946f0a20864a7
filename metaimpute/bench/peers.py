"""The same hypergradient by other packages, each as its own documentation does it; skipped by name when not installed."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..engine import double_differentiable
from .problems import WeightedExamples

Peer = Callable[[WeightedExamples, str, float, int], Callable[[], Tensor]]
PACKAGES = {"higher": "higher", "torchopt": "torchopt", "betty": "betty"}


def installed(name: str) -> bool:
    return importlib.util.find_spec(PACKAGES[name]) is not None


def _torch_optimizer(optimizer: str, params: Any, lr: float) -> torch.optim.Optimizer:
    if optimizer == "adam":
        return torch.optim.Adam(params, lr=lr)
    return torch.optim.SGD(params, lr=lr, momentum=0.9 if optimizer == "momentum" else 0.0)


def _losses(problem: WeightedExamples, call: Callable[[Tensor], Tensor], weights: Tensor) -> tuple[Any, Any]:
    def inner() -> Tensor:
        return (weights * F.cross_entropy(call(problem.inputs), problem.targets, reduction="none")).mean()

    def outer() -> Tensor:
        return F.cross_entropy(call(problem.outer_inputs), problem.outer_targets)

    return inner, outer


def by_higher(problem: WeightedExamples, optimizer: str, lr: float, steps: int) -> Callable[[], Tensor]:
    """``higher.innerloop_ctx``, which leaves the module as it is."""
    import higher

    module = copy.deepcopy(problem.module)

    def work() -> Tensor:
        weights = problem.weights.requires_grad_()
        stock = _torch_optimizer(optimizer, module.parameters(), lr)
        with warnings.catch_warnings(), double_differentiable():
            warnings.simplefilter("ignore")
            with higher.innerloop_ctx(module, stock, copy_initial_weights=False) as (fast, rule):
                inner, outer = _losses(problem, fast, weights)
                for _ in range(steps):
                    rule.step(inner())
                return torch.autograd.grad(outer(), weights)[0]

    return work


def by_torchopt(problem: WeightedExamples, optimizer: str, lr: float, steps: int) -> Callable[[], Tensor]:
    """TorchOpt's ``MetaSGD`` / ``MetaAdam``, which move the module; its parameters are put back afterwards."""
    import torchopt

    module = copy.deepcopy(problem.module)

    def work() -> Tensor:
        start = torchopt.extract_state_dict(module, by="reference")
        weights = problem.weights.requires_grad_()
        if optimizer == "adam":
            rule: Any = torchopt.MetaAdam(module, lr=lr)
        else:
            rule = torchopt.MetaSGD(module, lr=lr, momentum=0.9 if optimizer == "momentum" else 0.0)
        inner, outer = _losses(problem, module, weights)
        with double_differentiable():
            for _ in range(steps):
                rule.step(inner())
            found = torch.autograd.grad(outer(), weights)[0]
        torchopt.recover_state_dict(module, start)
        return found

    return work


def by_betty(problem: WeightedExamples, optimizer: str, lr: float, steps: int) -> Callable[[], Tensor]:
    """Betty's ``darts`` hypergradient: it takes k plain steps and a central difference at the end of them.

    Betty computes hypergradients from the last inner state (darts, neumann, cg); it has no differentiation through several
    steps, so its row is to be compared with ``finite_difference``.
    """
    with contextlib.redirect_stdout(None):
        from betty.hypergradient.darts import darts

    class Inner:
        """What darts asks of a problem: parameters, a loss, and a configuration."""

        def __init__(self, module: torch.nn.Module, loss: Callable[[], Tensor]) -> None:
            self.module, self._loss = module, loss
            self.config = type("Config", (), {"darts_alpha": 0.01})()

        def trainable_parameters(self) -> list[Tensor]:
            return list(self.module.parameters())

        def training_step_exec(self, batch: Any) -> Tensor:
            return self._loss()

        def get_batch(self) -> None:
            return None

        cur_batch = None

    class Outer:
        def __init__(self, weights: Tensor) -> None:
            self.weights = weights

        def trainable_parameters(self) -> list[Tensor]:
            return [self.weights]

    def work() -> Tensor:
        module = copy.deepcopy(problem.module)
        weights = problem.weights.requires_grad_()
        stock = _torch_optimizer(optimizer, module.parameters(), lr)
        inner, outer = _losses(problem, module, weights)
        with double_differentiable():
            for _ in range(steps):
                stock.zero_grad()
                inner().backward()
                stock.step()
            vector = torch.autograd.grad(outer(), list(module.parameters()))
            found: list[Tensor] = darts(vector, Inner(module, inner), Outer(weights))
        return lr * found[0]

    return work


PEERS: dict[str, Peer] = {"higher": by_higher, "torchopt": by_torchopt, "betty": by_betty}
