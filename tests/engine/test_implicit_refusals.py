"""Where a derivative would be missing or wrong, a sentence; and what a stranger hands over."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from metaimpute.engine import (
    CannotCompile,
    CannotDifferentiate,
    Compiled,
    NotRepeatable,
    SolverError,
    WarmStart,
    custom_root,
    hypergradient,
    implicit,
    linear_solvers,
    nonzero,
    on_trees,
    sgd,
)
from metaimpute.engine.linear_solvers import CG, GMRES, Direct, NeumannSeries, NormalCG
from metaimpute.engine.registry import UnknownName

A = torch.tensor([[2.0, 0.3, 0.0], [0.3, 1.5, -0.2], [0.0, -0.2, 1.0]], dtype=torch.float64)
SKEW = torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.5], [0.0, -0.5, 0.0]], dtype=torch.float64)


def linear(matrix: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, b: matrix.to(x) @ x - b


def rhs(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor([1.0, -2.0, 0.5], dtype=dtype, requires_grad=True)


def solved(matrix: Tensor = A, b: Tensor | None = None, **options: Any) -> Tensor:
    b = rhs() if b is None else b
    x = torch.linalg.solve(matrix.to(b), b.detach())
    return implicit(x, b, optimality_fn=linear(matrix), **options)


# what the derivative would miss --------------------------------------------------------------------------------------------


def test_a_tensor_that_is_no_argument_is_refused() -> None:
    hidden = torch.ones((), dtype=torch.float64, requires_grad=True)
    b = rhs()
    x = torch.linalg.solve(A, b.detach())
    said = r"optimality_fn uses a tensor of shape \[\] that requires a gradient but is none of the arguments"
    with pytest.raises(CannotDifferentiate, match=said):
        implicit(x, b, optimality_fn=lambda x, b: A @ x - hidden * b)
    with pytest.raises(CannotDifferentiate, match=said):
        implicit(x, b.detach(), optimality_fn=lambda x, b: A @ x - hidden * b)
    with pytest.raises(CannotDifferentiate, match="the gradient of objective uses a tensor"):
        implicit(x * 0, optimality_fn=None, objective=lambda x: hidden * x.square().sum())
    module = nn.Linear(3, 3).double()
    with pytest.raises(CannotDifferentiate, match="none of the arguments"):
        implicit(x, b, module, optimality_fn=lambda x, b, net: A @ x - b + 0 * net(x))

    def inside(hidden: Tensor) -> Tensor:
        return implicit(x, b.detach(), optimality_fn=lambda x, b: A @ x - hidden * b).sum()

    with pytest.raises(CannotDifferentiate, match="none of the arguments"):
        torch.func.grad(inside)(torch.ones((), dtype=torch.float64))
    with pytest.raises(CannotDifferentiate, match="none of the arguments"):
        torch.func.jvp(inside, (torch.ones((), dtype=torch.float64),), (torch.ones((), dtype=torch.float64),))


def test_a_transform_inside_the_condition_is_fine_without_one_around_it() -> None:
    b = rhs()
    x = torch.linalg.solve(A, b.detach())

    def slope(x: Tensor, b: Tensor) -> Tensor:
        return torch.func.grad(lambda x: x @ A @ x / 2 - b @ x)(x)

    found = torch.autograd.grad(implicit(x, b, optimality_fn=slope).sum(), b)[0]
    torch.testing.assert_close(found, torch.linalg.inv(A).sum(0))
    with pytest.raises(CannotDifferentiate, match="only where there is none around it"):
        torch.func.grad(lambda b: implicit(x, b, optimality_fn=slope).sum())(b.detach())


def test_a_condition_that_autograd_cannot_see_through_is_refused() -> None:
    b = rhs()
    x = torch.linalg.solve(A, b.detach())
    with pytest.raises(CannotDifferentiate, match="numbers without a graph"):
        implicit(x, b, optimality_fn=lambda x, b: torch.as_tensor(A.numpy() @ x.detach().numpy() - b.detach().numpy()))
    with pytest.raises(
        CannotDifferentiate, match=r"cuts the gradient \(detach\(\).*\) and depends on tensor 0 of the arguments"
    ):
        implicit(x, b, optimality_fn=lambda x, b: A @ x - torch.as_tensor(b.detach().numpy()))
    implicit(x, b, optimality_fn=lambda x, b: A @ x - b + 0 * float(b.sum()))  # it has its way all the same


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * g


def test_a_function_that_can_be_differentiated_once_is_used_once_and_refused_twice() -> None:
    """Torch leaves its part out of a second derivative, and says nothing where there is another part."""
    b = torch.ones(3, dtype=torch.float64, requires_grad=True)

    def square(solve: str) -> Tensor:
        return implicit(b.detach(), b, optimality_fn=lambda x, b: Once.apply(x) - b, solve=solve)

    torch.testing.assert_close(torch.autograd.grad(square("gmres").sum(), b)[0], torch.full_like(b, 0.5))
    for take in (
        lambda: torch.autograd.grad(square("normal_cg").sum(), b),
        lambda: torch.autograd.grad(torch.autograd.grad(square("gmres").sum(), b, create_graph=True)[0].sum(), b),
    ):
        with pytest.raises(CannotDifferentiate, match="differentiated only once"):
            take()
    for estimator in ("exact", "mixed", "forward", "cg", "neumann"):
        with pytest.raises(CannotDifferentiate, match="differentiated only once"):
            hypergradient(
                lambda p, c, b: Once.apply(p["w"] * c).sum(), lambda p, c, b: p["w"].sum(), {"w": b.detach()}, b.detach(), None, sgd(0.1),
                estimator, steps=2, seed=0,
            )  # fmt: skip


def test_a_start_or_setting_that_requires_a_gradient_is_refused() -> None:
    solver = custom_root(optimality_fn=linear(A))(lambda start, b, scale=1.0: torch.linalg.solve(A, b))
    with pytest.raises(CannotDifferentiate, match="the start or a keyword argument"):
        solver(rhs(), rhs())
    with pytest.raises(CannotDifferentiate, match="the start or a keyword argument"):
        solver(None, rhs(), scale=rhs())
    with pytest.raises(CannotDifferentiate, match=r"returns \(x, aux\), not Tensor"):
        custom_root(optimality_fn=linear(A), has_aux=True)(lambda start, b: torch.linalg.solve(A, b))(None, rhs())


# solutions that are none ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_a_solution_that_is_none_is_refused_in_any_unit_of_the_condition(scale: float) -> None:
    b = rhs()
    x = torch.linalg.solve(A, b.detach())

    def condition(x: Tensor, b: Tensor) -> Tensor:
        return scale * (A @ x - b)

    implicit(x + 1e-5, b, optimality_fn=condition)
    with pytest.raises(CannotDifferentiate, match="away from where it is zero .* pass a larger tolerance="):
        implicit(x + 0.1, b, optimality_fn=condition)
    implicit(x + 0.1, b, optimality_fn=condition, tolerance=0.5)
    with pytest.raises(CannotDifferentiate, match="away from"):
        implicit(x + 1e-5, b, optimality_fn=condition, tolerance=1e-7)
    with pytest.raises(CannotDifferentiate, match="not finite at the solution"):
        implicit(x, b, optimality_fn=lambda x, b: condition(x, b) / 0 * 0)


def test_what_is_no_tree_of_real_tensors_or_no_condition_is_refused() -> None:
    b = rhs()
    for solution, said in (
        (3, "holds no floating-point tensor"),
        (torch.arange(3), "holds no floating-point tensor"),
        (2.0, "the solution is a float"),
        (A.numpy()[0], r"torch\.as_tensor\(array\)"),
        (torch.ones(3, dtype=torch.complex128), r"torch\.view_as_real"),
    ):
        with pytest.raises(CannotDifferentiate, match=said):
            implicit(solution, b, optimality_fn=linear(A))
    x = torch.linalg.solve(A, b.detach())
    with pytest.raises(CannotDifferentiate, match=r"shapes \[\[3\]\], as many conditions as unknowns, not \[\[2\]\]"):
        implicit(x, b, optimality_fn=lambda x, b: (A @ x - b)[:2])
    with pytest.raises(CannotDifferentiate, match=r"not \[\[2\]\]"):
        implicit(x, b, fixed_point_fn=lambda x, b: x[:2])
    with pytest.raises(CannotDifferentiate, match="not tuple"):
        implicit(x, b, optimality_fn=lambda x, b: ())
    with pytest.raises(CannotDifferentiate, match=r"objective= returns one number, not a tensor of shape \[3\]"):
        implicit(x, b, objective=linear(A))
    with pytest.raises(CannotDifferentiate, match="changes a tensor of the coupling in place|changes a tensor"):
        implicit(x, b, optimality_fn=lambda x, b: A @ x - b.detach().mul_(1.0) - 0 * b)
    with pytest.raises(CannotDifferentiate, match="a number of at least 0"):
        implicit(x, b, optimality_fn=linear(A), tolerance="tight")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="one of optimality_fn="):
        implicit(x, b)
    with pytest.raises(TypeError, match="one of optimality_fn="):
        custom_root(optimality_fn=linear(A), objective=lambda x, b: x.sum())
    with pytest.raises(CannotDifferentiate, match="a mask .* for every tensor"):
        implicit(x, b, optimality_fn=linear(A), support=lambda x: x)
    with pytest.raises(CannotDifferentiate, match="no second derivative of .*hardsigmoid"):
        implicit(
            x, b, objective=lambda x, b: torch.nn.functional.hardsigmoid(x * b).sum(), tolerance=9.0
        ).sum().backward()


# systems --------------------------------------------------------------------------------------------------------------------


def test_cg_notices_a_matrix_that_is_not_for_it() -> None:
    for matrix, said in (
        (A + SKEW, "not symmetric; take 'gmres'"),
        (-A, "not positive definite"),
        (A - 1.2 * torch.eye(3), "not positive"),
    ):
        with pytest.raises(SolverError, match=said):
            solved(matrix, solve="cg").sum().backward()
    for name in ("gmres", "normal_cg", "bicgstab", "direct"):
        for matrix in (A + SKEW, -A):
            b = rhs()
            found = torch.autograd.grad(solved(matrix, b, solve=name).sum(), b)[0]
            torch.testing.assert_close(found, torch.linalg.inv(matrix).sum(0), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["cg", "gmres", "direct", "normal_cg", "bicgstab"])
def test_a_singular_system_is_told(name: str) -> None:
    flat = torch.diag(torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64))
    b = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64, requires_grad=True)
    x = implicit(torch.tensor([1.0, 0.5, 3.0], dtype=torch.float64), b, optimality_fn=linear(flat), solve=name)
    with pytest.raises(
        (SolverError, UserWarning), match="singular|positive definite|broke down|not finite|ended after"
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            x.sum().backward()


@pytest.mark.parametrize("name", ["gmres", "normal_cg"])
def test_a_system_without_a_solution_is_refused_and_one_with_many_is_not(name: str) -> None:
    """Least squares with a column twice: the sum of the two weights has a derivative, neither of them alone has."""
    rows = torch.linspace(-1, 1, 5, dtype=torch.float64)
    x = torch.stack([rows, rows, rows**2], 1)
    y = rows.exp().requires_grad_()
    w = torch.linalg.pinv(x) @ y.detach()
    found = implicit(w, y, objective=lambda w, y: (x @ w - y).square().sum() / 2, solve=name)
    both, alone = (torch.tensor(g, dtype=torch.float64) for g in ([1.0, 1.0, 0.0], [1.0, 0.0, 0.0]))
    slope = torch.autograd.grad(found @ both, y, retain_graph=True)[0]
    torch.testing.assert_close(slope, torch.linalg.pinv(x).T @ both, rtol=1e-9, atol=1e-10)
    with pytest.raises(SolverError, match="singular for this right side.* add damping, or see support="):
        (found @ alone).backward()


def test_a_function_that_solves_badly_is_warned_of_in_its_own_words() -> None:
    with pytest.warns(UserWarning, match="the function given as solve= left a relative residual of"):
        solved(A, solve=lambda product, b: 0.5 * b).sum().backward()


def test_an_unfinished_solve_is_warned_of_refused_or_let_pass() -> None:
    slow = torch.diag(torch.logspace(0, 6, 40, dtype=torch.float64))
    b = torch.ones(40, dtype=torch.float64, requires_grad=True)
    for kind in (CG, GMRES, NormalCG, linear_solvers.BiCGSTAB):
        with pytest.warns(UserWarning, match=f"'{kind.name}' ended after . iterations with a relative residual of"):
            solved(slow, b, solve=kind(max_iterations=2)).sum().backward()
        with pytest.raises(SolverError, match="raise max_iterations"):
            solved(slow, b, solve=kind(max_iterations=2, unfinished="refuse")).sum().backward()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            solved(slow, b, solve=kind(max_iterations=2, unfinished="allow")).sum().backward()
    with pytest.raises(SolverError, match="it diverges, since alpha is above"):
        solved(A, solve=NeumannSeries(alpha=3.0)).sum().backward()
    with pytest.raises(SolverError, match="max_unknowns is 10"):
        solved(slow, b, solve=Direct(max_unknowns=10)).sum().backward()


def test_options_and_solvers_that_do_not_exist() -> None:
    with pytest.raises(UnknownName, match="did you mean 'gmres'"):
        solved(solve="gmre")
    for make, said in (
        (lambda: CG(max_iterations=0), "max_iterations to be a whole number of at least 1, not 0"),
        (lambda: CG(tolerance=-1.0), "tolerance of at least 0"),
        (lambda: CG(damping=-1.0), "damping of at least 0"),
        (lambda: CG(unfinished="ignore"), "'warn', 'refuse' or 'allow'"),  # type: ignore[arg-type]
        (lambda: CG(preconditioner="ilu"), "preconditioner= is 'jacobi'"),  # type: ignore[arg-type]
        (lambda: Direct(preconditioner="jacobi"), "takes no preconditioner"),
        (lambda: NeumannSeries(alpha=0.0), "alpha above 0"),
        (lambda: linear_solvers.linear_solver(3), "solve= takes a name"),
    ):
        with pytest.raises(SolverError, match=said):
            make()
    with pytest.raises(SolverError, match="each product another batch's; take 'neumann'"):
        b = rhs()
        implicit(b.detach(), b, optimality_fn=lambda x, b, _: x - b, batches=lambda g: 0, solve="cg").sum().backward()
    with pytest.raises(CannotDifferentiate, match="leave batches= out"):
        x = implicit(b.detach(), b, optimality_fn=lambda x, b, _: x - b, batches=lambda g: 0, solve="neumann")
        torch.autograd.grad(x.square().sum(), b, create_graph=True)


def test_a_solver_of_ones_own() -> None:
    b = rhs()
    for solve in (
        lambda matvec, b: torch.linalg.solve(torch.stack([matvec(u) for u in torch.eye(3, dtype=b.dtype)], 1), b),
        lambda matvec, b: torch.linalg.solve(torch.func.vmap(matvec)(torch.eye(3, dtype=b.dtype)).T, b),
        on_trees(lambda matvec, b: torch.linalg.solve((A + SKEW).T, b)),
    ):
        found = torch.autograd.grad(solved(A + SKEW, b, solve=solve).sum(), b)[0]
        torch.testing.assert_close(found, torch.linalg.inv(A + SKEW).sum(0), rtol=1e-9, atol=1e-11)
    with pytest.raises(SolverError, match=r"vectors of shape \[3\], not \[2\]"):
        solved(solve=lambda matvec, b: b[:2]).sum().backward()
    with pytest.warns(UserWarning, match="relative residual of 1 "):
        solved(solve=lambda matvec, b: 0 * b).sum().backward()


# what a stranger hands over -------------------------------------------------------------------------------------------------


def test_nothing_to_differentiate_and_no_grad_give_the_solution() -> None:
    x = torch.linalg.solve(A, rhs().detach())
    plain = implicit(x, rhs().detach(), optimality_fn=linear(A))
    assert torch.equal(plain, x) and not plain.requires_grad
    with torch.no_grad():
        assert not solved().requires_grad
    with torch.inference_mode():
        assert not solved().requires_grad
    x.requires_grad_()
    assert implicit(x, rhs(), optimality_fn=linear(A)).grad_fn is not x.grad_fn


def test_counts_none_words_floats_and_arrays_go_through_and_other_arguments_get_none() -> None:
    b, unused = rhs(), torch.ones(2, requires_grad=True)

    def condition(x: Any, given: Any, power: int, scale: float, unused: Tensor, matrix: Any) -> Any:
        assert given["mask"].dtype == torch.bool and given["name"] == "a" and given["none"] is None
        return {"x": torch.as_tensor(matrix) @ x["x"] - scale * given["b"] ** power, "n": x["n"]}

    x = {"x": torch.linalg.solve(A, b.detach()), "n": 3}
    given = {"b": b, "mask": torch.ones(3, dtype=torch.bool), "none": None, "name": "a"}
    found = implicit(x, given, 1, 1.0, unused, A.numpy(), optimality_fn=condition)
    assert found["n"] == 3
    found["x"].sum().backward()
    torch.testing.assert_close(b.grad, torch.linalg.inv(A).sum(0))
    assert unused.grad is None or not unused.grad.any()


@pytest.mark.parametrize("name", ["cg", "gmres", "normal_cg", "bicgstab", "direct"])
def test_float32_and_scalars_work_at_their_own_tolerance(name: str) -> None:
    b = rhs(torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        x = solved(A, b, solve=name)
        found = torch.autograd.grad(x.sum(), b)[0]
        torch.testing.assert_close(found, torch.linalg.inv(A).sum(0).float(), rtol=1e-4, atol=1e-5)
        a = torch.tensor(2.0, requires_grad=True)
        root = implicit(torch.tensor(2.0).sqrt(), a, optimality_fn=lambda x, a: x * x - a, solve=name)
        torch.testing.assert_close(torch.autograd.grad(root, a)[0], torch.tensor(0.125).sqrt())


def test_another_precision_or_device_is_named() -> None:
    b = rhs()
    x = torch.linalg.solve(A, b.detach())
    with pytest.raises(
        CannotDifferentiate, match=r"the solution is torch\.float32 on cpu and an argument torch\.float64"
    ):
        implicit(x.float(), A, b, optimality_fn=lambda x, matrix, b: matrix @ x - b)
    with pytest.raises(RuntimeError):  # the condition's own mistake is its own
        implicit(x, b, optimality_fn=lambda x, b: A[:2] @ x - torch.ones(5))
    with pytest.raises(CannotDifferentiate, match="meta"):
        implicit(x.to("meta"), b, optimality_fn=linear(A))


def test_noise_is_the_same_in_every_evaluation_and_surroundings_do_not_matter() -> None:
    b = rhs()

    def noisy(x: Tensor, b: Tensor) -> Tensor:
        return A @ x - b * (1 + 0.1 * torch.rand(3, dtype=x.dtype))

    with torch.random.fork_rng():
        torch.manual_seed(0)
    torch.manual_seed(5)
    x = torch.linalg.solve(A, b.detach())
    before = torch.get_rng_state()
    y = implicit(x, b, optimality_fn=noisy, seed=1, tolerance=1.0)
    found = torch.autograd.grad(y.sum(), b, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(y.sum(), b)[0], found)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.autocast("cpu", torch.bfloat16):
        other = implicit(x, b, optimality_fn=noisy, seed=1, tolerance=1.0)
    assert torch.equal(torch.autograd.grad(other.sum(), b)[0], found)


def test_noise_that_no_seed_replays_is_refused() -> None:
    b, own = rhs(), torch.Generator()
    x = torch.linalg.solve(A, b.detach())
    for noise in (
        lambda: float(np.random.standard_normal()),
        lambda: random.random(),
        lambda: torch.rand((), generator=own, dtype=torch.float64),
    ):
        with pytest.raises(NotRepeatable, match="draws noise from"):
            implicit(x, b, optimality_fn=lambda x, b, noise=noise: A @ x - b * (1 + 1e-6 * noise()))

    def repeated(x: Tensor, b: Tensor) -> Tensor:
        same = torch.rand(3, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
        return A @ x - b * (1 + 1e-6 * same + 1e-6 * torch.rand(3, dtype=x.dtype))

    implicit(x, b, optimality_fn=repeated).sum().backward()


def test_many_tensors_and_a_batched_gradient() -> None:
    x = [torch.full((2,), float(n), dtype=torch.float64) for n in range(300)]
    a = [leaf.clone().requires_grad_() for leaf in x]
    found = implicit(x, a, fixed_point_fn=lambda x, a: [0.5 * (u + v) for u, v in zip(x, a, strict=True)])
    sum((leaf.square().sum() for leaf in found), torch.zeros(())).backward()
    assert all(torch.allclose(v.grad, 2 * v.detach()) for v in a if v.grad is not None) and a[7].grad is not None
    b = rhs()
    with pytest.raises(CannotDifferentiate, match=r"torch\.func\.jacrev"):
        torch.autograd.grad(solved(b=b), b, torch.eye(3, dtype=b.dtype), is_grads_batched=True)


def test_a_gradient_that_is_not_finite_goes_on_to_be_seen_and_a_zero_one_costs_nothing() -> None:
    b = rhs()
    assert torch.isnan(torch.autograd.grad(solved(b=b) @ torch.tensor([torch.nan, 0, 0], dtype=b.dtype), b)[0]).any()
    assert not torch.autograd.grad(solved(b=b).sum() * 0, b)[0].any()


def test_a_warm_start_is_forgotten_when_asked() -> None:
    warm = WarmStart("cg")
    solved(solve=warm).sum().backward()
    assert warm.last
    warm.clear()
    assert not warm.last
    empty = implicit(torch.zeros(3), rhs(torch.float32), optimality_fn=lambda x, b: x, support=nonzero)
    assert torch.equal(torch.autograd.grad(empty.sum() + 0, empty)[0], torch.ones(3))


def test_slips_in_writing_a_condition_or_a_solver_are_told() -> None:
    b = rhs()
    with pytest.raises(CannotDifferentiate, match="optimality_fn changes the solution or an argument in place"):
        implicit(torch.linalg.solve(A, b.detach()), b, optimality_fn=lambda x, b: A @ x - b.mul_(1.0))
    with pytest.raises(TypeError, match=r"@custom_root\(optimality_fn=...\)"):
        custom_root(lambda start, b: b)

    @custom_root(optimality_fn=linear(A))
    def solver(start: Tensor, b: Tensor) -> Any:
        return torch.linalg.solve(A, b), {"iterations": 1}

    with pytest.raises(CannotDifferentiate, match="with has_aux=True the first is the solution"):
        solver(torch.zeros(3, dtype=torch.float64), b)


def test_torch_compile_leaves_it_out_and_a_compiled_step_refuses_it() -> None:
    def solution(b: Tensor) -> Tensor:
        found: Tensor = implicit(torch.linalg.solve(A, b.detach()), b, optimality_fn=linear(A))
        return found

    def value(b: Tensor) -> Tensor:
        return (2 * solution(b.sin())).square().sum()

    plain, compiled = rhs(), rhs()
    value(plain).backward()
    torch.compile(value, backend="eager")(compiled).backward()
    assert torch.equal(plain.grad, compiled.grad) and plain.grad.any()  # type: ignore[arg-type, union-attr]
    loss = Compiled(lambda th, c, batch: (th["w"] - solution(c)).square().sum(), backend="eager")
    start = {"w": torch.ones(3, dtype=torch.float64)}
    with pytest.raises(CannotCompile, match="pass the loss uncompiled"):
        hypergradient(loss, lambda th, c, batch: th["w"].sum(), start, rhs().detach(), optimizer=sgd(0.1))
