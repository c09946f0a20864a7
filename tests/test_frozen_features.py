"""Heads on frozen features: what the benchmark differentiates is right, folds are blind to what they hold out, rows to the truth."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.frozen_features import __main__ as frozen_features
from benchmarks.frozen_features import arms, data, heads, tables
from benchmarks.frozen_features import bench as benches
from benchmarks.frozen_features import graph as graphs
from metaimpute import momentum, sgd, unroll

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
STEPS = 4
RULE = momentum(1.0, 0.9)


@pytest.fixture(scope="module")
def bench() -> benches.Bench:
    """Two draws of three classes in a plane and two more columns; the second draw has a labelled row fewer."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    features = rng.normal(size=(60, 4))
    features[:, :2] += 2 * np.array([[0, 1], [1, -1], [-1, -1]])[labels]
    block = np.array([0, 0, 1, 1])
    drawn = [np.arange(13), np.arange(20, 32)]
    made = data.stack_draws(features, block, labels, drawn, [0, 1])
    return benches.Bench(made, benches.Settings(steps=STEPS))


def with_changed(draws: data.Draws, **changes: Tensor) -> data.Draws:
    return dataclasses.replace(draws, **changes)


def slopes(value: Callable[[heads.Coupling], Tensor], at: heads.Coupling, size: float = 1e-5) -> heads.Coupling:
    """Central differences with respect to every entry."""
    found = {name: torch.zeros_like(leaf) for name, leaf in at.items()}
    for name, leaf in at.items():
        for place in np.ndindex(*leaf.shape):
            ends = []
            for sign in (1, -1):
                moved = {key: one.clone() for key, one in at.items()}
                moved[name][place] += sign * size
                ends.append(value(moved))
            found[name][place] = (ends[0] - ends[1]) / (2 * size)
    return found


def assert_equal(found: heads.Coupling, expected: heads.Coupling, rtol: float = 1e-6) -> None:
    for name, leaf in expected.items():
        assert leaf.abs().max() > 1e-5, f"{name} has no influence"
        torch.testing.assert_close(found[name], leaf, rtol=rtol, atol=rtol * float(leaf.abs().max()))


def couplings(bench: benches.Bench) -> dict[str, tuple[heads.Loss, heads.Coupling]]:
    """Every inner loss that is unrolled, at a coupling that is none of its starts."""
    generator = torch.Generator().manual_seed(3)

    def drawn(*sizes: int) -> Tensor:
        return 0.3 * torch.randn(sizes, generator=generator, dtype=torch.float64)

    n, d, classes = bench.draws.unlabelled.shape[1], 4, 3
    start = 1.5 * heads.scores(bench.start, bench.draws.unlabelled).log_softmax(-1)
    labels = heads.imputed(0.7, start, bench.chosen, bench.pace)
    scalars = {"log_weight": drawn(2), "log_balance": drawn(2), "log_temperature": drawn(2), "prior": drawn(2, classes)}
    return {
        "entropy and balance": (heads.entropy_and_balance(bench.chosen, bench.pace), scalars),
        "labels of rows": (labels, {"change": drawn(2, n, classes)}),
        "labels as a function": (labels, {"map": drawn(2, d, classes), "shift": drawn(2, classes)}),
    }


@pytest.mark.parametrize("name", ["entropy and balance", "labels of rows", "labels as a function"])
@pytest.mark.parametrize("estimator", ["exact", "mixed"])
def test_hypergradients_through_the_heads_steps_equal_finite_differences(
    name: str, estimator: str, bench: benches.Bench
) -> None:
    inner, at = couplings(bench)[name]

    def value(coupling: heads.Coupling) -> Tensor:
        end = unroll(inner, bench.start, coupling, [bench.draws], RULE, STEPS, differentiable=False).params
        return heads.outer(end, coupling, bench.draws)

    found = heads.through(inner, bench.draws, lambda _: bench.start, RULE, STEPS, estimator)(at)
    few = {key: leaf[:, :5] if key == "change" else leaf for key, leaf in at.items()}

    def of_few(part: heads.Coupling) -> Tensor:
        return value(
            {key: torch.cat([part[key], leaf[:, 5:]], 1) if key == "change" else part[key] for key, leaf in at.items()}
        )

    assert_equal({key: leaf[:, :5] if key == "change" else leaf for key, leaf in found.items()}, slopes(of_few, few))


def test_forward_mode_agrees_with_reverse_mode(bench: benches.Bench) -> None:
    inner, at = couplings(bench)["entropy and balance"]
    ways = [
        heads.through(inner, bench.draws, lambda _: bench.start, RULE, STEPS, one)(at) for one in ("forward", "exact")
    ]
    assert_equal(ways[0], ways[1], 1e-10)


