"""The outer loss after inner steps as an ordinary tensor: ``.backward()`` goes through training by any estimator.

The estimator runs when the value is made, and its gradients wait in one node of autograd's graph, where the cotangent that comes
back multiplies them. How training is differentiated is then one argument, and everything around it is torch: a learning rate that
is ``log_lr.exp()``, a coupling that a network makes, a sum over tasks. (A solve's result as a differentiable value: optimistix.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, overload

import torch
from torch import Tensor

from .ambient import CannotDifferentiate, has_tangent, outside_transforms
from .arguments import batches_of, require_tensors
from .compiled import Compiled
from .estimators import Estimator, EstimatorError
from .estimators.implicit import with_solver
from .estimators.reach import require_reach
from .given import Watch, only, require_closed_program, with_fixed
from .linear_solvers import Solving
from .losses import Loss, LossWithAux
from .memory import MemoryPolicy, parse_memory
from .optimizers import InnerOptimizer, hyper_tensors
from .optimizers.base import require_rule
from .optimizers.transforms import require_factors
from .pytree import Tree, detach, differentiable, leaves_of, tensors
from .repetition import Ledger, require_same_end
from .unroll import Batches

AGAIN = (
    "a value of after_training() can be differentiated once: its gradient was computed with it and is a constant; differentiate "
    "the outer loss at unroll(...).params, which with memory 'store' can be differentiated any number of times in reverse mode"
)


class _Value(torch.autograd.Function):
    """A number whose gradients are known. Differentiable once."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor | None], *leaves: Tensor) -> Tensor:
        ctx.wanted = [gradient is not None for gradient in gradients]
        ctx.save_for_backward(*[gradient for gradient in gradients if gradient is not None])
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        if torch.is_grad_enabled():  # the gradient is to be differentiated, and would come out as a constant
            raise CannotDifferentiate(AGAIN)
        gradients = iter(ctx.saved_tensors)
        found = [next(gradients) if wanted else None for wanted in ctx.wanted]
        return None, None, *(None if g is None else g * cotangents[0].to(g.device) for g in found)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise CannotDifferentiate(AGAIN)


