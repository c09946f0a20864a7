"""Derivatives of what any solver found: closed forms, finite differences of converged solves, another package, every solver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from metaimpute.engine import custom_root, hypergradient, implicit, linear_solvers, nonzero, on_trees, proximal, sgd
from metaimpute.engine.linear_solvers import CG, GMRES, NeumannSeries, NormalCG, Richardson, WarmStart

pytestmark = pytest.mark.usefixtures("float64")
SYMMETRIC = ("cg", "normal_cg", "gmres", "bicgstab", "direct")
CLOSE: dict[str, float] = {"rtol": 1e-8, "atol": 1e-10}


def data(rows: int = 30, columns: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=rng)
    return x, x @ torch.arange(1.0, columns + 1) * 0.3 + 0.1 * torch.randn(rows, generator=rng)


def newton(objective: Callable[..., Tensor], x: Tensor, *args: Any, steps: int = 40) -> Tensor:
    """To rounding, without a graph."""
    for _ in range(steps):
        slope = torch.func.grad(objective)(x, *args)
        x = x - torch.linalg.solve(torch.func.hessian(objective)(x, *args), slope)
    return x.detach()


def finite_difference(function: Callable[[Tensor], Tensor], at: Tensor, eps: float = 1e-4) -> Tensor:
    """``d function / d at`` by Richardson-extrapolated central differences, ``[*out, *at]``."""
    columns = []
    for unit in torch.eye(at.numel()).reshape(-1, *at.shape):

        def slope(h: float, unit: Tensor = unit) -> Tensor:
            return (function(at + h * unit) - function(at - h * unit)) / (2 * h)

        columns.append((4 * slope(eps) - slope(2 * eps)) / 3)
    return torch.stack(columns, -1).reshape(*columns[0].shape, *at.shape)


# smooth problems ---------------------------------------------------------------------------------------------------------


def ridge(w: Tensor, decay: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return (x @ w - y).square().sum() / 2 + (decay * w.square()).sum() / 2


def solved_ridge(decay: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return torch.linalg.solve(x.T @ x + torch.diag(decay), x.T @ y)


@pytest.mark.parametrize("solve", [*SYMMETRIC, NeumannSeries(alpha=0.01), Richardson(alpha=0.01)])
def test_ridge_has_its_closed_form_in_every_argument(solve: Any) -> None:
    x, y = data()
    decay = torch.linspace(0.5, 2, 5)
    arguments = [decay.requires_grad_(), x.requires_grad_(), y.requires_grad_()]
    expected = solved_ridge(*arguments)
    w = implicit(expected.detach(), *arguments, objective=ridge, solve=solve)
    assert torch.equal(w, expected)
    weights = torch.randn(5)
    found = torch.autograd.grad(w @ weights, arguments)
    torch.testing.assert_close(found, torch.autograd.grad(expected @ weights, arguments), **CLOSE)


@pytest.mark.parametrize("form", ["objective", "optimality_fn", "fixed_point_fn"])
def test_the_three_forms_of_a_condition_agree(form: str) -> None:
    x, y = data()

    def slope(w: Tensor, decay: Tensor) -> Tensor:
        return x.T @ (x @ w - y) + decay * w

    given = {
        "objective": lambda w, decay: ridge(w, decay, x, y),
        "optimality_fn": slope,
        "fixed_point_fn": lambda w, decay: w - 0.01 * slope(w, decay),
    }
    decay = torch.linspace(0.5, 2, 5).requires_grad_()
    expected = solved_ridge(decay, x, y)
    w = implicit(expected.detach(), decay, **{form: given[form]}, tolerance=1e-9)
    found, closed = (torch.autograd.grad(v.square().sum(), decay)[0] for v in (w, expected))
    torch.testing.assert_close(found, closed, **CLOSE)


def logistic(w: Tensor, log_decay: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(x @ w, y) + (log_decay.exp() * w.square()).sum() / 2


def test_logistic_regression_with_a_penalty_per_feature_equals_differences_of_a_converged_solve() -> None:
    x, y = data(60, 4)
    y = (y > 0).double()
    log_decay = torch.linspace(-3, -1, 4)
    w = newton(logistic, torch.zeros(4), log_decay, x, y)
    jacobian = torch.func.jacrev(lambda p: implicit(w, p, x, y, objective=logistic, tolerance=1e-9))(log_decay)
    expected = finite_difference(lambda p: newton(logistic, torch.zeros(4), p, x, y), log_decay)
    torch.testing.assert_close(jacobian, expected, rtol=1e-7, atol=1e-10)


def test_scikit_learn_solves_and_its_answer_is_differentiated() -> None:
    from sklearn.linear_model import LogisticRegression

    x, y = data(80, 3)
    y = (y > 0).double()

    def fitted(strength: float) -> Tensor:
        model = LogisticRegression(C=strength, tol=1e-12, max_iter=10_000, fit_intercept=False, solver="newton-cg")
        return torch.as_tensor(model.fit(x.numpy(), y.numpy()).coef_[0].copy())

    def objective(w: Tensor, c: Tensor) -> Tensor:
        return c * F.binary_cross_entropy_with_logits(x @ w, y, reduction="sum") + w.square().sum() / 2

    c = torch.tensor(0.7, requires_grad=True)
    w = implicit(fitted(0.7), c, objective=objective, tolerance=1e-6)
    jacobian = torch.autograd.grad(w.sum(), c)[0]
    expected = finite_difference(lambda s: fitted(float(s)), torch.tensor(0.7), 1e-3).sum()
    torch.testing.assert_close(jacobian, expected, rtol=1e-6, atol=1e-9)


# sparse and constrained problems -----------------------------------------------------------------------------------------


def squares(w: Tensor, *_: Any) -> Tensor:
    x, y = data(40, 8, 3)
    return (x @ w - y).square().mean() / 2


def iterated(step: Callable[..., Tensor], x: Tensor, *args: Any, times: int = 6000) -> Tensor:
    with torch.no_grad():
        for _ in range(times):
            x, before = step(x, *args), x
            if torch.equal(x, before):
                break
    return x


def soft(z: Tensor, step: float, p: Tensor) -> Tensor:
    return proximal.prox_elastic_net(z, step * p[0], step * p[1])


@pytest.mark.parametrize("support", [None, nonzero])
@pytest.mark.parametrize("solve", ["gmres", "normal_cg", "bicgstab", "direct"])
@pytest.mark.parametrize("p", [(0.8, 0.0), (0.8, 0.3)], ids=["lasso", "elastic_net"])
def test_the_lasso_has_its_closed_form_on_the_support(p: tuple[float, float], solve: str, support: Any) -> None:
    step = proximal.proximal_gradient(squares, soft, 0.25)
    at = torch.tensor(p)
    w = iterated(step, torch.zeros(8), at)
    kept = w != 0
    assert 2 <= int(kept.sum()) <= 6, "the check would be vacuous"
    jacobian = torch.func.jacrev(
        lambda q: implicit(w, q, fixed_point_fn=step, solve=solve, support=support, tolerance=1e-9)
    )(at)
    x, _ = data(40, 8, 3)
    hessian = x[:, kept].T @ x[:, kept] / 40 + p[1] * torch.eye(int(kept.sum()))
    expected = torch.zeros(8, 2)
    expected[kept] = -torch.linalg.solve(hessian, torch.stack([w[kept].sign(), w[kept]], 1))
    torch.testing.assert_close(jacobian, expected, **CLOSE)
    differences = finite_difference(lambda q: iterated(step, w, q), at, 1e-5)
    torch.testing.assert_close(jacobian, differences, rtol=1e-6, atol=1e-8)


def test_on_the_support_a_sparse_problem_is_symmetric_and_smooth() -> None:
    """cg on the restricted system; the objective's gradient with the sign as it is."""
    step = proximal.proximal_gradient(squares, soft, 0.25)
    at = torch.tensor([0.8, 0.3], requires_grad=True)
    w = iterated(step, torch.zeros(8), at.detach())
    by_cg = implicit(w, at, fixed_point_fn=step, solve="cg", support=nonzero)

    def smooth(v: Tensor, p: Tensor) -> Tensor:
        return squares(v) + p[0] * v.abs().sum() + p[1] * v.square().sum() / 2

    by_objective = implicit(w, at, objective=smooth, support=nonzero)
    reference = implicit(w, at, fixed_point_fn=step)
    weights = torch.randn(8)
    found = [torch.autograd.grad(v @ weights, at)[0] for v in (by_cg, by_objective, reference)]
    torch.testing.assert_close(found[0], found[2], **CLOSE)
    torch.testing.assert_close(found[1], found[2], **CLOSE)


