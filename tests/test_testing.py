"""metaimpute.testing: right gradients pass; wrong, cut, noisy and zero ones are told apart, with the reason."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import Tensor, nn

from metaimpute import BilevelProblem, FunctionalModel
from metaimpute.engine import Batches, StructuredLoss, adam, momentum, sgd
from metaimpute.problems import problems
from metaimpute.testing import GradientCheckFailed, check_hypergradient, check_problem

X, Y = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
GENERATOR = torch.Generator()


class Triple(torch.autograd.Function):
    """x**3 whose backward keeps a number of the forward pass: right once, wrong twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.slope = 3 * x.detach() ** 2
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return ctx.slope * g


def net() -> FunctionalModel:
    torch.manual_seed(0)
    return FunctionalModel(
        nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.2), nn.Linear(5, 3))
    )


def outer(p: Any, c: Any, b: Any) -> Tensor:
    return F.cross_entropy(X @ p["w"], Y)


def check(inner: Any, c: Any = None, **options: Any) -> Any:
    torch.manual_seed(0)
    theta = {"w": 0.5 * torch.randn(4, 3)}
    return check_hypergradient(inner, options.pop("outer", outer), theta, torch.ones(6) if c is None else c,
                               raise_exception=False, **options)  # fmt: skip


def test_float32_losses_with_data_in_closures_are_checked_in_float64() -> None:
    model = net()

    def inner(p: Any, c: Any, b: Any) -> Tensor:
        return (c["w"] * F.cross_entropy(model(p, X).float(), Y, reduction="none")).mean() * c["s"]

    coupling = {"w": torch.ones(6), "s": torch.tensor(2.0)}
    rule = momentum(torch.tensor(0.3), torch.tensor(0.8))
    report = check_hypergradient(inner, lambda p, c, b: F.cross_entropy(model(p, X), Y), model.params, coupling, optimizer=rule,
                                 estimators=("exact", "mixed", "forward", "finite_difference", "cg(2)", "first_order"))  # fmt: skip
    assert report.ok
    terms = {(t.estimator, t.name): t for t in report.terms}
    for name in ("exact", "mixed", "forward"):
        for part in ("coupling['w']", "coupling['s']", "hyper['lr']", "hyper['momentum']"):
            assert terms[name, part].verdict == "right" and terms[name, part].error < 1e-6
    assert terms["exact", "theta_0"].verdict == "right"
    assert terms["first_order", "coupling['w']"].verdict == "inexact"
    assert model.module[1].running_mean.dtype == torch.float32 and model.module[0].weight.dtype == torch.float32
    assert torch.get_default_dtype() == torch.float32


def test_a_backward_that_is_right_once_and_wrong_twice_is_found() -> None:
    def inner(p: Any, c: Any, b: Any) -> Tensor:
        return (c * Triple.apply(X @ p["w"]).mean(1)).mean()

    report = check(inner)
    assert {t.verdict for t in report.terms} <= {"wrong", "right"} and not report.ok
    assert any("written by hand (TripleBackward)" in note for note in report.notes)
    with pytest.raises(GradientCheckFailed, match="wrong"):
        check_hypergradient(inner, outer, {"w": torch.ones(4, 3) / 3 + 0.1 * torch.randn(4, 3)}, torch.ones(6))


def test_a_cut_gradient_is_called_cut_and_not_wrong() -> None:
    def inner(p: Any, c: Any, b: Any) -> Tensor:
        return (c * (X @ p["w"] - (X @ p["w"]).detach().softmax(1)).square().sum(1)).mean()

    report = check(inner)
    assert report.ok and "cut" in {t.verdict for t in report.terms}
    assert any("detach()" in note for note in report.notes)


def test_a_coupling_cut_off_by_mistake_is_called_zero() -> None:
    report = check(lambda p, c, b: (c.detach() * F.cross_entropy(X @ p["w"], Y, reduction="none")).mean())
    assert {t.verdict for t in report.terms if t.name == "coupling"} == {"zero"}
    assert any("does not depend on the coupling" in note for note in report.notes)


@pytest.mark.parametrize("source", ["own", "numpy"])
def test_noise_is_called_noise(source: str) -> None:
    import numpy as np

    def inner(p: Any, c: Any, b: Any) -> Tensor:
        noise = torch.randn(6, 4, generator=GENERATOR) if source == "own" else torch.from_numpy(np.random.rand(6, 4))
        return (c * F.cross_entropy((X + noise) @ p["w"], Y, reduction="none")).mean()

    report = check(inner)
    assert {t.verdict for t in report.terms} == {"noisy", "refused"}
    assert any(("generator of its own" if source == "own" else "numpy") in note for note in report.notes)


def test_a_loss_that_uses_the_modules_own_parameters_is_told() -> None:
    model = net()
    report = check_hypergradient(
        lambda p, c, b: (c * F.cross_entropy(model.module(X), Y, reduction="none")).mean(),
        lambda p, c, b: F.cross_entropy(model(p, X), Y), model.params, torch.ones(6), raise_exception=False,
    )  # fmt: skip
    notes = " ".join(report.notes)
    assert "does not depend on any parameter" in notes and "requires a gradient but is in none of theta" in notes


def test_what_has_no_effect_says_so_and_kinks_settle_nothing() -> None:
    report = check(lambda p, c, b: (0 * c).sum() + F.cross_entropy(X @ p["w"], Y))
    assert all("no effect" in t.reason for t in report.terms if t.name == "coupling")

    def sawtooth(p: Any, c: Any, b: Any) -> Tensor:
        return (1e-3 * (p["w"] * 3e6).sin().sum() * c.sum()).abs()

    assert {t.verdict for t in check(sawtooth).terms} <= {"kink", "wrong", "zero", "right"}