@pytest.mark.parametrize("groups", [arms.one_group, arms.blocks, arms.directions])
def test_implicit_hypergradients_of_penalties_equal_finite_differences(
    groups: Callable[[benches.Bench], Tensor], bench: benches.Bench
) -> None:
    group = groups(bench)
    at = {"log_penalty": torch.linspace(-1, 1, 2 * (int(group.max()) + 1), dtype=torch.float64).view(2, -1)}

    def head(coupling: heads.Coupling) -> heads.Head:
        return heads.solved(coupling["log_penalty"][:, group], bench.draws, tolerance=1e-12)

    found = heads.through(
        heads.penalised(group), bench.draws, head, sgd(1e-12), 1, "cg",
        solve=lambda c: heads.curvature(c["log_penalty"][:, group], bench.draws, head(c)),
    )(at)  # fmt: skip
    assert_equal(found, slopes(lambda c: heads.outer(head(c), c, bench.draws), at))


def test_implicit_hypergradients_of_a_graph_equal_finite_differences(bench: benches.Bench) -> None:
    graph = graphs.graph_of(bench.draws)
    at = {"log_width": torch.tensor([-0.2, 0.3]).double(), "alpha": torch.tensor([0.5, 2.0]).double()}
    found = heads.through(
        graphs.quadratic(graph), bench.draws, lambda c: graphs.spread(graph, c), sgd(1e-12), 1, "cg",
        graphs.judged(graph, bench.draws), lambda c: graphs.linear_system(graph, c),
    )(at)  # fmt: skip
    assert_equal(found, slopes(lambda c: graphs.held_shares(graphs.spread(graph, c), graph, bench.draws).sum(), at))


def test_spread_labels_are_the_fixed_point_of_label_spreading(bench: benches.Bench) -> None:
    graph = graphs.graph_of(bench.draws)
    coupling = {"log_width": torch.zeros(2).double(), "alpha": torch.ones(2).double()}
    share, S = torch.ones(()).double().sigmoid(), graphs.weights(graph, coupling)
    labels = graph.known.flatten(2)
    for _ in range(300):
        labels = share * (S @ labels) + (1 - share) * graph.known.flatten(2)
    torch.testing.assert_close(graphs.spread(graph, coupling)["spread"].flatten(2), labels, rtol=0, atol=1e-12)
    assert S[1, 12].abs().max() == 0, "a row of padding has edges"


def test_heads_are_scikit_learns(bench: benches.Bench) -> None:
    from sklearn.linear_model import LogisticRegression

    draws = bench.draws
    head = heads.solved(bench.full(0.0, 1), draws)
    for r, count in enumerate((13, 12)):
        model = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000)
        model.fit(draws.labelled[r, :count].numpy(), draws.targets[r, :count].argmax(1).numpy())
        found = heads.scores(head, draws.unlabelled)[r, :, -1].softmax(-1).numpy()
        np.testing.assert_allclose(found, model.predict_proba(draws.unlabelled[r].numpy()), atol=1e-4)


def test_folds_hold_out_what_they_do_not_train_on_and_every_row_once(bench: benches.Bench) -> None:
    draws = bench.draws
    assert float((draws.trained * draws.held).abs().max()) == 0
    torch.testing.assert_close(draws.trained.sum(1), torch.ones_like(draws.count))
    torch.testing.assert_close(draws.held.sum((1, 2)), torch.ones(2).double())
    assert ((draws.held > 0).sum(2) == draws.given).all()
    assert draws.count[:, -1].tolist() == [13, 12] and (draws.trained[1, 12] == 0).all()


def predictions(arm: str, bench: benches.Bench) -> Tensor:
    return arms.ARMS[arm](bench).shares


def test_a_fold_knows_nothing_of_the_labels_it_holds_out(bench: benches.Bench) -> None:
    draws, row = bench.draws, 4
    fold = int((draws.held[0, row] > 0).nonzero())
    targets = draws.targets.clone()
    targets[0, row] = targets[0, row].roll(1)
    changed = with_changed(draws, targets=targets)
    inner = heads.entropy_and_balance(bench.chosen, bench.pace)
    ends = []
    for one in (draws, changed):
        start = heads.solved(bench.chosen, one)
        end = unroll(inner, start, arms.scalars(bench), [one], RULE, STEPS, differentiable=False).params
        spread = graphs.spread(graphs.graph_of(one), arms.graph_numbers(bench))["spread"]
        ends.append((end["weight"][0], spread[0]))
    for before, after in zip(*ends, strict=True):
        torch.testing.assert_close(before[:, fold], after[:, fold], rtol=0, atol=1e-9)
        assert float((before[:, -1] - after[:, -1]).abs().max()) > 1e-3


def test_draws_of_a_stack_do_not_touch_one_another(bench: benches.Bench) -> None:
    parts = {name: leaf if name == "block" else leaf[:1] for name, leaf in vars(bench.draws).items()}
    alone = benches.Bench(data.Draws(**parts), bench.settings)
    for arm in (
        "entropy and balance, learned",
        "labels, each learned",
        "penalties of blocks, learned",
        "spreading, learned",
    ):
        torch.testing.assert_close(predictions(arm, bench)[:1], predictions(arm, alone), rtol=0, atol=1e-6)