def test_a_support_vector_machine_in_its_dual_box() -> None:
    x, y = data(25, 2, 1)
    y = y.sign()
    kernel = torch.exp(-torch.cdist(x, x).square()) * y[:, None] * y

    def dual(a: Tensor, c: Tensor, width: Tensor) -> Tensor:
        k = torch.exp(-width * torch.cdist(x, x).square()) * y[:, None] * y
        return a @ k @ a / 2 - a.sum()

    step = proximal.proximal_gradient(dual, lambda z, s, c, width: proximal.project_box(z, 0.0, c), 0.1)
    assert float(torch.linalg.eigvalsh(kernel)[-1]) < 10

    def solved(p: Tensor) -> Tensor:
        return iterated(step, torch.zeros(25), p[0], p[1], times=40_000)

    at = torch.tensor([0.6, 1.0])
    a = solved(at)
    assert int((a == 0.6).sum()) >= 3 and int(((a > 0) & (a < 0.6)).sum()) >= 3
    found = torch.func.jacrev(lambda p: implicit(a, p[0], p[1], fixed_point_fn=step, tolerance=1e-8))(at)
    torch.testing.assert_close(found, finite_difference(solved, at, 1e-5), rtol=1e-5, atol=1e-7)


def test_rows_on_the_simplex() -> None:
    """Multiclass: dual variables of every example on a simplex, all in one system."""
    rng = torch.Generator().manual_seed(5)
    target, mix = torch.randn(6, 4, generator=rng), torch.randn(6, 6, generator=rng) * 0.2
    gram = mix @ mix.T + torch.eye(6)

    def objective(b: Tensor, strength: Tensor) -> Tensor:
        return (b * (gram @ b)).sum() * strength / 2 - (b * target).sum()

    step = proximal.proximal_gradient(objective, lambda z, s, strength: proximal.project_simplex(z), 0.2)
    at = torch.tensor([0.8])
    b = iterated(step, torch.full((6, 4), 0.25), at)
    assert 3 <= int((b == 0).sum()) <= 18
    torch.testing.assert_close(b.sum(1), torch.ones(6))
    found = torch.func.jacrev(lambda s: implicit(b, s, fixed_point_fn=step, tolerance=1e-9))(at)
    torch.testing.assert_close(found, finite_difference(lambda s: iterated(step, b, s), at, 1e-5), rtol=1e-6, atol=1e-8)