def test_structured_losses_and_refusals() -> None:
    whole = StructuredLoss(lambda p, c, b: (c * F.cross_entropy(X @ p["w"], Y, reduction="none")).mean())
    report = check(whole, estimators=("exact", "approx", "head"), optimizer=adam(0.1))
    verdicts = {t.estimator: t.verdict for t in report.terms}
    assert verdicts["exact"] == "right" and verdicts["approx"] == "refused" and report.ok
    assert "refused: " in str(report)


def test_a_cut_excuses_no_difference_between_estimators(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that is only written down is a cut as well; a broken product beside it is still wrong."""
    from metaimpute.engine.estimators import mixed

    seen: list[float] = []

    def inner(p: Any, c: Any, b: Any) -> Tensor:
        value = (c * F.cross_entropy(X @ p["w"], Y, reduction="none")).mean()
        seen.append(value.detach().item())
        return value

    assert check(inner).ok
    right = mixed.product

    def half(*args: Any, **options: Any) -> Any:
        found = right(*args, **options)
        return found._replace(c=0.5 * found.c)

    monkeypatch.setattr(mixed, "product", half)
    assert "wrong" in {t.verdict for t in check(inner).terms if t.estimator == "mixed"}


def test_small_losses_are_held_to_their_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    from metaimpute.engine.estimators import mixed

    def inner(p: Any, c: Any, b: Any) -> Tensor:
        return (c * F.cross_entropy(X @ p["w"], Y, reduction="none")).mean()

    def small(p: Any, c: Any, b: Any) -> Tensor:
        return 1e-9 * outer(p, c, b)

    assert check(inner, outer=small).ok
    right = mixed.product
    monkeypatch.setattr(mixed, "product", lambda *a, **o: (f := right(*a, **o))._replace(c=0.5 * f.c))
    assert not check(inner, outer=small).ok


def test_where_nothing_was_compared_nothing_is_right() -> None:
    report = check(lambda p, c, b: (c * (X @ p["w"])[:, 0]).sum() * float("nan"))
    assert not report.ok and report.failures[0].verdict == "not finite"
    approx = check(
        lambda p, c, b: (c * F.cross_entropy(X @ p["w"], Y, reduction="none")).mean(), estimators=("approx",)
    )
    assert not approx.ok and {t.verdict for t in approx.failures} == {"refused"}
    for bad in ({"steps": 0}, {"batches": [None]}):
        with pytest.raises(ValueError, match="batches are Batches"):
            check(lambda p, c, b: c.sum(), **bad)
    with pytest.raises(ValueError, match="make it a tensor"):
        check(lambda p, c, b: p["w"].sum(), 0.5)


def test_a_kink_at_the_point_is_no_zero() -> None:
    torch.manual_seed(0)
    report = check_hypergradient(
        lambda p, c, b: (c * p["w"].relu()).sum(), lambda p, c, b: p["w"].sum(), {"w": torch.zeros(3)}, torch.ones(3),
        steps=1, raise_exception=False,
    )  # fmt: skip
    assert "zero" not in {t.verdict for t in report.terms if t.name == "theta_0"}


# problems and recipes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["l2i", "l2i_learnable"])
def test_shipped_problems_pass(name: str) -> None:
    report = check_problem(problems.get(name)())
    assert report.ok and {"exact", "mixed", "couple"} <= {t.estimator for t in report.terms}


@dataclasses.dataclass
class Weighted(BilevelProblem):
    """Per-example weights; ``broken`` detaches what couple is to differentiate."""

    broken: bool = False

    def init_meta(self, sizes: Any) -> dict[str, Tensor]:
        return {"logits": torch.linspace(-1, 1, sizes.unlabelled)}

    def couple(self, meta: Any, batch: Any) -> Tensor:
        weights = meta["logits"][batch.unlabelled.index].sigmoid()
        return weights.detach() if self.broken else weights

    def inner_loss(self, params: Any, weights: Tensor, batch: Any) -> Tensor:
        raw = self.predict(params, batch.unlabelled.weak)
        return self.supervised(params, batch.labelled) + (weights * raw.square().sum(1)).mean()


def test_a_problem_of_ones_own_is_checked_couple_included() -> None:
    assert check_problem(Weighted(), steps=2).ok
    with pytest.raises(GradientCheckFailed, match="couple, meta: zero"):
        check_problem(Weighted(broken=True), steps=2)


def test_check_gradients_on_the_command_line(tmp_path: Path) -> None:
    from metaimpute.cli import main

    result = CliRunner().invoke(main, ["check", "two_moons", "--gradients"])
    assert (
        result.exit_code == 0 and "exact, coupling: right" in result.output and "couple, meta: right" in result.output
    )
    result = CliRunner().invoke(main, ["check", "two_moons", "--gradients", "--set", "problem={name: none}"])
    assert result.exit_code == 0 and "takes no hypergradient" in result.output
    assert Batches([None], None).outer is None and sgd(0.1).label == "sgd"


def test_what_the_engine_warns_of_is_a_line_of_the_command() -> None:
    from metaimpute.cli import main

    done = CliRunner().invoke(
        main, ["check", "digits_unlabelled_weights", "--gradients", "--set", "model={name: mlp, width: 4}"]
    )
    assert done.exit_code == 0, done.output
    line = next(line for line in done.stderr.splitlines() if "no positive curvature" in line)
    assert line.startswith("warning: the inner Hessian has a direction") and ".py" not in done.stderr
