"""The arms of ``frozen_features.py``: simple rivals, bilevel objectives, and controls of these, all on the same features.

Budgets are alike: an arm that looks for its settings by search evaluates the cross-fitted loss of BUDGET settings, one that
learns them takes BUDGET steps along hypergradients of that loss, each of which costs about three evaluations. Whatever is not
looked for is in ``Settings``, and was chosen on the design tasks. Every head but the logistic regressions starts from the
penalty that cross-fitting chooses of a grid, and from the heads that it gives.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from frozen_features_data import Draws
from frozen_features_graph import graph_of, held_shares, judged, linear_system, quadratic, shares, spread
from frozen_features_heads import (
    Coupling, Head, Loss, Solver, curvature, entropy_and_balance, held_out, imputed, learned, penalised, scores, solved, through,
)  # fmt: skip
from torch import Tensor

from metaimpute import momentum, sgd, unroll
from metaimpute.ensemble.members import Rows, members

BUDGET = 16
PENALTIES = torch.linspace(-6, 9, BUDGET, dtype=torch.float64)  # logarithms; 0 is C = 1 of scikit-learn
RULE = momentum(1.0, 0.9)  # of the inner steps; learning rates are in the losses


@dataclass(frozen=True)
class Settings:
    """What no arm looks for.

    Attributes:
        steps: inner steps of heads with unlabelled rows. speed: their learning rate in units of 1 / curvature.
        weight, balance, temperature: of entropy and balance. imputed, sharpness: weight of imputed labels, and how much they
            are sharpened at the start. width, alpha: of the graph.
        spread_scalars, spread_rows, spread_map, spread_penalties: how far what is learned is expected to be from where it starts,
            a standard deviation: the outer loss is that of all held-out rows and of a normal prior, so the fewer labels the
            stronger the prior. Outer learning rates are a quarter of them, and at most ``lr``.
    """

    steps: int = 10
    speed: float = 1.0
    weight: float = 0.3
    balance: float = 1.0
    temperature: float = 1.0
    imputed: float = 1.0
    sharpness: float = 1.5
    width: float = 0.7
    alpha: float = 2.0
    spread_scalars: float = 0.7
    spread_rows: float = 1.0
    spread_map: float = 0.1
    spread_penalties: float = 1.0
    lr: float = 0.2


@dataclass(frozen=True)
class Outcome:
    """Probabilities of the unlabelled rows ``[R, n, C]``, and the cross-fitted loss of each draw ``[R]`` where an arm has one."""

    shares: Tensor
    held: Tensor | None = None


@dataclass(frozen=True)
class Bench:
    """One task's draws, and what several arms share."""

    draws: Draws
    settings: Settings = Settings()

    @property
    def count(self) -> int:
        return len(self.draws.labelled)

    def full(self, value: float, *sizes: int) -> Tensor:
        return torch.full((self.count, *sizes), value, dtype=torch.float64)

    @cached_property
    def chosen(self) -> Tensor:
        """Logarithm of the penalty with the lowest cross-fitted loss in each draw, ``[R, 1]``."""
        losses = torch.stack([held_out(solved(self.full(float(p), 1), self.draws), self.draws) for p in PENALTIES])
        return PENALTIES[losses.argmin(0)][:, None]

    @cached_property
    def start(self) -> Head:
        """The heads with it."""
        return solved(self.chosen, self.draws)

    @cached_property
    def pace(self) -> Tensor:
        """Learning rates ``[R]``: ``speed`` over a bound of the curvature, the rows' largest second moment and the penalty."""
        rows = torch.cat([self.draws.labelled, self.draws.unlabelled], 1)
        rows = torch.cat([rows, torch.ones_like(rows[..., :1])], 2)
        moment = torch.linalg.eigvalsh(rows.mT @ rows / rows.shape[1])[:, -1]
        return self.settings.speed / (moment + self.chosen[:, 0].exp() / self.draws.count.min(1).values)

    def prepare(self) -> None:
        """Computes what arms share: the grid of penalties and the heads with the one chosen."""
        _ = self.start, self.pace

    def altered(self, draws: Draws | None = None, settings: Settings | None = None) -> Bench:
        """The same penalties and heads to begin from, with other draws or settings."""
        found = Bench(draws or self.draws, settings or self.settings)
        vars(found).update(chosen=self.chosen, start=self.start)  # what the cached properties would compute
        return found

    def answer(self, head: Head) -> Outcome:
        return Outcome(scores(head, self.draws.unlabelled)[:, :, -1].softmax(-1), held_out(head, self.draws))

    def trained(self, inner: Loss, coupling: Coupling) -> Head:
        """The heads after the inner steps."""
        found: Head = unroll(inner, self.start, coupling, [self.draws], RULE, self.settings.steps, differentiable=False).params  # fmt: skip
        return found

    def learned(
        self, begun: Coupling, along: Callable[[Coupling], Coupling], spread: float, way: str = "hypergradient"
    ) -> Coupling:
        """What is learned in BUDGET steps, expected to be about ``spread`` from where it begins."""
        pull = 1 / (spread**2 * self.draws.given.sum(1))
        return learned(begun, along, BUDGET, min(self.settings.lr, spread / 4), pull, way)

    def along(self, inner: Loss) -> Callable[[Coupling], Coupling]:
        """Hypergradients through the inner steps, exact."""
        return through(inner, self.draws, lambda _: self.start, RULE, self.settings.steps, "exact")


