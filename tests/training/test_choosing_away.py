"""Candidates measured on a cluster's nodes: the numbers that they have here, and what happens when one dies or is not fit."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.datasets import load_wine
from sklearn.preprocessing import StandardScaler

from metaimpute.cli import main
from metaimpute.ensemble.choice import Ensemble, candidates_on, choose
from metaimpute.ensemble.measuring import Candidate, Examples, here
from metaimpute.ensemble.members import LogisticRegressionMember, members
from metaimpute.training.choosing_away import on_cluster

from ..cluster.made import Made

NAMES = ["logistic_regression", "label_spreading", "kernel"]


def examples() -> Examples:
    X, y = load_wine(return_X_y=True)
    X, order = StandardScaler().fit_transform(X), np.random.default_rng(0).permutation(len(y))
    return Examples({"rows": X[order[:30]]}, {"rows": X[order[30:]]}, y[order[:30]], 3, 0)


def chosen(cluster: Made | None = None, told: list[str] | None = None, **options: Any) -> Ensemble:
    mine = Candidate("of this process", "rows", LogisticRegressionMember, 2.0)
    said = [] if told is None else told
    measure = here if cluster is None else on_cluster(cluster, said.append, retries=1)
    return choose(examples(), [*candidates_on("rows", NAMES), mine], measure=measure, **options)


def test_numbers_and_order_are_those_of_this_process() -> None:
    one, many = chosen(), chosen(Made())
    assert [s.name for s in one.scores] == [s.name for s in many.scores] and len(one.scores) >= 3
    assert [(s.error, s.weight) for s in one.scores] == [(s.error, s.weight) for s in many.scores]
    assert np.array_equal(one.held_out, many.held_out)
    rows = {"rows": load_wine(return_X_y=True)[0]}
    assert np.array_equal(one.predict(rows), many.predict(rows))


def test_only_what_a_node_can_make_goes_there() -> None:
    cluster = Made()
    chosen(cluster)
    assert cluster.answered and "of this process" not in cluster.answered


def test_a_candidate_whose_node_dies_is_sent_again_and_in_the_end_left_out() -> None:
    first = next(iter(chosen().scores)).name
    told: list[str] = []
    assert first in [s.name for s in chosen(Made({first: 1}), told).scores]
    assert told == [f"{first}: its node died; it is tried again"]
    found = chosen(Made({first: 2}))
    assert found.left_out[first] == "its node died" and first not in [s.name for s in found.scores]


def test_progress_is_told_of_all_folds_and_a_stop_ends_it() -> None:
    seen: list[tuple[str, int, int]] = []
    chosen(Made(), report=lambda *said: seen.append(said))
    assert {name for name, done, of in seen if done == of} == {s.name for s in chosen().scores}

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    cluster = Made()
    with pytest.raises(KeyboardInterrupt):
        chosen(cluster, report=stop)
    assert cluster.stopped and not cluster.answered


def test_a_spent_budget_leaves_a_candidate_out(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = LogisticRegressionMember.fit

    def fit(self: LogisticRegressionMember, rows: Any) -> None:
        time.sleep(0.05)
        slow(self, rows)

    monkeypatch.setattr(LogisticRegressionMember, "fit", fit)
    name = NAMES[0]
    found = choose(
        examples(), [*candidates_on("rows", [name]), Candidate("other", "rows", members.get(NAMES[1]))],
        budget=0.06, measure=on_cluster(Made(), print),
    )  # fmt: skip
    assert "the budget was spent after" in found.left_out[name]


def test_a_recipe_without_systems_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(main, ["run", "two_moons", "--ray"])
    assert found.exit_code == 2 and "this recipe has none" in found.output
