"""A hypergradient held against finite differences of the whole bilevel map, term by term, with what is known of the reasons."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten_with_path

from ..engine import Batches, BilevelMap, Estimator, InnerOptimizer, get_estimator, sgd
from ..engine.cuts import Cuts
from ..engine.losses import Loss
from ..engine.memory import BadMemoryPolicy, MemoryPolicy, parse_memory
from ..engine.operators import names_of
from ..engine.optimizers import hyper_tensors
from ..engine.pytree import Tree, as_leaves, detach, differentiable, dot, gradient, tensors, tree_map, with_tensors
from ..engine.replay import require_closed
from .double_precision import double_precision

Verdict = Literal["right", "wrong", "zero", "noisy", "cut", "refused", "inexact", "kink"]
ESTIMATORS = ("exact", "mixed", "forward")
MOST_LEAVES = 12
DIRECTION = 20_260


class GradientCheckFailed(AssertionError):
    """A gradient that is not that of the bilevel map, with the report as message."""


@dataclass(frozen=True)
class Term:
    """One derivative by one estimator.

    Attributes:
        estimator: its name. name: ``coupling['weights']``, ``theta_0``, ``lr``.
        found, expected: directional derivative by the estimator, and by finite differences; None where there is none.
        verdict: ``right``; ``wrong``; ``zero``: the estimator's is zero and the other is not; ``noisy``: the map itself is not
        repeatable;
            ``cut``: the losses cut gradients, which finite differences do not see; ``kink``: differences of several sizes
            disagree, so they settle nothing; ``inexact``: by what the estimator leaves out; ``refused``: by the estimator, in
            ``reason``.
    """

    estimator: str
    name: str
    found: float | None
    expected: float | None
    verdict: Verdict
    reason: str = ""

    @property
    def error(self) -> float | None:
        """Relative to the larger of the two."""
        if self.found is None or self.expected is None:
            return None
        return abs(self.found - self.expected) / max(abs(self.found), abs(self.expected), 1e-300)

    def __str__(self) -> str:
        if self.verdict == "refused":
            return f"{self.estimator}: refused: {self.reason}"
        numbers = ""
        if self.found is not None and self.expected is not None:
            numbers = f" ({self.found:.9g}, finite differences {self.expected:.9g})"
        return f"{self.estimator}, {self.name}: {self.verdict}{numbers}{f'; {self.reason}' if self.reason else ''}"


@dataclass
class Report:
    """What a check has found. ``notes``: what the losses do that explains a difference, whether there is one or not."""

    terms: list[Term] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def failures(self) -> list[Term]:
        return [term for term in self.terms if term.verdict in ("wrong", "zero", "noisy")]

    @property
    def ok(self) -> bool:
        return not self.failures

    def __str__(self) -> str:
        return "\n".join([*map(str, self.terms), *(f"note: {note}" for note in self.notes)])


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
    problem = BilevelMap(inner_loss, outer_loss, theta, coupling, batches, optimizer, steps, parse_memory(memory), seed)
    report = Report()
    with double_precision() if double else contextlib.nullcontext():
        noise = _look(problem, report)
        expected = _differences(problem)
        for chosen in estimators:
            report.terms.extend(_compare(problem, get_estimator(chosen), expected, noise, rtol, report))
    if raise_exception and not report.ok:
        raise GradientCheckFailed(f"{len(report.failures)} of {len(report.terms)} terms fail\n{report}")
    return report


def _double(tree: Tree) -> Tree:
    return tree_map(lambda x: x.detach().double() if differentiable(x) and not x.is_complex() else x, tree)


# what the losses do ------------------------------------------------------------------------------------------------------


def _look(problem: BilevelMap, report: Report) -> bool:
    """Notes on cuts, noise and dependences; whether the map itself is noisy."""
    theta, c = as_leaves(problem.theta_0), as_leaves(problem.c)
    fresh = replace(problem)
    for which in ("inner", "outer"):
        fresh.ledger.watch = cuts = Cuts()
        with torch.enable_grad():
            loss = fresh.inner(0, theta, c) if which == "inner" else fresh.outer(theta, c)
        fresh.ledger.watch = None
        if cuts.gradients:
            report.notes.append(
                f"the {which} loss cuts gradients ({', '.join(cuts.gradients)}): derivatives take what is cut for "
                f"constant, finite "
                "differences move it"
            )
        for source in cuts.noise:
            report.notes.append(f"the {which} loss draws noise from {source}, which no seed replays")
        try:
            require_closed(loss, (theta, c))
        except BadMemoryPolicy as found:
            report.notes.append(str(found).replace("inner loss", f"{which} loss"))
        written = sorted(
            {n for n in names_of(loss) if not n.endswith(("Backward0", "Backward1", "Backward2", "Backward4"))}
        )
        written = [n for n in written if "::" not in n and "Backward" in n and not n.endswith("_copy")]
        if written:
            report.notes.append(f"the {which} loss has derivatives written by hand ({', '.join(written[:3])})")
        parts = {"theta": theta, "c": c}
        slopes = (
            gradient(loss, parts, unused="none")
            if loss.requires_grad
            else with_tensors(parts, [None] * len(tensors(parts)))
        )
        _note_unused(which, slopes, report)
    first, second = float(problem.value()), float(problem.value())
    noisy = first != second and not (first != first and second != second) and abs(first - second) > 1e-13 * abs(first)
    if noisy:
        report.notes.append(
            f"the bilevel map gave {first:.9g} and then {second:.9g}: no derivative of it means anything"
        )
    return noisy


def _note_unused(which: str, slopes: dict[str, Tree], report: Report) -> None:
    """What a loss does not depend on: parameters one by one, the inner loss's coupling as a whole."""
    flat = {part: tree_flatten_with_path(tree)[0] for part, tree in slopes.items()}
    unused = {part: [keystr(path) for path, leaf in pairs if leaf is None] for part, pairs in flat.items()}
    if which == "inner" and flat["c"] and len(unused["c"]) == len(flat["c"]):
        report.notes.append("the inner loss does not depend on the coupling")
    names = unused["theta"]
    if names and len(names) == len(flat["theta"]):
        report.notes.append(
            f"the {which} loss does not depend on any parameter: does it use the module's own, or detached ones?"
        )
    elif names:
        report.notes.append(
            f"the {which} loss does not depend on {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
        )


