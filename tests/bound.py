"""A method, a problem and a small network bound together, in float64, for tests of the training step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from metaimpute.batches import Batch, Labelled, Unlabelled
from metaimpute.batches.outputs import Classes, Output, Values
from metaimpute.engine import FunctionalModel, get_estimator, parse_memory, sgd
from metaimpute.methods import methods
from metaimpute.problems import Context, Sizes, problems
from metaimpute.training.algorithm import Algorithm1
from metaimpute.training.lookahead import OuterSettings

INPUTS, CLASSES = 4, 3


@dataclass
class Bound:
    algorithm: Algorithm1
    batch: Batch
    holdout: Labelled
    module: nn.Module

    @property
    def params(self) -> dict[str, Tensor]:
        return self.algorithm.model.params


def network(outputs: int = CLASSES, norm: bool = False) -> nn.Module:
    middle: list[nn.Module] = [nn.BatchNorm1d(6)] if norm else []
    return nn.Sequential(nn.Linear(INPUTS, 6), *middle, nn.Tanh(), nn.Linear(6, outputs)).double()


def bind(
    method: str = "mean_teacher", problem: str = "l2i", estimator: str = "exact", *, output: Output | None = None,
    norm: bool = False, optimizer: Any = None, outer_optimizer: Any = None, path: str = "labels", inner: str | None = None, form: str = "ours",
    progress: float = 0.7, method_options: dict[str, Any] | None = None, problem_options: dict[str, Any] | None = None,
    **outer: Any,
) -> Bound:  # fmt: skip
    """Everything Algorithm 1 needs for one step."""
    torch.manual_seed(3)
    output = output or Classes(CLASSES)
    module = network(output.size, norm)
    model = FunctionalModel(module)

    def targets(n: int) -> Tensor:
        return torch.randint(0, CLASSES, (n,)) if isinstance(output, Classes) else torch.randn(n, output.size).double()

    def inputs(n: int) -> Tensor:
        return torch.randn(n, INPUTS).double()

    weak = inputs(5)
    batch = Batch(
        Labelled(inputs(4), targets(4), torch.arange(4)),
        Unlabelled(weak, weak + 0.3 * inputs(5), torch.arange(5), targets(5)), progress, 7,
    )  # fmt: skip
    holdout = Labelled(inputs(4), targets(4), torch.arange(4))
    bound_method = methods.get(method)(**(method_options or {})).bind(output)
    bound_problem = problems.get(problem)(**(problem_options or {}))
    bound_problem.bind(Context(model, bound_method, output, Sizes(4, 5, output.size), path, inner, form))  # type: ignore[arg-type]
    meta = None
    if bound_problem.learns == "own":
        meta = {n: t.double().requires_grad_() for n, t in bound_problem.init_meta(Sizes(4, 5, output.size)).items()}
    settings = OuterSettings(
        get_estimator(estimator, outer.pop("backend", "func")), outer.pop("inner_optimizer", sgd(0.5)),
        parse_memory(outer.pop("memory", "store")), **outer,
    )  # fmt: skip
    base = (optimizer or (lambda ps: torch.optim.SGD(ps, lr=0.1)))(module.parameters())
    other = None if outer_optimizer is None else outer_optimizer(module.parameters() if meta is None else meta.values())
    algorithm = Algorithm1(model, bound_method, bound_problem, settings, base, other, meta, seed=0)
    return Bound(algorithm, batch, holdout, module)


def regression() -> Values:
    return Values(2)
