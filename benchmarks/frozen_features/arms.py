"""The arms of ``benchmarks/frozen_features``: simple rivals, bilevel objectives, and controls of these, all on the same features.

Whatever no arm looks for is in ``Settings``, and was chosen on the design tasks. All heads but those of ``choose`` and of the
single learned penalty start from the penalty that cross-fitting chooses of a grid, and from the heads that it gives.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from metaimpute import sgd
from metaimpute.ensemble.members import Rows, members

from .bench import Bench, Outcome, around, searched
from .data import Draws
from .graph import graph_of, held_shares, judged, linear_system, quadratic, shares, spread
from .heads import (
    Coupling,
    Head,
    Solver,
    curvature,
    entropy_and_balance,
    imputed,
    penalised,
    scores,
    solved,
    through,
)

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


# penalties -----------------------------------------------------------------------------------------------------------


def one_group(bench: Bench) -> Tensor:
    return torch.zeros_like(bench.draws.block)


def blocks(bench: Bench) -> Tensor:
    return bench.draws.block


def directions(bench: Bench) -> Tensor:
    return torch.arange(len(bench.draws.block))


def penalties_learned(groups: Callable[[Bench], Tensor], near: str = "", way: str = "hypergradient") -> Arm:
    """Penalties of groups of features, by implicit differentiation at the heads' minimum.

    The single penalty starts from scikit-learn's, several from the one that the grid chose.

    Args:
        near: the setting that says how far they are expected to be from there; none for a single one.
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
        coupling = bench.learned({"log_penalty": begun}, along, getattr(bench.settings, near) if near else 10.0, way)
        return bench.answer(start(coupling))

    return arm


def penalties_searched(bench: Bench) -> Outcome:
    group = blocks(bench)
    begun = {"log_penalty": bench.chosen.expand(-1, int(group.max()) + 1).clone()}
    candidates = around(begun, bench.settings.tried_blocks)
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
    inner = entropy_and_balance(bench.chosen, bench.pace)
    return searched(
        bench, around(scalars(bench), bench.settings.tried_scalars), lambda c: bench.answer(bench.trained(inner, c))
    )


def entropy_learned(way: str) -> Arm:
    def arm(bench: Bench) -> Outcome:
        inner = entropy_and_balance(bench.chosen, bench.pace)
        coupling = bench.learned(scalars(bench), bench.along(inner), bench.settings.near_scalars, way)
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


def labels_learned(as_function: bool, way: str, near: float | None = None) -> Arm:
    """L2I. Labels start from what each fold's own head with entropy and balance says, sharpened.

    Args:
        near: how far labels are expected to be from there, where it is not the setting's.
    """

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
        own = s.near_map if as_function else s.near_rows
        coupling = bench.learned(begun, bench.along(inner), near or own, way)
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
            return searched(bench, around(graph_numbers(bench), bench.settings.tried_graph), answer)
        along = through(
            quadratic(graph), draws, lambda c: spread(graph, c), sgd(1e-12), 1, "cg", judged(graph, draws),
            solve=lambda c: linear_system(graph, c),
        )  # fmt: skip
        return answer(bench.learned(graph_numbers(bench), along, bench.settings.near_graph, way))

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
    "penalties of blocks, learned": penalties_learned(blocks, "near_blocks"),
    "penalties of directions, learned": penalties_learned(directions, "near_directions"),
    "entropy and balance, learned": entropy_learned("hypergradient"),
    "labels, each learned": labels_learned(False, "hypergradient"),
    "labels, each learned, no prior": labels_learned(False, "hypergradient", 1e3),
    "labels, a function learned": labels_learned(True, "hypergradient"),
    "spreading, learned": graph_arm("hypergradient"),
}
CONTROLS: dict[str, Arm] = {
    "penalties of directions, random": penalties_learned(directions, "near_directions", "random"),
    "entropy and balance, random": entropy_learned("random"),
    "entropy and balance, holdout supervision": holdout_supervision,
    "labels, zero hypergradient": labels_learned(False, "zero"),
    "labels, each random": labels_learned(False, "random"),
    "labels, a random function": labels_learned(True, "random"),
}
STARTS = {
    "penalty, learned": "logistic regression, C = 1",
    "penalties of blocks, learned": BASE,
    "penalties of directions, learned": BASE,
    "entropy and balance, learned": "entropy and balance, fixed",
    "labels, each learned": "labels, zero hypergradient",
    "labels, each learned, no prior": "labels, zero hypergradient",
    "labels, a function learned": "labels, zero hypergradient",
    "spreading, learned": "spreading, fixed",
}  # of every bilevel arm the one from which it starts: what its loop gives with the hypergradient replaced by 0
SEARCHED = {
    "penalty, learned": BASE,
    "penalties of blocks, learned": "penalties of blocks, search",
    "entropy and balance, learned": "entropy and balance, search",
    "spreading, learned": "spreading, search",
}  # the one that looks for the same numbers by search
ARMS = {**SIMPLE, **BILEVEL, **CONTROLS}
