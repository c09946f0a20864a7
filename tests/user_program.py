"""A program as users write it, every type in it held by a checker: see test_types.py, which also runs it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import assert_type

import metaimpute
from metaimpute import (
    Batches,
    BilevelProblem,
    Classes,
    FunctionalModel,
    HypergradientResult,
    InnerOptimizer,
    MetaImputer,
    MetaImputerRegressor,
    Method,
    Model,
    Pool,
    Predictions,
    Predictor,
    Recording,
    Run,
    Task,
    TaskData,
    after_training,
    begin,
    from_torch,
    hypergradient,
    momentum,
    nesterov,
    register_estimator,
    register_method,
    register_model,
    register_optimizer,
    register_problem,
    register_task,
    semi_supervised,
    sgd,
    unroll,
)
from metaimpute.engine import Estimator, Inner, Revolve, Trajectory, adam, estimators, get_estimator
from metaimpute.engine.estimators import Neumann, Truncated
from metaimpute.methods import FixMatch, methods
from metaimpute.models import MLP
from metaimpute.problems import L2I, Sizes
from metaimpute.tasks import Batch, Labelled, TwoMoons
from metaimpute.testing import Report, check_hypergradient

Params = dict[str, Tensor]


# What is registered stays what it was --------------------------------------------------------------------------------


@register_problem("typed_weights")
class Weights(BilevelProblem):
    """Per-example weights."""

    scale: float = 1.0

    def init_meta(self, sizes: Sizes) -> Params:
        return {"logits": torch.zeros(sizes.unlabelled)}

    def couple(self, meta: Params, batch: Batch) -> Tensor:
        return meta["logits"][batch.unlabelled.index].sigmoid()

    def inner_loss(self, params: Params, c: Tensor, batch: Batch) -> Tensor:
        distance = self.method.consistency(self.predict(params, batch.unlabelled.strong), batch.imputation.labels)
        return self.supervised(params, batch.labelled) + self.scale * (c * distance).mean()

    def outer_loss(self, params: Params, c: Tensor, holdout: Labelled) -> Tensor:
        return self.supervised(params, holdout)


@register_estimator("typed_half")
class Half(Truncated):
    """Half of a truncated gradient."""

    factor: float = 0.5


@register_estimator("typed_own")
class Own(Estimator):
    """An estimator with an option that has no default."""

    depth: int


@register_method("typed_method")
class Softer(FixMatch):
    """FixMatch with softer labels."""

    softness: float = 2.0


@register_model("typed_linear")
class Linear(Model):
    """One layer."""

    accepts = ("vector",)

    bias: bool = True

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        return nn.Linear(input_shape[0], outputs, bias=self.bias)


@register_task("typed_points")
class Points(Task):
    """Points on a line."""

    input_shape = (1,)

    rows: int = 20

    @property
    def output(self) -> Classes:
        return Classes(2)

    def load(self, seed: int) -> TaskData:
        x = torch.linspace(-1, 1, self.rows)[:, None]
        pool = Pool(x, (x[:, 0] > 0).long(), torch.arange(self.rows))
        return semi_supervised(pool, pool, labels=4, validation=0, classes=2, seed=seed, source="made up")


@register_optimizer("typed_rule")
def slow(lr: float, *, factor: float = 0.1) -> InnerOptimizer:
    """Gradient descent, slower."""
    return sgd(factor * lr)


assert_type(Weights(scale=2.0), Weights)
assert_type(Weights(scale=2.0).scale, float)
assert_type(Half(h=3, factor=0.1), Half)
assert_type(Own(depth=2).depth, int)
assert_type(Softer(threshold=0.9, softness=1.0), Softer)
assert_type(Linear(bias=False), Linear)
assert_type(Points(rows=30).load(0), TaskData)
assert_type(slow(1.0, factor=0.5), InnerOptimizer)


# What comes along ----------------------------------------------------------------------------------------------------

assert_type(sgd(0.1), InnerOptimizer)
assert_type(sgd(torch.tensor(0.1), momentum=0.9, weight_decay={"weight": 0.1, "bias": 0.0}), InnerOptimizer)
assert_type(momentum(0.1), InnerOptimizer)
assert_type(nesterov(0.1, 0.8), InnerOptimizer)
assert_type(adam(1e-3, betas=(0.9, 0.99)), InnerOptimizer)
assert_type(sgd(0.1).with_hyper(lr=0.2), InnerOptimizer)
assert_type(Truncated(h=3), Truncated)
assert_type(Truncated(h=3).h, int)
assert_type(Neumann(), Neumann)
assert_type(get_estimator("truncated(3)"), Estimator)
assert_type(estimators.get("exact")(), Estimator)
assert_type(FixMatch(threshold=0.9), FixMatch)
assert_type(FixMatch(threshold=0.9).threshold, float)
assert_type(methods.get("fixmatch")(threshold=0.9), Method)
assert_type(L2I(mask=False), L2I)
assert_type(TwoMoons(labels=4, noise=0.2), TwoMoons)
assert_type(MLP(width=8), MLP)
assert_type(Revolve(slots=4), Revolve)


# Through training ----------------------------------------------------------------------------------------------------

net = nn.Linear(3, 1)
model = FunctionalModel(net)
params = {name: p.detach() for name, p in net.named_parameters()}
data, held = (torch.randn(8, 3), torch.randn(8, 1)), (torch.randn(4, 3), torch.randn(4, 1))
weights = torch.ones(8, requires_grad=True)
rule = sgd(torch.tensor(0.1, requires_grad=True), momentum=0.9)


def inner(theta: Params, c: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    predicted: Tensor = model(theta, batch[0])  # a module may return anything
    return (c[:, None] * (predicted - batch[1]).square()).mean()


def outer(theta: Params, c: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    predicted: Tensor = model(theta, batch[0])
    return (predicted - batch[1]).square().mean()


def outer_with_aux(theta: Params, c: Tensor, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Any]:
    return outer(theta, c, batch), {"rows": len(batch[0])}


found = hypergradient(inner, outer, params, weights, Batches([data] * 2, held), rule, Truncated(h=1))
assert_type(found, HypergradientResult)
assert_type(found.outer_loss, Tensor)
assert_type(found.grad_optimizer, dict[str, Any])

value = after_training(inner, outer, params, weights, optimizer=rule, steps=2, batches=data, outer_batch=held)
assert_type(value, Tensor)
(slope,) = torch.autograd.grad(value, [weights])
assert_type(slope, Tensor)
with_aux = after_training(
    inner, outer_with_aux, params, weights, optimizer=rule, batches=data, outer_batch=held, aux=True
)
assert_type(with_aux, tuple[Tensor, Any])

recording = begin(params, weights, inner, optimizer=rule)
assert_type(recording, Recording[Tensor])
recording = recording.step(data).step(data)
assert_type(recording.value(outer, held), Tensor)
with_aux = begin(params, weights, inner, optimizer=rule, aux=True).step(data).value(outer_with_aux, held)

stock = torch.optim.Adam(net.parameters(), lr=1e-3)
with metaimpute.inner(net, stock, override={"lr": torch.tensor(0.1)}) as block:
    assert_type(block, Inner)
    assert_type(block.step(net(data[0]).square().mean()), dict[str, Tensor])
    assert_type(block.losses, list[Tensor])
    assert_type(block.start, dict[str, Tensor])
    assert_type(block.params, dict[str, Tensor])

end = unroll(inner, params, weights, [data], rule, 3, memory="recompute")
assert_type(end, Trajectory)
assert_type(end.losses, list[Tensor])
twin = from_torch(torch.optim.Adam(net.parameters(), lr=1e-3), dict(net.named_parameters()))
assert_type(twin, InnerOptimizer)
assert_type(check_hypergradient(inner, outer, params, weights, Batches([data], held), sgd(0.1)), Report)


# Rows and labels, runs -----------------------------------------------------------------------------------------------

rows, labels = np.random.default_rng(0).normal(size=(40, 2)), np.repeat([0, 1, -1, -1], 10)
imputer = MetaImputer(steps=2, random_state=0)
assert_type(imputer, MetaImputer)
assert_type(imputer.fit(rows, labels), MetaImputer)
assert_type(MetaImputerRegressor(steps=2), MetaImputerRegressor)
likely: float = imputer.predict_proba(rows).max()


def trained() -> None:
    """Checked, not run: it trains."""
    run = metaimpute.train("two_moons", set={"train.steps": 2}, seed=1)
    assert_type(run, Run)
    assert_type(run.module, nn.Module)
    assert_type(run.metrics, list[dict[str, float]])
    predictor = metaimpute.load(run.folder)
    assert_type(predictor, Predictor)
    assert_type(predictor.predict("new/"), Predictions)
    assert_type(predictor.predict("new/").labels, list[str])
