"""Which estimator and memory policy for a problem of one's own, and at what cost: answered by measuring it for some seconds.

Time and memory of k inner steps are lines in k (but for a memory policy that fits a budget, whose plan is known), so two short
unrolls say what a long one takes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..errors import UserError
from .arguments import batches_of, list_of_batches
from .estimators import HypergradientResult
from .estimators.choice import get_estimator
from .hypergradients import hypergradient
from .losses import Loss
from .memory import Auto, Footprint, parse_memory, shown_bytes
from .optimizers import InnerOptimizer
from .optimizers.base import require_rule
from .pytree import Tree, tensors
from .short_unrolls import LONGEST, Clock, Measured, affordable, flat, footprint_of, stored, with_repetition
from .unroll import Batches, unroll

SCALARS = 8  # of coupling and hyperparameters, up to which an estimator with a price for each is tried
TRIED = ("exact", "mixed", "forward", "head", "truncated(1)", "finite_difference", "first_order", "neumann(5)", "cg(5)")


@dataclass(frozen=True)
class Choice:
    """One estimator with a memory policy, for all steps that were asked about.

    Attributes:
        estimator, memory: as :func:`hypergradient` takes them. exact: whether its gradient is that of the whole unroll.
        seconds: predicted, of one hypergradient. cost: the same in units of the plain steps. peak: predicted bytes of tensors
            alive at once, above what was alive before. fits: whether that is within the budget.
        error, cosine: relative error against ``exact`` and cosine with it after as many steps as were measured, which may be far
            fewer; an estimate's error grows with them. wrt_start: as it was asked for.
    """

    estimator: str
    memory: str
    exact: bool
    seconds: float
    cost: float
    peak: int
    fits: bool
    error: float
    cosine: float
    wrt_start: bool

    @property
    def arguments(self) -> dict[str, Any]:
        """``estimator``, ``memory`` and ``wrt_start`` for :func:`hypergradient`."""
        return {"estimator": self.estimator, "memory": self.memory, "wrt_start": self.wrt_start}


@dataclass(frozen=True)
class Planned:
    """What :func:`plan` found.

    Attributes:
        choices: what can be done, exact ones that fit first, the fastest before the others, then estimates, the nearest before
            the others.
        refused: estimators that the problem is not for, and why. steps, budget: as asked, the latter in bytes or None.
        measured: inner steps of the two short unrolls. plain_seconds: predicted, of the steps without any differentiation.
        least: bytes that ``exact`` needs at least, were every step repeated. footprint: bytes of a step's graph, a snapshot and
            what a step needs beside, from which memory policies are predicted; None where there is nothing to repeat.
    """

    choices: tuple[Choice, ...]
    refused: dict[str, str]
    steps: int
    budget: int | None
    measured: tuple[int, int]
    plain_seconds: float
    least: int
    footprint: Footprint | None = None

    @property
    def best(self) -> Choice | None:
        """The fastest exact one within the budget; None where there is none."""
        return next((one for one in self.choices if one.exact and one.fits), None)

    def __str__(self) -> str:
        """A sentence, and a table of 80 columns."""
        lines = [
            self.sentence,
            "",
            f"{'estimator':<20}{'memory':<16}{'seconds':>9}{'cost':>7}{'peak':>11}{'error':>9}  fits",
        ]
        for one in self.choices:
            error = "exact" if one.exact else f"{one.error:.1e}"
            lines.append(
                f"{one.estimator:<20}{one.memory:<16}{one.seconds:>9.3g}{one.cost:>7.1f}{shown_bytes(one.peak):>11}{error:>9}  "
                f"{'yes' if one.fits else 'no'}"
            )
        lines += [f"not for this problem: {name} ({why})" for name, why in self.refused.items()]
        return "\n".join(lines)

    @property
    def sentence(self) -> str:
        """What to take, and why."""
        best, within = self.best, "" if self.budget is None else f" within {shown_bytes(self.budget)}"
        if best is None:
            need = (
                f"no exact gradient of {self.steps:,} steps fits{within}: it takes {shown_bytes(self.least)} at least"
            )
            other = next((one for one in self.choices if one.fits), None)
            if other is None:
                return need
            return (
                f"{need}; '{other.estimator}' does, with an error of {other.error:.0%} after {self.measured[1]} steps"
            )
        return (
            f"take '{best.estimator}' with memory '{best.memory}': exact, about {best.seconds:.3g} s and "
            f"{shown_bytes(best.peak)} for {self.steps:,} steps{within}, {best.cost:.1f} times the steps themselves"
        )


def plan(
    inner_loss: Loss,
    outer_loss: Loss | None = None,
    params: Tree = None,
    coupling: Tree = None,
    batches: Any = None,
    optimizer: InnerOptimizer | None = None,
    *,
    steps: int | None = None,
    budget: str | int | None = None,
    seconds: float = 10.0,
    estimators: str | Sequence[str] = TRIED,
    outer_batch: Any = None,
    seed: int = 0,
    wrt_start: bool = False,
) -> Planned:
    """Measures short unrolls of a bilevel problem and says which estimator and memory policy to take for a long one.

    ``hypergradient(inner_loss, outer_loss, params, coupling, batches, optimizer, steps=steps, **found.best.arguments)`` then has
    the cost that was predicted.

    Args:
        inner_loss, outer_loss, params, coupling, batches, optimizer, outer_batch, wrt_start: as for :func:`hypergradient`; of
            batches a few will do.
        steps: inner steps that are asked about. budget: bytes of tensors alive at once, ``"2GB"`` or a number; None for any.
        seconds: to spend, roughly: a single short unroll of a large model may take longer. estimators: to be tried,
            ``exact`` among them.
        seed: of the noise inside the losses.

    Raises:
        PlanError: for steps or seconds that are none, or a gradient that is not finite. BadMemoryPolicy: for a budget that cannot
            be read. Otherwise as :func:`hypergradient` with ``exact``, which is what others are compared with.
    """
    if not callable(inner_loss) or not callable(outer_loss) or params is None or steps is None:
        raise PlanError(
            "plan() takes both losses of (params, coupling, batch), the start, a rule and the steps, as plan(inner_loss, "
            "outer_loss, params, coupling, batches, sgd(0.1), steps=200, budget='2GB'); for a module alone there is the command "
            "metaimpute bench plan --model"
        )
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise PlanError(f"steps must be a whole number of at least 1, not {steps!r}")
    if not seconds > 0:
        raise PlanError(f"seconds must be positive, not {seconds!r}")
    estimators = [estimators] if isinstance(estimators, str) else list(estimators)
    if "exact" not in estimators:
        raise PlanError(f"estimators must hold 'exact', which others are compared with, not {estimators}")
    room = None if budget is None else _read_budget(budget)
    rule = require_rule(optimizer, "optimizer")
    whole = batches if isinstance(batches, Batches) else Batches(batches_of(batches), outer_batch)

    def first(count: int) -> Batches:
        every = list_of_batches(whole.inner)
        return Batches(every if len(every) == 1 else list(every)[:count], whole.outer)

    def plain(count: int) -> None:
        unroll(inner_loss, params, coupling, first(count).inner, rule, count, seed=seed, differentiable=False)

    def gradient(count: int, estimator: str = "exact", memory: Any = "store") -> HypergradientResult:
        return hypergradient(
            inner_loss, outer_loss, params, coupling, first(count), rule, estimator,
            steps=count, memory=memory, seed=seed, wrt_start=wrt_start,
        )  # fmt: skip

    given = len(list_of_batches(whole.inner))
    most = min(steps, LONGEST) if given == 1 else min(steps, LONGEST, given)
    long = affordable(plain, most, seconds / len(estimators))
    counts = max(1, long // 2), long
    truth = flat(gradient(long, "exact"))
    if not truth.isfinite().all():
        raise PlanError(f"the exact gradient after {long} steps is not finite, so there is nothing to compare with")
    clock, found, refused = Clock(plain, counts, seconds / len(estimators)), list[Measured](), dict[str, str]()
    scalars = sum(leaf.numel() for leaf in tensors((coupling, rule.hyper)))
    for name in estimators:
        how = get_estimator(name)
        if how.per_scalar and scalars > SCALARS:
            refused[name] = f"a price for each of {scalars:,} scalars"
            continue
        try:
            how.check(steps, wrt_start=wrt_start)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of an estimate that means little: its error says so
                found.append(Measured.of(name, how.exact, partial(gradient, estimator=name), truth, clock, counts))
        except (UserError, NotImplementedError, RuntimeError) as error:
            if name == "exact":
                raise
            refused[name] = str(error).split("\n", 1)[0]
    plain_seconds = clock.plain_step() * steps
    choices: list[Choice] = []
    least, footprint = 0, None

    def choice(one: Measured, memory: str, taken: float, peak: int) -> Choice:
        fits, cost = room is None or peak <= room, taken / plain_seconds
        return Choice(one.name, memory, one.exact, taken, cost, peak, fits, *one.apart, wrt_start)

    for one in found:
        choices.append(choice(one, "store", one.seconds.at(steps), math.ceil(one.peak.at(steps))))
        if one.name == "exact" and steps > 2:
            again = max(0.0, clock(partial(gradient, memory="recompute")).each - one.seconds.each)
            footprint = footprint_of(gradient, long)
            base = max(0, math.ceil(one.peak.at(long)) - stored(footprint, long))
            least = base + footprint.first + footprint.graph + footprint.snapshot + footprint.working
            ways = with_repetition(room, steps, footprint, base)
            choices += [choice(one, way, one.seconds.at(steps) + extra * again, peak) for way, extra, peak in ways]
        elif one.name == "exact":
            least = choices[-1].peak
    choices.sort(
        key=lambda one: (
            not (one.exact and one.fits),
            not one.fits,
            not one.exact,
            one.seconds if one.exact else one.error,
        )
    )
    return Planned(tuple(choices), refused, steps, room, counts, plain_seconds, least, footprint)


class PlanError(UserError, ValueError):
    """A question that cannot be answered as asked."""


def _read_budget(budget: str | int) -> int:
    if isinstance(budget, int) and not isinstance(budget, bool):
        return Auto(budget).budget
    policy = parse_memory(f"auto({budget})")
    assert isinstance(policy, Auto)
    return policy.budget