def _entries(hyper: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """The tensors among hyperparameters, each with its way in."""
    for key, value in hyper_tensors(dict(hyper)).items():
        if isinstance(value, Mapping):
            yield from (((key, name), entry) for name, entry in value.items())
        else:
            yield (key,), value


def _at(tree: Any, way: tuple[str, ...]) -> Any:
    for key in way:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def method(estimator: str | Estimator, backend: str, solve: Solving | None) -> Estimator:
    """The estimator, with the linear system left to ``solve`` where one is given."""
    from . import get_estimator

    found = get_estimator(estimator, backend)
    return found if solve is None else with_solver(found, solve)


def require_plain(params: Tree, coupling: Tree, optimizer: InnerOptimizer) -> None:
    """Checks arguments that are to be joined to autograd's graph.

    Raises:
        CannotDifferentiate: for what is no tree of tensors, for dual numbers, and inside a transform of torch.func.
    """
    outside_transforms("after_training()")
    require_rule(optimizer, "optimizer")
    require_tensors("params", params)
    require_tensors("the coupling", coupling)
    if any(has_tangent(leaf) for leaf in tensors((params, coupling, optimizer.hyper))):
        raise CannotDifferentiate(
            "a value of after_training() carries no forward-mode tangents on; pass plain tensors, or differentiate unroll(), "
            "which does"
        )


def value_of(
    how: Estimator,
    inner_loss: LossWithAux,
    outer_loss: LossWithAux,
    params: Tree,
    coupling: Tree,
    optimizer: InnerOptimizer,
    batches: Batches,
    steps: int,
    memory: MemoryPolicy,
    seed: int | None,
    aux: bool,
    ledger: Ledger | None = None,
    reached: Tree = None,
) -> Any:
    """The value, made by an estimator.

    Args:
        ledger, reached: what was seen of the steps, and their end, where they were taken already.
    """
    require_plain(params, coupling, optimizer)
    joined = torch.is_grad_enabled()

    def wanted(leaf: Any) -> bool:
        return joined and differentiable(leaf) and leaf.requires_grad

    wrt_start = any(map(wanted, tensors(params)))
    if wrt_start and not how.start_path:
        raise EstimatorError(
            f"'{how.name}' gives no gradient with respect to the start, and params require one; pass them detached "
            "({name: p.detach() for name, p in params.items()}), or take 'exact' or 'mixed'"
        )
    learned = [(way, entry) for way, entry in _entries(optimizer.hyper) if wanted(entry)]
    if isinstance(inner_loss, Compiled) and not how.unrolls:
        inner_loss = inner_loss.loss
    compiled = isinstance(inner_loss, Compiled)
    constants, part = None, coupling
    if not compiled and not all(map(wanted, tensors(coupling))):
        constants, part = detach(only(coupling, lambda leaf: not wanted(leaf))), only(coupling, wanted)
    watch = Watch(constants, steps + 3 if joined and type(steps) is int else 0, aux)
    outer = watch.loss(outer_loss, "outer")
    inner = Watch(constants, watch.checks, aux).loss(inner_loss, "inner")
    if type(steps) is int:
        require_factors(optimizer, steps)
    if joined and isinstance(inner_loss, Compiled) and len(batches.inner):
        require_closed_program(inner_loss, params, coupling, batches.inner[0])
    rule = with_fixed(optimizer) if how.per_scalar else optimizer
    leaves = [leaf for leaf in tensors((params, coupling)) if wanted(leaf)] + [entry for _, entry in learned]
    if not leaves:
        with how.checked(inner, outer, params, part, batches, rule, steps, memory, seed, False, ledger) as problem:
            if reached is None:
                value, end = how.plain(problem)
            else:
                value, end = problem.outer(reached, detach(problem.c)).detach(), reached
            problem.ledger.verify()
            require_reach(problem, end)
        return (value, watch.aux.last) if aux else value
    result = how.estimate(
        inner, outer, params, part, batches, rule, steps, memory, seed=seed, wrt_start=wrt_start, ledger=ledger
    )
    if reached is not None:
        require_same_end(result.theta_k, reached)
    pairs = [*zip(leaves_of(params), leaves_of(result.grad_theta_0), strict=True)] if wrt_start else []
    pairs += zip(leaves_of(coupling), leaves_of(result.grad_c), strict=True)
    gradients = [found for leaf, found in pairs if wanted(leaf)] + [
        _at(result.grad_optimizer, way) for way, _ in learned
    ]
    lacking = [".".join(way) for way, _ in learned if _at(result.grad_optimizer, way) is None]
    if lacking:
        raise EstimatorError(f"'{how.name}' gives no gradient with respect to {lacking[0]}; detach it, or take 'exact'")
    value = _Value.apply(result.outer_loss, gradients, *leaves)
    return (value, watch.aux.last) if aux else value


@overload
def after_training(
    inner_loss: Loss,
    outer_loss: Loss,
    params: Tree,
    coupling: Tree = None,
    *,
    optimizer: InnerOptimizer,
    steps: int = 1,
    batches: Any = None,
    outer_batch: Any = None,
    estimator: str | Estimator = "exact",
    memory: str | MemoryPolicy = "store",
    backend: str = "func",
    seed: int | None = None,
    aux: Literal[False] = False,
    solve: Solving | None = None,
) -> Tensor: ...


@overload
def after_training(
    inner_loss: LossWithAux,
    outer_loss: LossWithAux,
    params: Tree,
    coupling: Tree = None,
    *,
    optimizer: InnerOptimizer,
    steps: int = 1,
    batches: Any = None,
    outer_batch: Any = None,
    estimator: str | Estimator = "exact",
    memory: str | MemoryPolicy = "store",
    backend: str = "func",
    seed: int | None = None,
    aux: Literal[True],
    solve: Solving | None = None,
) -> tuple[Tensor, Any]: ...


def after_training(
    inner_loss: LossWithAux,
    outer_loss: LossWithAux,
    params: Tree,
    coupling: Tree = None,
    *,
    optimizer: InnerOptimizer,
    steps: int = 1,
    batches: Any = None,
    outer_batch: Any = None,
    estimator: str | Estimator = "exact",
    memory: str | MemoryPolicy = "store",
    backend: str = "func",
    seed: int | None = None,
    aux: bool = False,
    solve: Solving | None = None,
) -> Any:
    """The outer loss after ``steps`` inner steps, a scalar tensor that autograd differentiates by the estimator.

    Its gradient reaches what requires one of ``params`` (the start), the coupling and the optimiser's tensors, and nothing is
    computed for the rest; without any such tensor, or under ``no_grad``, plain steps are taken. What an estimator drops is
    dropped here as well (:func:`~metaimpute.engine.hypergradient`).

    Args:
        inner_loss, outer_loss: ``(params, coupling, batch) -> scalar``, always with these three, None where there is nothing.
        params: start of the inner steps (tree of tensors). coupling: what the losses depend on besides (tree of tensors).
        optimizer: e.g. ``sgd(log_lr.exp(), momentum=0.9)``.
        batches: None, one batch for every step, or a list with one per step. A tuple or dict is one batch, a list never.
        outer_batch: what the outer loss is handed.
        estimator, memory, backend: as in :func:`~metaimpute.engine.hypergradient`. seed: of the noise inside the losses.
        aux: losses may return ``(loss, aux)``, and ``(value, aux)`` is returned with the outer loss's aux, detached. The inner
            loss's is dropped: an estimator evaluates steps in its own order, and more than once.
        solve: for ``cg`` and ``neumann``, what solves their linear system instead, ``(matvec, b) -> x`` on flat vectors, or on
            trees, or one of ``linear_solvers`` (:func:`~metaimpute.engine.on_trees`).

    Returns:
        The value; with ``aux`` the pair of it and the outer loss's aux (None where the loss returned a scalar).

    Raises:
        EstimatorError: when the estimator gives no gradient that is required, or cannot treat the problem. CannotDifferentiate:
            when a loss uses another tensor that requires a gradient; inside torch.func; and in the backward pass, when the value
            is to be differentiated twice. NotRepeatable: for a loss that is another function when evaluated again.
    """
    how = method(estimator, backend, solve)
    inner = batches_of(batches)
    return value_of(
        how,
        inner_loss,
        outer_loss,
        params,
        coupling,
        optimizer,
        Batches(inner, outer_batch),
        steps,
        parse_memory(memory),
        seed,
        aux,
    )
