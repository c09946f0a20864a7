"""Linear solvers on trees against the dense solution: every one, damped, warm, masked, over devices' types and wrong matrices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from metaimpute.engine.linear_solvers import CG, GMRES, BiCGSTAB, Direct, NeumannSeries, NormalCG, Richardson, solvers
from metaimpute.engine.linear_solvers.krylov import bicgstab, conjugate_gradient, gmres, neumann_series, richardson
from metaimpute.engine.linear_solvers.systems import Jacobi, LinearSystem, Vectors

pytestmark = pytest.mark.usefixtures("float64")
SIZE = 12
SHAPES = ((3,), (), (2, 4))


def matrix(kind: str) -> Tensor:
    rng = torch.Generator().manual_seed(3)
    root = torch.randn(SIZE, SIZE, generator=rng)
    positive = root @ root.T / SIZE + 0.5 * torch.eye(SIZE)
    return {
        "positive": positive,
        "skewed": positive + root - root.T,
        "indefinite": root + root.T + 0.3 * torch.eye(SIZE),
    }[kind]


def right() -> list[Any]:
    rng = torch.Generator().manual_seed(4)
    return [torch.randn(shape, generator=rng) for shape in SHAPES]


def system(a: Tensor, **options: Any) -> LinearSystem:
    vectors = Vectors(right())

    def times(m: Tensor) -> Any:
        return lambda x: vectors.tree(m @ vectors.flat(x))

    return LinearSystem(times(a), times(a.T), **options)


EVERY: list[tuple[Any, tuple[str, ...]]] = [
    (CG, ("positive",)),
    (NormalCG, ("positive", "skewed", "indefinite")),
    (GMRES, ("positive", "skewed", "indefinite")),
    (BiCGSTAB, ("positive", "skewed")),
    (Direct, ("positive", "skewed", "indefinite")),
    (NeumannSeries, ("positive",)),
    (Richardson, ("positive",)),
]
PAIRS = [(solver, kind) for solver, kinds in EVERY for kind in kinds]


def options(solver: Any) -> dict[str, Any]:
    return {"alpha": 0.2} if issubclass(solver, NeumannSeries) else {}


def test_every_registered_solver_is_in_the_list() -> None:
    assert {solver.name for solver, _ in EVERY} == set(solvers)


@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("damping", [0.0, 0.7])
@pytest.mark.parametrize(("solver", "kind"), PAIRS)
def test_solutions_are_the_dense_ones(solver: Any, kind: str, damping: float, start: bool) -> None:
    a, b = matrix(kind), right()
    vectors = Vectors(b)
    begin = [torch.ones_like(leaf) for leaf in b] if start else None
    x = solver(damping=damping, **options(solver)).solve(system(a), b, begin)
    if solver is NormalCG:
        expected = torch.linalg.solve(a.T @ a + damping * torch.eye(SIZE), a.T @ vectors.flat(b))
    else:
        expected = torch.linalg.solve(a + damping * torch.eye(SIZE), vectors.flat(b))
    torch.testing.assert_close(vectors.flat(x), expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(("solver", "kind"), PAIRS)
def test_masked_entries_are_no_unknowns(solver: Any, kind: str) -> None:
    a, b = matrix(kind), right()
    vectors = Vectors(b)
    masks = [torch.ones_like(leaf, dtype=torch.bool) for leaf in b]
    masks[0][1], masks[2][1] = False, False
    kept = torch.cat([mask.reshape(-1) for mask in masks])
    inside = torch.where(kept[:, None] & kept, a, torch.zeros_like(a))
    x = vectors.flat(solver(**options(solver)).solve(system(inside, masks=masks), b))
    assert not x[~kept].any()
    expected = torch.linalg.solve(a[kept][:, kept], vectors.flat(b)[kept])
    torch.testing.assert_close(x[kept], expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("restart", [2, 4, 30])
def test_gmres_restarts_and_is_preconditioned(restart: int) -> None:
    a, b = matrix("skewed"), right()
    vectors = Vectors(b)
    expected = torch.linalg.solve(a, vectors.flat(b))
    factor = torch.linalg.inv(a + 0.01 * torch.randn(SIZE, SIZE))
    for how in (None, "jacobi", Jacobi(), lambda x: vectors.tree(factor @ vectors.flat(x))):
        x = GMRES(restart=restart, max_iterations=3000, preconditioner=how, unfinished="refuse").solve(system(a), b)
        torch.testing.assert_close(vectors.flat(x), expected, rtol=1e-7, atol=1e-8)
    near = gmres(system(a).matvec, b, 100, 1e-10, 30, lambda x: vectors.tree(factor @ vectors.flat(x)))
    assert near.iterations < 9


def test_krylov_methods_end_in_as_many_steps_as_there_are_eigenvalues() -> None:
    a = torch.diag(torch.tensor([1.0, 2.0, 2.0, 5.0] * 3))
    b = right()
    for found in (
        conjugate_gradient(system(a).matvec, b, 50, 1e-10),
        gmres(system(a).matvec, b, 50, 1e-10, 50),
        bicgstab(system(a).matvec, b, 50, 1e-10),
    ):
        assert found.iterations <= 4 and found.flaw is None
    assert conjugate_gradient(system(-a).matvec, b, 50, 1e-10).flaw == "curvature"
    assert conjugate_gradient(system(matrix("skewed")).matvec, b, 50, 1e-10, watch_symmetry=True).flaw in (
        "asymmetry",
        "curvature",
    )
    ill = torch.diag(torch.logspace(0, 8, SIZE)) + 1e-3 * matrix("positive")
    assert conjugate_gradient(system(ill).matvec, b, 200, 1e-6, watch_symmetry=True).flaw is None


def test_series_and_descent_are_each_other_and_say_where_they_grow() -> None:
    a, b = matrix("positive"), right()
    vectors = Vectors(b)
    series, descent = neumann_series(system(a).matvec, b, 9, 0.2), richardson(system(a).matvec, b, 10, 0.2)
    torch.testing.assert_close(vectors.flat(series.x), vectors.flat(descent.x))
    assert neumann_series(system(a).matvec, b, 30, 5.0).flaw == "growth"
    assert richardson(system(a).matvec, b, 30, 5.0, tolerance=1e-10).flaw == "growth"
