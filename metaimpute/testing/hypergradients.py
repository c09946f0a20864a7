"""A hypergradient held against finite differences of the whole bilevel map, term by term, with what is known of the reasons."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import replace

from ..engine import Batches, BilevelMap, CannotDifferentiate, Estimator, InnerOptimizer, get_estimator, sgd
from ..engine.arguments import require_tensors
from ..engine.losses import Loss
from ..engine.memory import MemoryPolicy, parse_memory
from ..engine.optimizers import hyper_tensors
from ..engine.pytree import Tree, differentiable, dot, tensors, tree_map
from .differences import SIZES, Difference, differences
from .double_precision import double_precision
from .look import look
from .report import GradientCheckFailed, Report, Term, Verdict

ESTIMATORS = ("exact", "mixed", "forward")


def check_hypergradient(
    inner_loss: Loss,
    outer_loss: Loss,
    theta: Tree,
    coupling: Tree,
    batches: Batches | None = None,
    optimizer: InnerOptimizer | None = None,
    *,
    steps: int = 2,
    estimators: Sequence[str | Estimator] = ESTIMATORS,
    memory: str | MemoryPolicy = "store",
    seed: int = 0,
    rtol: float = 1e-5,
    double: bool = True,
    raise_exception: bool = True,
) -> Report:
    """Holds estimators against finite differences of ``(theta_0, c, hyper) -> outer_loss(theta_k, c)``, in float64.

    Each tensor of the coupling, the start as a whole and each learnable hyperparameter is moved in a random direction of its
    own; the difference is central and extrapolated, of error about 1e-12 on smooth losses. Estimators that are not exact are
    shown with what they leave out and never fail.

    Args:
        inner_loss, outer_loss, theta, coupling, batches, optimizer: as of :func:`metaimpute.hypergradient`; one batch None and
            ``sgd(0.1)`` where not given.
        estimators: names, or instances. ``forward`` is left out where the coupling has more scalars than it takes.
        rtol: largest relative difference that is right.
        double: evaluate losses written for float32 in float64, data they hold included.
        raise_exception: raise where a term is wrong, zero or noisy; else only say so in the report.

    Raises:
        GradientCheckFailed: with the report as message.
    """
    batches = Batches([None], None) if batches is None else batches
    optimizer = sgd(0.1) if optimizer is None else optimizer
    if double:
        theta, coupling = _double(theta), _double(coupling)
        optimizer = replace(optimizer, hyper=_double(dict(optimizer.hyper)))
    require_tensors("the start", theta)
    require_tensors("the coupling", coupling)
    if not isinstance(batches, Batches) or steps < 1:
        raise CannotDifferentiate("batches are Batches(inner=[...], outer=...), and steps at least 1")
    problem = BilevelMap(inner_loss, outer_loss, theta, coupling, batches, optimizer, steps, parse_memory(memory), seed)
    report = Report()
    with double_precision() if double else contextlib.nullcontext():
        noise = look(problem, report)
        value = float(problem.value())
        if not math.isfinite(value):
            report.notes.append(f"the outer loss is {value} after the inner steps: nothing can be compared")
            report.terms.append(Term("every estimator", "outer loss", None, None, "not finite"))
            estimators = ()
        expected = differences(problem, max(abs(value), 1e-12))
        for chosen in estimators:
            report.terms.extend(_compare(problem, get_estimator(chosen), expected, noise, rtol, report))
    _require_agreement(report, rtol)
    if raise_exception and not report.ok:
        raise GradientCheckFailed(f"{len(report.failures)} of {len(report.terms)} terms fail\n{report}")
    return report


def _double(tree: Tree) -> Tree:
    return tree_map(lambda x: x.detach().double() if differentiable(x) and not x.is_complex() else x, tree)


def _compare(
    problem: BilevelMap, estimator: Estimator, expected: list[Difference], noisy: bool, rtol: float, report: Report
) -> list[Term]:
    name = estimator.name
    scalars = sum(x.numel() for x in [*tensors(problem.c), *tensors(hyper_tensors(problem.optimizer.hyper))])
    if scalars > getattr(estimator, "max_scalars", scalars):
        return []
    memory = problem.memory if estimator.uses_memory else None
    try:
        result = estimator.estimate(
            problem.inner_loss,
            problem.outer_loss,
            problem.theta_0,
            problem.c,
            problem.batches,
            problem.optimizer,
            problem.steps,
            memory,
            seed=problem.seed,
        )
    except ValueError as refusal:
        return [Term(name, "", None, None, "refused", str(refusal))]
    if "reverse_over_reverse" in result.diagnostics:
        report.notes.append(f"{name} went by reverse over reverse, for {result.diagnostics['reverse_over_reverse']}")
    grads = {"c": result.grad_c, "theta": result.grad_theta_0, "hyper": result.grad_optimizer}
    cut = next((note for note in report.notes if "cuts gradients" in note), "")
    if any("written by hand" in note for note in report.notes):
        cut = ""  # either may be the reason, and one of them is a mistake
    terms = []
    for one in expected:
        if grads[one.part] is None:
            continue
        found = float(dot(grads[one.part], one.direction))
        terms.append(_judged(name, one, found, noisy, rtol, estimator, cut))
    return terms


def _no_effect(found: float, expected: float, scale: float) -> str:
    return "both are zero: it has no effect here" if max(abs(found), abs(expected)) < 1e-12 * scale else ""


def _require_agreement(report: Report, rtol: float) -> None:
    """A cut excuses a difference from finite differences, and none between estimators: they see the same constants."""
    for number, term in enumerate(report.terms):
        alike = [t for t in report.terms if t.name == term.name and t.verdict in ("cut", "right")]
        others = [t.found for t in alike if t.found is not None]
        if term.verdict == "cut" and max(others) - min(others) > 10 * rtol * max(map(abs, others)):
            report.terms[number] = replace(term, verdict="wrong", reason="the exact estimators differ")


def _judged(name: str, one: Difference, found: float, noisy: bool, rtol: float, estimator: Estimator, cut: str) -> Term:
    if noisy:
        return Term(name, one.name, found, one.at(SIZES[0]), "noisy", "the losses are not repeatable")
    verdict: Verdict
    expected, near = one.nearest(found, rtol)
    if near:
        verdict, reason = "right", _no_effect(found, expected, one.scale)
    elif not estimator.exact:
        verdict, reason = "inexact", f"leaves out {estimator.dropped}"
    elif not one.settled:
        verdict, reason = "kink", "finite differences of two sizes, or to either side, disagree"
    elif found == 0.0:
        verdict, reason = "zero", cut
    else:
        verdict, reason = ("cut", cut) if cut else ("wrong", "")
    return Term(name, one.name, found, expected, verdict, reason)