Arm = Callable[[Bench], Outcome]


# simple rivals -------------------------------------------------------------------------------------------------------


def member(name: str) -> Arm:
    """One of the systems that ``choose`` has, on all labelled rows of a draw."""

    def arm(bench: Bench) -> Outcome:
        draws, found = bench.draws, []
        for r in range(bench.count):
            given = draws.given[r]
            labels = draws.targets[r][given].argmax(1).numpy()
            rows = Rows(
                draws.labelled[r][given].numpy(), labels, draws.unlabelled[r].numpy(), draws.targets.shape[2], r
            )
            system = members.get(name)()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                system.fit(rows)
                found.append(torch.from_numpy(np.asarray(system.predict(rows.unlabelled))))
        return Outcome(torch.stack(found))

    return arm


def penalty_by_grid(bench: Bench) -> Outcome:
    return bench.answer(bench.start)


def searched(bench: Bench, candidates: list[Any], answer: Callable[[Any], Outcome]) -> Outcome:
    """Of every draw the candidate with the lowest cross-fitted loss."""
    best: Outcome | None = None
    for candidate in candidates:
        found = answer(candidate)
        assert found.held is not None
        if best is None or best.held is None:
            best = found
            continue
        lower = found.held < best.held
        best = Outcome(torch.where(lower[:, None, None], found.shares, best.shares), torch.where(lower, found.held, best.held))  # fmt: skip
    assert best is not None
    return best


def around(start: Coupling, spreads: dict[str, float], seed: int = 0) -> list[Coupling]:
    """BUDGET settings, the first ``start`` and the others normally distributed around it."""
    generator = torch.Generator().manual_seed(seed)
    found = [start]
    for _ in range(BUDGET - 1):
        found.append({
            name: leaf + spreads[name] * torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype)
            for name, leaf in start.items()
        })  # fmt: skip
    return found


# penalties -----------------------------------------------------------------------------------------------------------


def one_group(bench: Bench) -> Tensor:
    return torch.zeros_like(bench.draws.block)


def blocks(bench: Bench) -> Tensor:
    return bench.draws.block


def directions(bench: Bench) -> Tensor:
    return torch.arange(len(bench.draws.block))


def penalties_learned(groups: Callable[[Bench], Tensor], way: str = "hypergradient") -> Arm:
    """Penalties of groups of features, by implicit differentiation at the heads' minimum.

    The single penalty starts from scikit-learn's, several from the one that the grid chose.
    """

    def arm(bench: Bench) -> Outcome:
        group, last = groups(bench), {"head": bench.start}
        number = int(group.max()) + 1

        def start(coupling: Coupling) -> Head:
            last["head"] = solved(coupling["log_penalty"][:, group], bench.draws, last["head"])
            return last["head"]

        begun = bench.full(0.0, 1) if number == 1 else bench.chosen.expand(-1, number).clone()
        inner = penalised(group)

        def solver(coupling: Coupling) -> Solver:
            return curvature(coupling["log_penalty"][:, group], bench.draws, last["head"])

        along = through(inner, bench.draws, start, sgd(1e-12), 1, "cg", solve=solver)
        coupling = bench.learned(
            {"log_penalty": begun}, along, 10.0 if number == 1 else bench.settings.spread_penalties, way
        )
        return bench.answer(start(coupling))

    return arm


def penalties_searched(bench: Bench) -> Outcome:
    group = blocks(bench)
    begun = {"log_penalty": bench.chosen.expand(-1, int(group.max()) + 1).clone()}
    candidates = around(begun, {"log_penalty": 2.0})
    return searched(bench, candidates, lambda c: bench.answer(solved(c["log_penalty"][:, group], bench.draws)))


# heads with unlabelled rows ------------------------------------------------------------------------------------------


def scalars(bench: Bench) -> Coupling:
    """Where entropy and balance start: the settings, and the shares of the labels as they are."""
    s = bench.settings
    return {
        "log_weight": bench.full(np.log(s.weight)), "log_balance": bench.full(np.log(s.balance)),
        "log_temperature": bench.full(np.log(s.temperature)), "prior": bench.full(0.0, bench.draws.targets.shape[2]),
    }  # fmt: skip


def entropy_fixed(bench: Bench) -> Outcome:
    return bench.answer(bench.trained(entropy_and_balance(bench.chosen, bench.pace), scalars(bench)))


def entropy_searched(bench: Bench) -> Outcome:
    spreads = {"log_weight": 1.0, "log_balance": 1.0, "log_temperature": 0.5, "prior": 0.5}
    inner = entropy_and_balance(bench.chosen, bench.pace)
    return searched(bench, around(scalars(bench), spreads), lambda c: bench.answer(bench.trained(inner, c)))