def test_every_arm_learns_and_none_is_given_the_hidden_truth(bench: benches.Bench) -> None:
    other = bench.altered(with_changed(bench.draws, truth=bench.draws.truth.roll(1, 1)))
    assert arms.STARTS.keys() == arms.BILEVEL.keys() > arms.SEARCHED.keys()
    for name in arms.ARMS:
        shares = predictions(name, bench)
        torch.testing.assert_close(shares, predictions(name, other), rtol=0, atol=0)
        torch.testing.assert_close(shares.sum(-1), torch.ones_like(bench.draws.truth).double())
        assert float((shares.argmax(-1) != bench.draws.truth).double().mean()) < 0.4, name


def test_what_is_measured(bench: benches.Bench) -> None:
    sure = torch.nn.functional.one_hot(bench.draws.truth, 3).double()
    sure[1] = sure[1].roll(1, -1)
    found = frozen_features.measured(lambda _: benches.Outcome(sure, torch.tensor([0.25, 0.5])), bench)
    assert found["error"] == [0.0, 100.0] and found["held_out"] == [0.25, 0.5]
    assert found["loss"] == [0.0, pytest.approx(13.816, abs=1e-3)]


def test_controls_change_the_direction_alone() -> None:
    begun = {"a": torch.tensor([1.0, -1.0]).double(), "b": torch.ones(2, 3).double()}
    pull, moved = torch.tensor([0.1, 0.2]).double(), {name: leaf + 2.0 for name, leaf in begun.items()}
    asked = []

    def differentiate(coupling: heads.Coupling) -> heads.Coupling:
        asked.append(coupling)
        return {name: leaf.clone() for name, leaf in moved.items()}

    stayed = heads.learned(begun, differentiate, 3, 0.1, pull, "zero")
    assert all(torch.equal(stayed[name], leaf) for name, leaf in begun.items()) and len(asked) == 3
    drawn = heads._of_equal_length(moved, torch.Generator().manual_seed(0))
    torch.testing.assert_close(heads._lengths(drawn), heads._lengths(moved))
    assert not torch.allclose(drawn["b"], moved["b"])
    generator = torch.Generator().manual_seed(5)
    rule = heads.learned(begun, lambda _: heads._of_equal_length(moved, generator), 3, 0.1, pull)
    random = heads.learned(begun, differentiate, 3, 0.1, pull, "random", seed=5)
    assert all(torch.equal(random[name], leaf) for name, leaf in rule.items())
    along = heads.learned(begun, differentiate, 3, 0.1, pull)
    assert all((along[name] < leaf).all() == (moved[name] > 0).all() for name, leaf in begun.items())


def test_holdout_supervision_trains_every_problem_on_all_labels_twice(bench: benches.Bench) -> None:
    twice = arms.with_labels_twice(bench).draws.trained
    torch.testing.assert_close(twice.sum(1), torch.full((2, 6), 2.0).double())
    assert (twice[1, 12] == 0).all() and (twice[0] > 0).all()


def test_statistics() -> None:
    assert tables.holm([0.01, 0.04, None, 0.03]) == pytest.approx([0.04, 0.09, None, 0.09])
    mean, low, high = tables.t_interval([1.0, 2.0, 3.0])
    assert (mean, low, high) == pytest.approx((2.0, 2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), abs=1e-5)


def test_the_page_names_every_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: benches.Bench) -> None:
    found: list[dict[str, Any]] = []
    for number, split in enumerate(["design", "reported", "reported"]):
        each = {arm: {"error": [float(i + number), i + 1.0], "loss": [0.5, 0.6], "seconds": 0.1, "held_out": [0.4, 0.4]}
                for i, arm in enumerate(arms.ARMS)}  # fmt: skip
        found.append({
            "task": f"task {number}", "split": split, "features": ["columns"], "classes": 2, "labels": 9, "unlabelled": 50,
            "seeds": [0, 1], "prepared_seconds": 0.1, "arms": each,
        })  # fmt: skip
    page = tables.report(found)
    assert all(page.count(f"{arm} |") >= 4 for arm in arms.ARMS)
    assert "| spreading, learned | spreading, search | +8.00 [+8.00, +8.00] | 0 of 2 | 0 of 4 | - |" in page
    unfinished = {**found[1], "arms": {}}
    assert tables.report([found[0], found[2]]) == tables.report([found[0], found[2], unfinished])


def test_settings_are_those_that_the_design_tasks_chose() -> None:
    record = json.loads((BENCHMARKS / "results" / "frozen_features_design.json").read_text())
    assert vars(benches.Settings()) == record["kept"]
    for family in record["families"]:
        kept = [one for one in family["tried"] if one.items() - {("error", one["error"])} <= record["kept"].items()]
        assert len(kept) == 1 and kept[0]["error"] == min(one["error"] for one in family["tried"])


def test_the_evidence_page_has_the_tables_rows() -> None:
    page = (BENCHMARKS.parent / "docs" / "evidence.md").read_text()
    section = page.split("## Few clean labels, heads fitted to the end")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and "---" not in line][1:]
    known = (BENCHMARKS / "results" / "frozen_features.md").read_text().splitlines()
    assert len(rows) > 5 and set(rows) <= set(known)