# a fixed point of trees: what is not symmetric, higher derivatives, transforms -----------------------------------------------


MIX = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.4


def layer(x: Any, a: Any) -> Any:
    """A deep equilibrium layer, with a scalar beside it."""
    return {
        "w": torch.tanh(MIX @ x["w"] + a["u"].sin() + a["v"] * x["s"]),
        "s": 0.3 * x["s"].cos() * a["v"] + 0.1 * x["w"].sum(),
    }


def equilibrium(a: Any) -> Any:
    x = {"w": torch.zeros(3), "s": torch.zeros(())}
    with torch.no_grad():
        for _ in range(300):
            x = layer(x, a)
    return x


def through(u: Tensor, v: Tensor, solve: Any = "gmres") -> tuple[Tensor, Tensor]:
    a = {"u": u, "v": v, "count": 3, "nothing": None}
    x = implicit(equilibrium(a), a, fixed_point_fn=layer, solve=solve, tolerance=1e-9)
    return x["w"], x["s"]


def point() -> tuple[Tensor, Tensor]:
    return torch.tensor([0.5, -0.3, 1.2], requires_grad=True), torch.tensor(0.4, requires_grad=True)


@pytest.mark.parametrize("solve", ["gmres", "normal_cg", "bicgstab", "neumann", "richardson", "direct"])
def test_an_equilibrium_layer_has_derivatives_of_two_orders_in_both_modes(solve: str) -> None:
    at = point()
    assert gradcheck(lambda u, v: through(u, v, solve), at, check_forward_ad=True)
    assert gradgradcheck(lambda u, v: through(u, v, solve), at)


