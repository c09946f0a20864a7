"""Iterations for ``A x = b`` on trees of tensors, where A is known by its products alone.

Pure functions, each one textbook algorithm; options, checks and names are in :mod:`.iterative`. A flat vector is a tree as
well. ``precondition`` applies an approximate inverse of A.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from ..pytree import Tree, dot, norm, tensors, with_tensors, zeros_like

Linear = Callable[[Tree], Tree]


class Reached(NamedTuple):
    """Where an iteration ended.

    Attributes:
        x: the solution so far. iterations: how many were made. flaw: ``"curvature"`` where a direction had none that is
            positive, ``"asymmetry"`` where the matrix was seen not to be symmetric, ``"breakdown"`` where the next direction
            could not be made, ``"growth"`` where a series grew, else None.
    """

    x: Tree
    iterations: int
    flaw: str | None = None


def axpy(scale: Any, x: Tree, y: Tree) -> Tree:
    """``scale * x + y``."""
    return with_tensors(y, [scale * a + b for a, b in zip(tensors(x), tensors(y), strict=True)])


def scaled(scale: Any, x: Tree) -> Tree:
    """``scale * x``."""
    return with_tensors(x, [scale * leaf for leaf in tensors(x)])


def conjugate_gradient(
    matvec: Linear,
    b: Tree,
    iterations: int,
    tolerance: float,
    damping: float = 0.0,
    precondition: Linear | None = None,
    start: Tree = None,
    watch_symmetry: bool = False,
) -> Reached:
    """``(A + damping I) x = b`` for a symmetric positive definite matrix (Hestenes and Stiefel, 1952).

    It stops at ``|residual| <= tolerance |b|``, and at the first direction without positive curvature. Of a symmetric matrix two
    directions in a row have ``<d, A e> = <A d, e>``, which costs a look and no product.
    """
    if start is None:
        x, residual = zeros_like(b), b
    else:
        x, residual = start, axpy(-1.0, axpy(damping, start, matvec(start)), b)
    steep = residual if precondition is None else precondition(residual)
    direction, target = steep, dot(b, b)
    size = dot(residual, residual)
    slope = size if precondition is None else dot(residual, steep)
    before: tuple[Tree, Tree] | None = None
    done = 0
    while done < iterations and float(size) > tolerance**2 * float(target):
        image = axpy(damping, direction, matvec(direction))
        curvature = dot(direction, image)
        if watch_symmetry and before is not None:
            apart = (dot(before[0], image) - dot(before[1], direction)).abs()
            scale = norm(before[0]) * norm(image) + norm(before[1]) * norm(direction)
            if float(apart) > 100 * math.sqrt(torch.finfo(size.dtype).eps) * float(scale):
                return Reached(x, done, "asymmetry")
        if float(curvature) <= 0:
            return Reached(x, done, "curvature")
        step = slope / curvature
        x, residual = axpy(step, direction, x), axpy(-step, image, residual)
        size = dot(residual, residual)
        if precondition is None:
            steep, following = residual, size
        else:
            steep = precondition(residual)
            following = dot(residual, steep)
            if float(following) <= 0 < float(size):
                return Reached(x, done + 1, "breakdown")
        before = direction, image
        direction = axpy(following / slope, direction, steep)
        slope = following
        done += 1
    return Reached(x, done)


def neumann_series(matvec: Linear, b: Tree, terms: int, alpha: float, tolerance: float = 0.0) -> Reached:
    """``alpha sum_{j=0..terms} (I - alpha A)^j b``.

    The next term is the residual of the sum so far; the series ends early where it is at most ``tolerance |b|``.
    """
    term = total = b
    done, least = 0, tolerance * float(norm(b)) if tolerance else -1.0
    while done < terms:
        term = axpy(-alpha, matvec(term), term)
        if tolerance and float(norm(term)) <= least:
            break
        total = axpy(1.0, term, total)
        done += 1
    grew = bool(norm(term) > norm(b)) if terms else False
    return Reached(scaled(alpha, total), done, "growth" if grew else None)


def richardson(
    matvec: Linear, b: Tree, iterations: int, alpha: float, tolerance: float = 0.0, start: Tree = None
) -> Reached:
    """``x <- x + alpha (b - A x)``: gradient descent where A is symmetric, stochastic where each product is another sample's."""
    x = zeros_like(b) if start is None else start
    least, first = tolerance * float(norm(b)), None
    size = 0.0
    for done in range(iterations):
        residual = axpy(-1.0, matvec(x), b) if done or start is not None else b
        if tolerance:
            size = float(norm(residual))
            first = size if first is None else first
            if size <= least:
                return Reached(x, done)
        x = axpy(alpha, residual, x)
    return Reached(x, iterations, "growth" if first is not None and size > first else None)