def entropy_learned(way: str) -> Arm:
    def arm(bench: Bench) -> Outcome:
        inner = entropy_and_balance(bench.chosen, bench.pace)
        coupling = bench.learned(scalars(bench), bench.along(inner), bench.settings.spread_scalars, way)
        return bench.answer(bench.trained(inner, coupling))

    return arm


def with_labels_twice(bench: Bench) -> Bench:
    """Each problem takes the rows that it holds out for labelled ones, and all of them once more."""
    draws = bench.draws
    twice = {
        **vars(draws),
        "trained": 2 * draws.given[..., None] / draws.given.sum(1)[:, None, None] + 0 * draws.trained,
    }
    return bench.altered(Draws(**twice))


def holdout_supervision(bench: Bench) -> Outcome:
    """Entropy and balance, the hold-out rows simply trained on: their loss joins the inner one, in full."""
    twice = with_labels_twice(bench)
    return bench.answer(twice.trained(entropy_and_balance(bench.chosen, bench.pace), scalars(bench)))


def labels_learned(as_function: bool, way: str) -> Arm:
    """L2I. Labels start from what each fold's own head with entropy and balance says, sharpened."""

    def arm(bench: Bench) -> Outcome:
        s, draws = bench.settings, bench.draws
        teacher = bench.trained(entropy_and_balance(bench.chosen, bench.pace), scalars(bench))
        inner = imputed(
            s.imputed, s.sharpness * scores(teacher, draws.unlabelled).log_softmax(-1), bench.chosen, bench.pace
        )
        classes = draws.targets.shape[2]
        if as_function:
            begun = {"map": bench.full(0.0, draws.unlabelled.shape[2], classes), "shift": bench.full(0.0, classes)}
        else:
            begun = {"change": bench.full(0.0, draws.unlabelled.shape[1], classes)}
        coupling = bench.learned(begun, bench.along(inner), s.spread_map if as_function else s.spread_rows, way)
        return bench.answer(bench.trained(inner, coupling))

    return arm


# graphs --------------------------------------------------------------------------------------------------------------


def graph_numbers(bench: Bench) -> Coupling:
    return {"log_width": bench.full(np.log(bench.settings.width)), "alpha": bench.full(bench.settings.alpha)}


def graph_arm(way: str) -> Arm:
    """Label spreading with its width and alpha fixed, searched for, or learned by implicit differentiation."""

    def arm(bench: Bench) -> Outcome:
        graph, draws = graph_of(bench.draws), bench.draws

        def answer(coupling: Coupling) -> Outcome:
            found = spread(graph, coupling)
            rows = shares(found, graph)[:, draws.labelled.shape[1] :, -1]
            return Outcome(rows, held_shares(found, graph, draws))

        if way == "fixed":
            return answer(graph_numbers(bench))
        if way == "search":
            return searched(bench, around(graph_numbers(bench), {"log_width": 0.7, "alpha": 1.5}), answer)
        along = through(
            quadratic(graph), draws, lambda c: spread(graph, c), sgd(1e-12), 1, "cg", judged(graph, draws),
            solve=lambda c: linear_system(graph, c),
        )  # fmt: skip
        return answer(bench.learned(graph_numbers(bench), along, bench.settings.spread_scalars, way))

    return arm


BASE = "logistic regression, penalty by CV"
SIMPLE: dict[str, Arm] = {
    BASE: penalty_by_grid,
    "logistic regression, C = 1": member("logistic_regression"),
    "self-training, scikit-learn": member("self_training"),
    "label spreading, scikit-learn": member("label_spreading"),
    "kernel": member("kernel"),
    "penalties of blocks, search": penalties_searched,
    "entropy and balance, fixed": entropy_fixed,
    "entropy and balance, search": entropy_searched,
    "spreading, fixed": graph_arm("fixed"),
    "spreading, search": graph_arm("search"),
}
BILEVEL: dict[str, Arm] = {
    "penalty, learned": penalties_learned(one_group),
    "penalties of blocks, learned": penalties_learned(blocks),
    "penalties of directions, learned": penalties_learned(directions),
    "entropy and balance, learned": entropy_learned("hypergradient"),
    "labels, each learned": labels_learned(False, "hypergradient"),
    "labels, a function learned": labels_learned(True, "hypergradient"),
    "spreading, learned": graph_arm("hypergradient"),
}
CONTROLS: dict[str, Arm] = {
    "penalties of directions, random": penalties_learned(directions, "random"),
    "entropy and balance, random": entropy_learned("random"),
    "entropy and balance, holdout supervision": holdout_supervision,
    "labels, zero hypergradient": labels_learned(False, "zero"),
    "labels, each random": labels_learned(False, "random"),
    "labels, a random function": labels_learned(True, "random"),
}
RIVALS = {
    "penalty, learned": BASE,
    "penalties of blocks, learned": "penalties of blocks, search",
    "penalties of directions, learned": BASE,
    "entropy and balance, learned": "entropy and balance, search",
    "labels, each learned": "labels, zero hypergradient",
    "labels, a function learned": "labels, zero hypergradient",
    "spreading, learned": "spreading, search",
}  # of every bilevel arm the same without hypergradient
ARMS = {**SIMPLE, **BILEVEL, **CONTROLS}