def scalar(u: Tensor) -> Tensor:
    return sum((t.square().sum() for t in through(u, point()[1].detach())), torch.zeros(()))


def unrolled(u: Tensor) -> Tensor:
    x = {"w": torch.zeros(3), "s": torch.zeros(())}
    for _ in range(80):
        x = layer(x, {"u": u, "v": torch.tensor(0.4)})
    return x["w"].square().sum() + x["s"].square()


@pytest.mark.parametrize("outer", ["grad", "jacrev", "jacfwd", "jvp"])
@pytest.mark.parametrize("inner", ["grad", "jacrev", "jacfwd"])
def test_transforms_of_torch_func_may_be_around_it_and_nested(inner: str, outer: str) -> None:
    def twice(function: Callable[[Tensor], Tensor]) -> Tensor:
        slope = getattr(torch.func, inner)(function)
        u = point()[0].detach()
        if outer == "jvp":
            return torch.func.jvp(slope, (u,), (torch.ones(3),))[1]
        if outer == "grad":
            return torch.func.grad(lambda u: slope(u).square().sum())(u)
        return getattr(torch.func, outer)(slope)(u)

    torch.testing.assert_close(twice(scalar), twice(unrolled), **CLOSE)


def test_third_derivatives_and_maps_over_problems() -> None:
    def third(function: Callable[[Tensor], Tensor]) -> Tensor:
        u = point()[0]
        first = torch.autograd.grad(function(u), u, create_graph=True)[0]
        second = torch.autograd.grad(first[0], u, create_graph=True)[0]
        return torch.autograd.grad(second[1], u)[0]

    torch.testing.assert_close(third(scalar), third(unrolled), **CLOSE)
    many = torch.stack([point()[0].detach() + shift for shift in (0.0, 0.5, -1.0)])
    alone = torch.stack([torch.func.grad(unrolled)(u) for u in many])
    torch.testing.assert_close(torch.vmap(torch.func.grad(scalar))(many), alone, **CLOSE)
    torch.testing.assert_close(torch.func.grad(lambda u: torch.vmap(scalar)(u).sum())(many), alone, **CLOSE)


def test_many_problems_in_one_condition_are_each_alone() -> None:
    x, y = data(24, 3)
    x, y = x.reshape(4, 6, 3), y.reshape(4, 6)
    decay = torch.linspace(0.5, 2, 12).reshape(4, 3).requires_grad_()
    alone = torch.stack([solved_ridge(*row) for row in zip(decay, x, y, strict=True)])

    def all_of_them(w: Tensor, decay: Tensor) -> Tensor:
        return torch.vmap(ridge)(w, decay, x, y).sum()

    w = implicit(alone.detach(), decay, objective=all_of_them)
    found, expected = (torch.autograd.grad((v**3).sum(), decay)[0] for v in (w, alone))
    torch.testing.assert_close(found, expected, **CLOSE)


# agreement with another package -------------------------------------------------------------------------------------------