def gmres(
    matvec: Linear, b: Tree, iterations: int, tolerance: float, restart: int, precondition: Linear | None = None,
    start: Tree = None,
) -> Reached:  # fmt: skip
    """Restarted GMRES (Saad and Schultz, 1986) for any matrix, preconditioned from the right.

    Modified Gram-Schmidt, twice; the small least-squares problem by Givens rotations on the host.
    """
    x = zeros_like(b) if start is None else start
    target, done = float(norm(b)) * tolerance, 0
    while True:
        residual = b if done == 0 and start is None else axpy(-1.0, matvec(x), b)
        beta = float(norm(residual))
        if beta <= target or done >= iterations or not math.isfinite(beta):
            return Reached(x, done)
        basis = [scaled(1.0 / beta, residual)]
        applied: list[Tree] = []  # what a coefficient multiplies: the basis, preconditioned
        columns: list[list[float]] = []
        rotations: list[tuple[float, float]] = []
        right = [beta]
        broke = False
        while len(columns) < restart and done < iterations and abs(right[-1]) > target and not broke:
            applied.append(basis[-1] if precondition is None else precondition(basis[-1]))
            image = matvec(applied[-1])
            length = float(norm(image))
            column = [0.0] * len(basis)
            for _ in range(2):
                for number, vector in enumerate(basis):
                    part = float(dot(vector, image))
                    column[number] += part
                    image = axpy(-part, vector, image)
            rest = float(norm(image))
            broke = not rest > 10 * torch.finfo(tensors(b)[0].dtype).eps * length
            for number, (c, s) in enumerate(rotations):
                upper, lower = column[number], column[number + 1]
                column[number], column[number + 1] = c * upper + s * lower, c * lower - s * upper
            rest_now = 0.0 if broke else rest
            size = math.hypot(column[-1], rest_now)
            if size == 0.0:  # the matrix maps the space into itself and has no inverse there
                applied.pop()
                done += 1
                break
            c, s = column[-1] / size, rest_now / size
            rotations.append((c, s))
            column[-1] = size
            columns.append(column)
            right[-1:] = [c * right[-1], -s * right[-1]]
            done += 1
            if not broke:
                basis.append(scaled(1.0 / rest, image))
        weights: list[float] = [0.0] * len(columns)
        for row in range(len(columns) - 1, -1, -1):
            known = sum(columns[later][row] * weights[later] for later in range(row + 1, len(columns)))
            weights[row] = (right[row] - known) / columns[row][row]
        for weight, vector in zip(weights, applied, strict=True):
            x = axpy(weight, vector, x)
        if not columns or (broke and abs(right[-1]) > target):
            return Reached(x, done, "breakdown")


def bicgstab(
    matvec: Linear, b: Tree, iterations: int, tolerance: float, precondition: Linear | None = None, start: Tree = None
) -> Reached:
    """BiCGSTAB (van der Vorst, 1992) for any matrix, two products an iteration, preconditioned from the right."""
    x = zeros_like(b) if start is None else start
    residual = b if start is None else axpy(-1.0, matvec(x), b)
    shadow, target = residual, float(norm(b)) * tolerance
    rho = alpha = omega = 1.0
    along = image = zeros_like(b)
    done = 0
    while done < iterations and float(norm(residual)) > target:
        following = float(dot(shadow, residual))
        if following == 0.0 or omega == 0.0:
            return Reached(x, done, "breakdown")
        beta = following / rho * alpha / omega
        along = axpy(beta, axpy(-omega, image, along), residual)
        tried = along if precondition is None else precondition(along)
        image = matvec(tried)
        denominator = float(dot(shadow, image))
        if denominator == 0.0:
            return Reached(x, done, "breakdown")
        alpha = following / denominator
        half = axpy(-alpha, image, residual)
        x = axpy(alpha, tried, x)
        done += 1
        if float(norm(half)) <= target:
            return Reached(x, done)
        tried = half if precondition is None else precondition(half)
        second = matvec(tried)
        squared = float(dot(second, second))
        omega = float(dot(second, half)) / squared if squared else 0.0
        x, residual = axpy(omega, tried, x), axpy(-omega, second, half)
        rho = following
    return Reached(x, done)