# finite differences ------------------------------------------------------------------------------------------------------


SIZES = (1e-4, 1e-5, 1e-6, 1e-7)


@dataclass
class Difference:
    """A directional derivative by central differences of several sizes: smaller ones step over fewer kinks, larger ones round
    less."""

    part: str
    name: str
    value: Callable[[float], float]
    direction: Tree
    found: dict[float, float] = field(default_factory=dict)

    def at(self, h: float) -> float:
        if h not in self.found:
            slopes = [(self.value(step) - self.value(-step)) / (2 * step) for step in (h, 2 * h)]
            self.found[h] = (4 * slopes[0] - slopes[1]) / 3
        return self.found[h]

    def nearest(self, derivative: float, rtol: float) -> tuple[float, bool]:
        """The first difference that equals the derivative, else that of the first size, and whether there is one."""
        for h in SIZES:
            found = self.at(h)
            if abs(found - derivative) <= max(rtol, 1e-11 / h) * max(abs(found), abs(derivative)) + max(
                1e-9, 1e-15 / h
            ):
                return found, True
        return self.at(SIZES[0]), False

    @property
    def settled(self) -> bool:
        """Whether differences of two sizes agree, so that another number is wrong."""
        a, b = self.at(1e-5), self.at(1e-6)
        return abs(a - b) <= 1e-3 * max(abs(a), abs(b)) + 1e-8


def _unit(like: Tensor, rng: torch.Generator) -> Tensor:
    """A random direction of length 1: short, so that a difference along it steps over few kinks."""
    drawn = torch.randn(like.shape, generator=rng, dtype=torch.float64, device="cpu")
    return (drawn / drawn.norm().clamp_min(1e-300)).to(like)


def _directions(tree: Tree, name: str, rng: torch.Generator) -> list[tuple[str, Tree]]:
    """A random direction for each tensor where they are few, else one for all."""
    drawn = [_unit(x, rng) for x in tensors(tree)]
    if not 1 < len(drawn) <= MOST_LEAVES:
        return [(name, with_tensors(tree, drawn))] if drawn else []
    paths = [keystr(path) for path, leaf in tree_flatten_with_path(tree)[0] if differentiable(leaf)]
    zeros = [torch.zeros_like(d) for d in drawn]
    return [(name + path, with_tensors(tree, [*zeros[:n], drawn[n], *zeros[n + 1 :]])) for n, path in enumerate(paths)]


def _differences(problem: BilevelMap) -> list[Difference]:
    rng = torch.Generator(device="cpu").manual_seed(DIRECTION)
    hyper = hyper_tensors(problem.optimizer.hyper)
    spaces = [("c", n, d) for n, d in _directions(problem.c, "coupling", rng)]
    theta = [_unit(x, rng) for x in tensors(problem.theta_0)]
    spaces.append(("theta", "theta_0", with_tensors(problem.theta_0, theta)))
    spaces += [("hyper", n, d) for n, d in _directions(hyper, "hyper", rng)]
    found = []
    for part, name, direction in spaces:

        def value(step: float, part: str = part, direction: Tree = direction) -> float:
            base = {"c": problem.c, "theta": problem.theta_0, "hyper": hyper}[part]
            pairs = zip(tensors(detach(base)), tensors(direction), strict=True)
            moved = with_tensors(detach(base), [a + step * d for a, d in pairs])
            if part == "hyper":
                return float(problem.value(hyper={**problem.optimizer.hyper, **moved}))
            return float(problem.value(**{"c" if part == "c" else "theta_0": moved}))

        found.append(Difference(part, name, value, direction))
    return found


# the comparison ----------------------------------------------------------------------------------------------------------


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
            problem.inner_loss, problem.outer_loss, problem.theta_0, problem.c, problem.batches, problem.optimizer,
            problem.steps, memory, seed=problem.seed,
        )  # fmt: skip
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


def _judged(name: str, one: Difference, found: float, noisy: bool, rtol: float, estimator: Estimator, cut: str) -> Term:
    if noisy:
        return Term(name, one.name, found, one.at(SIZES[0]), "noisy", "the losses are not repeatable")
    expected, near = one.nearest(found, rtol)
    if near:
        verdict, reason = "right", "both are zero: it has no effect here" if abs(expected) < 1e-12 > abs(found) else ""
    elif not estimator.exact:
        verdict, reason = "inexact", f"leaves out {estimator.dropped}"
    elif found == 0.0:
        verdict, reason = "zero", cut
    elif not one.settled:
        verdict, reason = "kink", "finite differences of two sizes disagree"
    else:
        verdict, reason = ("cut", cut) if cut else ("wrong", "")
    return Term(name, one.name, found, expected, verdict, reason)  # type: ignore[arg-type]
