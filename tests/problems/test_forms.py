"""The look-ahead's forms against their formulas, written out; their hypergradients; the controls that take their options along."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metaimpute import recipes
from metaimpute.engine.pytree import dot, norm, tree_map
from metaimpute.methods import methods
from metaimpute.problems.forms import FORMS

from ..bound import Bound, bind, regression
from .test_l2i import directional, hypergradient

pytestmark = pytest.mark.usefixtures("float64")
OPTIONS: dict[str, dict[str, Any]] = {
    "fixmatch": {"threshold": 0.4},
    "mean_teacher": {"weight": 10.0},
    "uda": {"temperature": 0.4},
}


def network(params: dict[str, Tensor], inputs: Tensor) -> Tensor:
    """The network of ``bound.py`` without BatchNorm, by hand."""
    hidden = torch.tanh(inputs @ params["0.weight"].T + params["0.bias"])
    return hidden @ params["2.weight"].T + params["2.bias"]


def lookahead_loss(form: str, params: Any, z: Tensor, bound: Bound, weight: float, mask: Tensor) -> Tensor:
    """The formula of ``metaimpute/problems/forms.py`` for classes and a squared error."""
    batch = bound.batch
    squared = (network(params, batch.unlabelled.strong).softmax(-1) - z).square().sum(-1)
    supervised = F.cross_entropy(network(params, batch.labelled.inputs), batch.labelled.targets, reduction="none")
    if form == "ours":
        return supervised.mean() + weight * (mask * squared / 3).mean()
    if form == "paper":
        return supervised.sum() + weight * (mask * squared).sum()
    return (mask * squared).sum()


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("method", ["mean_teacher", "fixmatch"])
def test_each_form_is_its_formula(method: str, form: str) -> None:
    options = {} if method == "mean_teacher" or form != "ours" else {"distance": "squared_error"}
    bound = bind(method, "l2i", form=form, method_options=OPTIONS[method], problem_options=options)
    bound.batch = batch = bound.algorithm.prepare(bound.batch)
    z = torch.rand(5, 3).softmax(-1)
    weight = bound.algorithm.method.weight_at(batch.progress)
    mask = batch.imputation.weights
    if method == "fixmatch":
        assert 0 < float(mask.sum()) < 5
    expected = lookahead_loss(form, bound.params, z, bound, weight, mask)
    inner = bound.algorithm.lookahead.inner
    assert float(inner(bound.params, z, batch)) == pytest.approx(float(expected), rel=1e-12)
    if inner.split is not None:
        parts = inner.split.free(bound.params, batch) + inner.split.coupled(bound.params, z, batch)
        assert float(parts) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("form", list(FORMS))
def test_values_are_summed_over_rows_and_outputs(form: str) -> None:
    bound = bind("mean_teacher", "l2i", form=form, output=regression(), method_options={"weight": 3.0})
    bound.batch = batch = bound.algorithm.prepare(bound.batch)
    z = torch.randn(5, 2)
    off = (network(bound.params, batch.unlabelled.strong) - z).square()
    known = (network(bound.params, batch.labelled.inputs) - batch.labelled.targets).square()
    expected = {"ours": known.mean() + 3.0 * off.mean(), "paper": known.sum() + 3.0 * off.sum(), "released": off.sum()}
    assert float(bound.algorithm.lookahead.inner(bound.params, z, batch)) == pytest.approx(
        float(expected[form]), rel=1e-12
    )


@pytest.mark.parametrize("estimator", ["exact", "mixed"])
@pytest.mark.parametrize("form", ["paper", "released"])
@pytest.mark.parametrize("method", list(methods))
def test_the_hypergradient_of_every_form_equals_finite_differences(method: str, form: str, estimator: str) -> None:
    options = {"fixmatch": {"threshold": 0.35}, "uda": {"tsa": "none"}, "pseudo_label": {"threshold": 0.35}}
    bound = bind(method, "l2i", estimator, form=form, method_options=options.get(method), inner_optimizer=_sgd(0.02))
    _, found, _ = hypergradient(bound)
    direction = tree_map(torch.randn_like, bound.params)
    expected = directional(bound, "labels", direction)
    assert abs(expected) > 1e-8
    assert float(dot(found, direction)) == pytest.approx(expected, rel=1e-6, abs=1e-10)


def _sgd(rate: float) -> Any:
    from metaimpute.engine import sgd

    return sgd(rate)


@pytest.mark.parametrize("form", ["paper", "released"])
@pytest.mark.parametrize("method", ["mean_teacher", "fixmatch", "uda", "mixmatch", "pseudo_label"])
def test_eq6_equals_head_in_every_form(method: str, form: str) -> None:
    found = [
        hypergradient(bind(method, "l2i", name, form=form, method_options={"threshold": 0.35} if method in ("fixmatch", "pseudo_label") else None))[1]
        for name in ("approx", "head")
    ]  # fmt: skip
    assert float(norm(found[0])) > 1e-8
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)


def test_an_option_goes_before_the_form() -> None:
    bound = bind(form="released", problem_options={"reduction": "mean", "distance": "method"}, inner="all")
    form = bound.algorithm.problem.form  # type: ignore[attr-defined]
    assert (form.reduction, form.distance, form.inner_loss, form.inner_weight) == ("mean", "method", "all", "one")


@pytest.mark.parametrize("method", ["mixmatch", "uda"])
def test_the_papers_psi_is_not_sharpened(method: str) -> None:
    options = {"temperature": 0.4}
    ours, paper = (bind(method, form=form, method_options=options) for form in ("ours", "paper"))
    batch = ours.algorithm.prepare(ours.batch)
    views = ours.algorithm.method.copies(batch.unlabelled) if method == "mixmatch" else (batch.unlabelled.weak,)  # type: ignore[attr-defined]
    plain = torch.stack([network(ours.params, view).softmax(-1) for view in views]).mean(0)
    torch.testing.assert_close(paper.algorithm.problem.couple(paper.params, batch), plain, rtol=1e-9, atol=1e-12)
    sharp = plain.pow(1 / 0.4) if method == "mixmatch" else (network(ours.params, views[0]) / 0.4).softmax(-1)
    sharp = sharp / sharp.sum(-1, keepdim=True)
    torch.testing.assert_close(ours.algorithm.problem.couple(ours.params, batch), sharp, rtol=1e-9, atol=1e-12)


def test_a_recomputed_mask_is_that_of_the_network_after_the_base_step() -> None:
    """A base step long enough to change who is sure; the label gradient then covers other rows."""
    seen = []
    for mask in ("kept", "recomputed"):
        bound = bind("fixmatch", form="released", problem_options={"mask": mask}, method_options={"threshold": 0.45},
                     optimizer=lambda ps: torch.optim.SGD(ps, lr=3.0))  # fmt: skip
        batch = bound.algorithm.prepare(bound.batch)
        used = []
        estimate = bound.algorithm.lookahead.estimate

        def recording(batch: Any, *rest: Any, used: Any = used, estimate: Any = estimate, **options: Any) -> Any:
            used.append(batch.imputation.weights)
            return estimate(batch, *rest, **options)

        bound.algorithm.lookahead.estimate = recording  # type: ignore[method-assign]
        bound.algorithm.step(bound.batch, bound.holdout)
        seen.append((batch.imputation.weights, used[0], bound))
    (before, kept, _), (_, again, _) = seen
    assert torch.equal(before, kept)
    assert not torch.equal(before, again)
    assert [bind(form=form).algorithm.problem.remasks for form in FORMS] == [False, True, False]


@pytest.mark.parametrize("form", list(FORMS))
def test_the_second_step_of_learnable_labels(form: str) -> None:
    bound = bind("mean_teacher", "l2i_learnable", form=form, method_options={"weight": 10.0})
    batch = bound.algorithm.prepare(bound.batch)
    leaf = torch.randn(5, 3)
    squared = (network(bound.params, batch.unlabelled.strong).softmax(-1) - leaf.softmax(-1)).square()
    supervised = F.cross_entropy(network(bound.params, batch.labelled.inputs), batch.labelled.targets)
    whole = supervised + 10.0 * squared.mean()
    expected = {"ours": whole, "paper": whole, "released": squared.mean()}[form]
    found = bound.algorithm.problem.trained_loss(bound.params, {"labels": leaf}, batch)
    assert float(found) == pytest.approx(float(expected), rel=1e-12)


# Algorithm 1, line by line ----------------------------------------------------------------------------------------------------


class Adam:
    """Kingma and Ba, ICLR 2015, with decoupled decay."""

    def __init__(self, lr: float, decay: float) -> None:
        self.lr, self.decay, self.t = lr, decay, 0
        self.m: dict[str, Tensor] = {}
        self.v: dict[str, Tensor] = {}

    def step(self, params: dict[str, Tensor], grads: dict[str, Tensor], decays: bool) -> dict[str, Tensor]:
        self.t += 1
        moved = {}
        for name, g in grads.items():
            self.m[name] = 0.9 * self.m.get(name, torch.zeros_like(g)) + 0.1 * g
            self.v[name] = 0.999 * self.v.get(name, torch.zeros_like(g)) + 0.001 * g * g
            m, v = self.m[name] / (1 - 0.9**self.t), self.v[name] / (1 - 0.999**self.t)
            kept = params[name] * (1 - self.lr * self.decay) if decays else params[name]
            moved[name] = (kept - self.lr * m / (v.sqrt() + 1e-8)).detach()
        return moved


def gradient(loss: Tensor, params: dict[str, Tensor], keep: bool = False) -> dict[str, Tensor]:
    return dict(zip(params, torch.autograd.grad(loss, list(params.values()), create_graph=keep), strict=True))


@pytest.mark.parametrize("form", list(FORMS))
def test_algorithm_1_with_one_adam_equals_a_straight_line_of_its_own(form: str) -> None:
    """Mean Teacher, eight iterations, exact hypergradient through the labels alone, one AdamW for both steps."""
    rate, decay, eta, weight = 0.05, 0.3, 0.4 if form == "ours" else 0.05, 10.0
    bound = bind("mean_teacher", "l2i", "exact", form=form, method_options={"weight": weight}, inner_optimizer=_sgd(eta),
                 optimizer=lambda ps: torch.optim.AdamW(ps, lr=rate, weight_decay=decay))  # fmt: skip
    params = {n: p.detach().clone() for n, p in bound.params.items()}
    teacher, adam, batch, holdout = dict(params), Adam(rate, decay), bound.batch, bound.holdout
    for t in range(8):
        bound.algorithm.step(replace(batch, step=t), holdout)

        at = {n: p.clone().requires_grad_() for n, p in params.items()}
        z = network(teacher, batch.unlabelled.weak).softmax(-1)  # line 4
        squared = (network(at, batch.unlabelled.strong).softmax(-1) - z).square().mean()
        loss = F.cross_entropy(network(at, batch.labelled.inputs), batch.labelled.targets) + weight * squared  # 5
        params = adam.step(params, gradient(loss, at), decays=True)  # 6

        hat = {n: p.clone().requires_grad_() for n, p in params.items()}
        z = network(hat, batch.unlabelled.weak).softmax(-1)  # 7
        start = {n: p.detach().clone().requires_grad_() for n, p in hat.items()}
        inner = lookahead_loss(form, start, z, bound, weight, torch.ones(5))  # 8
        star = {n: start[n] - eta * g for n, g in gradient(inner, start, keep=True).items()}  # 9
        outer = F.cross_entropy(network(star, holdout.inputs), holdout.targets)  # 10
        params = adam.step(params, gradient(outer, hat), decays=False)  # 11

        share = min(1 - 1 / (t + 2), 0.999)
        teacher = {n: share * teacher[n] + (1 - share) * params[n] for n in params}
    for name, value in bound.params.items():
        torch.testing.assert_close(value.detach(), params[name], rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("estimator", ["approx", "head"])
@pytest.mark.parametrize("method", ["mean_teacher", "fixmatch"])
def test_every_estimator_looks_ahead_under_the_same_noise(method: str, estimator: str) -> None:
    """With dropout in the body: the losses of one look-ahead are those of ``exact``, so only the estimate differs."""
    seen = []
    for name in ("exact", estimator):
        bound = bind(method, "l2i", name, method_options={"threshold": 0.35} if method == "fixmatch" else None)
        bound.module.insert(2, torch.nn.Dropout(0.5))  # type: ignore[attr-defined]
        bound = _rebound(bound)
        _, _, result = hypergradient(bound)
        seen.append(float(result.diagnostics["inner_losses"][0]))
    assert seen[0] == pytest.approx(seen[1], rel=1e-12)


def _rebound(bound: Bound) -> Bound:
    """The algorithm over the module as it is now."""
    from metaimpute.engine import FunctionalModel
    from metaimpute.problems import Context, Sizes

    algorithm = bound.algorithm
    algorithm.model = FunctionalModel(bound.module)
    algorithm.problem.bind(Context(algorithm.model, algorithm.method, algorithm.method.output, Sizes(4, 5, 3)))
    algorithm.lookahead.inner, algorithm.lookahead.outer = (
        algorithm.problem.structured_inner(),
        algorithm.problem.structured_outer(),
    )
    algorithm.state = algorithm.method.init_state(algorithm.model.params)
    return bound


# controls and decay -------------------------------------------------------------------------------------------------------------


def test_lookahead_supervision_is_the_holdout_gradient_at_the_lookaheads_end() -> None:
    """And so what ``path: full`` with ``first_order`` gives."""
    bound, full = bind(problem="lookahead_supervision"), bind(problem="l2i", estimator="first_order", path="full")
    _, _, result = hypergradient(bound)
    end = {n: p.clone().requires_grad_() for n, p in result.theta_k.items()}
    loss = F.cross_entropy(network(end, bound.holdout.inputs), bound.holdout.targets)
    expected = gradient(loss, end)
    _, other, _ = hypergradient(full)
    applied = bound.algorithm.problem.control(None, result.theta_k, bound.holdout, torch.Generator())
    torch.testing.assert_close(applied, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(other, expected, rtol=1e-10, atol=1e-12)

    alone, stepped, again = bind(problem="none"), bind(problem="lookahead_supervision"), bind(problem="l2i")
    for one in (alone, stepped):
        one.algorithm.step(one.batch, one.holdout)
    batch = again.algorithm.prepare(again.batch)
    with torch.no_grad():
        for name, p in again.params.items():
            p.copy_(alone.params[name])
    _, _, result = again.algorithm.lookahead.estimate(batch, again.holdout)
    end = {n: p.clone().requires_grad_() for n, p in result.theta_k.items()}
    slope = gradient(F.cross_entropy(network(end, again.holdout.inputs), again.holdout.targets), end)
    for name, p in stepped.params.items():
        torch.testing.assert_close(p.detach(), alone.params[name] - 0.1 * slope[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("problem", ["l2i", "zero_hypergradient", "l2i_learnable"])
def test_weights_decay_once_an_iteration(problem: str) -> None:
    """The second step of a shared optimiser decays nothing: with zeros for a hypergradient it moves nothing."""

    def decaying(ps: Any) -> Any:
        return torch.optim.AdamW(ps, lr=0.1, weight_decay=0.5, betas=(0.0, 0.999))

    seen = []
    for name in ("none", problem):
        bound = bind(problem=name, optimizer=decaying, **({} if name == "none" else {"weight": 0.0}))
        bound.algorithm.step(bound.batch, bound.holdout)
        assert [g["weight_decay"] for g in bound.algorithm.optimizer.param_groups] == [0.5]
        seen.append({n: p.detach().clone() for n, p in bound.params.items()})
    if problem != "l2i_learnable":
        for name, value in seen[0].items():
            torch.testing.assert_close(seen[1][name], value, rtol=1e-12, atol=1e-14)


def test_controls_take_an_l2i_recipes_options_along() -> None:
    """A control under another form than its system would be no control of it."""
    sets = ("problem.form=released", "problem.distance=method", "problem.reduction=mean", "problem.label_lr=3.0")
    path = recipes.shipped_recipes()["digits_fixmatch"] if hasattr(recipes, "shipped_recipes") else None
    assert path is not None
    learnable = recipes.load(path, "sample", ("problem.name=l2i_learnable", *sets))
    control = recipes.load(path, "sample", ("problem.name=l2i_learnable", *sets, "problem.name=random_direction"))
    assert learnable.problem.label_lr == 3.0  # type: ignore[attr-defined]
    assert (control.problem.distance, control.problem.reduction) == ("method", "mean")  # type: ignore[attr-defined]
    assert control.problem_spec.form == "released"
    assert not hasattr(control.problem, "label_lr")