def test_it_agrees_with_torchopt() -> None:
    torchopt = pytest.importorskip("torchopt")
    from torchopt.diff.implicit import custom_root as theirs

    x, y = data(40, 4)
    y = (y > 0).double()

    def slope(w: Tensor, log_decay: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return torch.func.grad(logistic)(w, log_decay, x, y)

    def solver(w: Tensor, log_decay: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return newton(logistic, w, log_decay.detach(), x.detach(), y)

    arguments = [torch.linspace(-3, -1, 4).requires_grad_(), x.requires_grad_()]
    solve = torchopt.linear_solve.solve_normal_cg(maxiter=200, atol=1e-14, rtol=1e-14)
    w = theirs(slope, argnums=(1, 2), solve=solve)(solver)(torch.zeros(4), *arguments, y)
    expected = torch.autograd.grad(w.pow(3).sum(), arguments)
    for form in ({"optimality_fn": slope}, {"objective": logistic}):
        ours = custom_root(**form, solve=NormalCG(tolerance=1e-13))(solver)(torch.zeros(4), *arguments, y)
        torch.testing.assert_close(torch.autograd.grad(ours.pow(3).sum(), arguments), expected, rtol=1e-9, atol=1e-11)


# as a decorator ----------------------------------------------------------------------------------------------------------


def test_a_decorated_solver_may_go_through_numpy_and_return_what_it_counted() -> None:
    x, y = data()

    @custom_root(objective=ridge, has_aux=True, tolerance=1e-6)
    def solver(start: Tensor, decay: Tensor, x: Tensor, y: Tensor, *, times: int = 5) -> Any:
        """Solves."""
        assert not torch.is_grad_enabled() and not decay.requires_grad
        matrix = x.numpy().T @ x.numpy() + np.diag(decay.numpy())
        return torch.as_tensor(np.linalg.solve(matrix, x.numpy().T @ y.numpy())), {"times": times}

    decay = torch.ones(5, requires_grad=True)
    w, aux = solver(torch.zeros(5), decay, x, y, times=7)
    assert aux == {"times": 7} and solver.__doc__ == "Solves."
    expected = torch.autograd.grad(solved_ridge(decay, x, y).sum(), decay)
    torch.testing.assert_close(torch.autograd.grad(w.sum(), decay), expected, **CLOSE)
    with torch.no_grad():
        assert not solver(torch.zeros(5), decay, x, y)[0].requires_grad


def test_a_solver_on_trees_is_handed_the_shape_of_the_solution() -> None:
    at, shapes = point(), []

    def solve(matvec: Any, b: Any) -> Any:
        shapes.append({key: tuple(leaf.shape) for key, leaf in b.items()})
        x = {key: torch.zeros_like(leaf) for key, leaf in b.items()}
        for _ in range(300):
            image = matvec(x)
            x = {key: x[key] + b[key] - image[key] for key in b}
        return x

    found = torch.autograd.grad(sum(t.sum() for t in through(*at, on_trees(solve))), at)
    expected = torch.autograd.grad(sum(t.sum() for t in through(*at)), at)
    torch.testing.assert_close(found, expected, **CLOSE)
    assert shapes == [{"w": (3,), "s": ()}]


# warm starts, batches, preconditioners ------------------------------------------------------------------------------------


def counted(limit: list[int]) -> Callable[..., Tensor]:
    def slope(w: Tensor, decay: Tensor, x: Tensor, y: Tensor) -> Tensor:
        def note(_: Tensor) -> None:
            limit[0] += 1

        out = x.T @ (x @ w - y) + decay * w
        out.register_hook(note)
        return out

    return slope


def test_a_warm_start_saves_products_and_changes_nothing() -> None:
    x, y = data(60, 20)
    times = [0]
    warm = WarmStart(CG(tolerance=1e-9))
    costs = []
    for shift in (0.0, 1e-9, 2e-9):
        decay = torch.linspace(0.1, 3, 20).add(shift).requires_grad_()
        w = implicit(solved_ridge(decay.detach(), x, y), decay, x, y, optimality_fn=counted(times), solve=warm)
        before = times[0]
        found = torch.autograd.grad(w.sum(), decay)[0]
        costs.append(times[0] - before)
        expected = torch.autograd.grad(solved_ridge(decay, x, y).sum(), decay)[0]
        torch.testing.assert_close(found, expected, **CLOSE)
    assert costs[1] < 0.7 * costs[0] and costs[2] < 0.7 * costs[0], costs
    assert list(warm.last) == ["adjoint"]
    w = implicit(
        solved_ridge(torch.ones(5), *data()), torch.ones(5).requires_grad_(), *data(), objective=ridge, solve=warm
    )
    w.sum().backward()  # another shape begins anew


@pytest.mark.parametrize(
    "solve", [NeumannSeries(alpha=0.05, max_iterations=400), Richardson(alpha=0.05, max_iterations=400)]
)
def test_fresh_batches_are_drawn_for_every_product_by_seed(solve: Any) -> None:
    x, y = data(64, 3)
    drawn: list[Tensor] = []

    def draw(generator: torch.Generator) -> Tensor:
        drawn.append(torch.randint(0, 64, (16,), generator=generator))
        return drawn[-1]

    def objective(w: Tensor, decay: Tensor, rows: Tensor) -> Tensor:
        return (x[rows] @ w - y[rows]).square().mean() / 2 + (decay * w.square()).sum() / 2

    decay = torch.full((3,), 0.5, requires_grad=True)
    whole = torch.linalg.solve(x.T @ x / 64 + torch.diag(decay), x.T @ y / 64)

    def found(seed: int) -> Tensor:
        w = implicit(whole.detach(), decay, objective=objective, batches=draw, seed=seed, solve=solve)
        return torch.autograd.grad(w.sum(), decay)[0]

    first = found(1)
    assert len({tuple(rows.tolist()) for rows in drawn}) >= 400
    assert torch.equal(found(1), first) and not torch.equal(found(2), first)
    mean = torch.stack([found(seed) for seed in range(30)]).mean(0)
    torch.testing.assert_close(mean, torch.autograd.grad(whole.sum(), decay)[0], rtol=0.1, atol=0.02)


@pytest.mark.parametrize("kind", [CG, GMRES, linear_solvers.BiCGSTAB])
def test_the_diagonal_preconditions(kind: Any) -> None:
    x, y = data(60, 30)
    decay = torch.logspace(0, 6, 30).requires_grad_()
    costs = []
    for how in (
        None,
        "jacobi",
        linear_solvers.Jacobi(x.square().sum(0) + decay.detach()),
        lambda v: v / (1 + decay.detach()),
    ):
        times = [0]
        w = implicit(
            solved_ridge(decay.detach(), x, y), decay, x, y, optimality_fn=counted(times),
            solve=kind(preconditioner=how, tolerance=1e-11, max_iterations=2000),
        )  # fmt: skip
        found = torch.autograd.grad(w.sum(), decay)[0]
        torch.testing.assert_close(
            found, torch.autograd.grad(solved_ridge(decay, x, y).sum(), decay)[0], rtol=1e-6, atol=1e-12
        )
        costs.append(times[0])
    assert costs[1] < costs[0] + 16 and costs[2] < costs[0], costs


@pytest.mark.parametrize("estimator", ["exact", "mixed", "forward", "cg(10)"])
def test_it_may_stand_in_the_losses_of_an_estimator(estimator: str) -> None:
    """A feature map that is itself solved for, inside the inner loss."""
    x, y = data(12, 3)

    def features(p: Any, c: Any, closed: bool) -> Tensor:
        decay = c["decay"].exp() + p["w"].square()
        exact = solved_ridge(decay, x, y)
        return (
            exact
            if closed
            else implicit(exact.detach(), decay, objective=lambda v, d: ridge(v, d, x, y), solve="direct")
        )

    def found(closed: bool) -> Any:
        return hypergradient(
            lambda p, c, b: (features(p, c, closed) - p["w"]).square().sum() + 0.1 * p["w"].square().sum(),
            lambda p, c, b: (features(p, c, closed) * p["w"]).sum(),
            {"w": torch.ones(3)}, {"decay": torch.tensor([0.1, 0.5, -0.3])}, None, sgd(0.1), estimator, steps=3, seed=0,
            wrt_start=False,
        )  # fmt: skip

    torch.testing.assert_close(found(False).grad_c, found(True).grad_c, rtol=1e-8, atol=1e-10)
