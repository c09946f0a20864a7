"""The families of the evidence study: every arm has as many settings, rivals see what arms see, and nothing is measured twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.evidence import families as evidence_families
from benchmarks.evidence import rivals, tables
from benchmarks.evidence.runs import measured
from benchmarks.evidence.training import points, recipe_of
from metaimpute.tasks.base import Pool, TaskData

FAMILIES = evidence_families.read_families()


def noisy_blobs(trusted: int = 6) -> tuple[TaskData, np.ndarray]:
    """Two classes far apart, of 60 labels 12 wrong and the first ones trusted; which are wrong."""
    rng = np.random.default_rng(0)
    truth = np.arange(60) % 2
    rows = torch.tensor(rng.normal(size=(60, 3)) + 6.0 * truth[:, None], dtype=torch.float32)
    wrong = np.zeros(60, bool)
    wrong[rng.permutation(np.arange(trusted, 60))[:12]] = True
    pool = Pool(rows, torch.tensor(np.where(wrong, 1 - truth, truth)), torch.arange(60))
    data = TaskData(pool, pool, pool, pool, "blobs", clean=torch.tensor(truth), trusted=torch.arange(trusted))
    return data, wrong


@pytest.mark.parametrize("name", FAMILIES)
def test_every_arm_of_a_family_has_as_many_settings_and_a_recipe_that_is_valid(name: str) -> None:
    family = FAMILIES[name]
    results = evidence_families.RESULTS
    for task in family["tasks"]:
        arms = evidence_families.known(name, task, family, results)["arms"].values()
        kinds = [own["asked"]["kind"] for own in arms]
        assert set(kinds) == {"base", "control", "rival", "objective"} and kinds.count("base") == 1
    assert not set(family["tune"]) & set(evidence_families.seeds_of(family))
    for task in family["tasks"]:
        asked = evidence_families.asked_of(family, task)
        assert asked["tuned_on"] is None or asked["tuned_on"] in family["tasks"]
        assert len({len(points(own)) for own in family["arms"].values()}) == 1
        for own in family["arms"].values():
            for point in points(own)[:: 1 if task == next(iter(family["tasks"])) else 7]:
                recipe_of(asked, own, point, 0)


def test_rivals_of_measured_arms_stand_beside_them_and_are_not_measured_with_them() -> None:
    name, task = "few clean labels", "digits, Mean Teacher"
    found = evidence_families.known(name, task, FAMILIES[name], evidence_families.RESULTS)
    whole = json.loads((evidence_families.RESULTS.parent / "digits-mean-teacher.json").read_text())
    assert found["arms"]["l2i"]["test"] == whole["arms"]["l2i"]["test"]
    assert set(found["arms"]) == {*whole["arms"], "self-training", "label spreading"}


@pytest.mark.parametrize("change", [rivals.confident_learning, rivals.disagreement])
def test_confident_learning_drops_the_wrong_labels_and_no_trusted_row(change: rivals.Change) -> None:
    data, wrong = noisy_blobs()
    found = change(data, 0, strength=1.0)
    assert set(found.labelled.ids.tolist()) == set(np.flatnonzero(~wrong).tolist())
    assert found.trusted is not None and found.labelled.ids[found.trusted].tolist() == list(range(6))


def test_trusted_rows_that_are_trained_on_are_held_out_once() -> None:
    data, _ = noisy_blobs()
    found = rivals.trusted_twice(data, 0)
    assert found.trusted is not None and found.labelled.ids[found.trusted].tolist() == list(range(6))
    rest = np.setdiff1d(np.arange(len(found.labelled)), found.trusted.numpy())
    assert found.labelled.ids[rest].tolist() == list(range(60))
    assert rivals.trusted_alone(data, 0).labelled.ids.tolist() == list(range(6))


def test_oversampling_evens_the_classes_out() -> None:
    data, _ = noisy_blobs()
    few = rivals.kept(data, np.r_[np.arange(0, 60, 2), [1, 3, 5]])
    labels = rivals.labels_of(few)
    counts = np.bincount(rivals.labels_of(rivals.oversampled(few, 0, power=1.0)))
    assert abs(counts[0] - counts[1]) < np.bincount(labels).min()
    assert len(rivals.oversampled(few, 0, power=0.0).labelled) == len(few.labelled)


def test_logit_adjustment_takes_the_shares_of_the_labels_off() -> None:
    data, _ = noisy_blobs()
    few = rivals.kept(data, np.array([0, 2, 4, 1]))
    adjusted = rivals.logit_adjusted(lambda pool: np.zeros((len(pool), 2)), few, tau=2.0)
    assert np.allclose(adjusted(data.test)[0], -2.0 * np.log([0.75, 0.25]))


@pytest.mark.parametrize("rival", ["self_training", "label_spreading"])
def test_systems_of_other_kinds_see_labels_of_labelled_rows_alone(rival: str) -> None:
    data, _ = noisy_blobs()
    blind = Pool(data.unlabelled.inputs, None, data.unlabelled.ids)
    few = rivals.kept(data, np.arange(6))
    own = {"threshold": 0.8} if rival == "self_training" else {"neighbours": 5}
    scores = rivals.RIVALS[rival](TaskData(few.labelled, blind, data.validation, data.test, ""), 0, **own)
    assert data.clean is not None
    assert (scores(data.test).argmax(1) == data.clean.numpy()).mean() > 0.95


def small(tmp_path: Path) -> dict[str, Any]:
    """The first family with three of its arms, two steps and few labels."""
    family = FAMILIES["wrong labels"]
    arms = {
        name: family["arms"][name] for name in ("labels alone", "zero hypergradient", "disagreement", "hyper-cleaning")
    }
    arms["labels alone"] = {**arms["labels alone"], "grid": {"train.steps": [1, 2]}}
    sets = {**family["set"], "task.labels": 100, "train.steps": 2}
    tasks = dict(list(family["tasks"].items())[:2])
    return {**family, "first": 0, "arms": arms, "set": sets, "tasks": tasks, "tune": [1001], "seeds": 5}


def test_a_family_goes_on_where_it_ended_and_is_told_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = small(tmp_path)
    assert not evidence_families.measure("wrong labels", family, until=0.0, results=tmp_path / "families")
    assert evidence_families.measure("wrong labels", family, results=tmp_path / "families")
    monkeypatch.setattr(evidence_families, "measured", lambda *given: pytest.fail("measured again"))
    assert evidence_families.measure("wrong labels", family, results=tmp_path / "families")
    found = [json.loads(path.read_text()) for path in sorted((tmp_path / "families").glob("*.json"))]
    assert sorted(map(tables.runs, found)) == [24, 31]
    tables.write_tables({"wrong labels": family}, tmp_path / "families")
    said = (tmp_path / "families.md").read_text()
    assert "55 runs" in said and "hyper-cleaning" in said and (tmp_path / "families.png").is_file()


def test_an_arm_that_is_asked_for_otherwise_begins_anew_and_the_others_stay(tmp_path: Path) -> None:
    family = small(tmp_path)
    evidence_families.measure("wrong labels", family, results=tmp_path)
    family["arms"]["disagreement"] = {**family["arms"]["disagreement"], "changes": ["confident_learning"]}
    task = next(iter(family["tasks"]))
    family["first"] = 1
    arms = evidence_families.known("wrong labels", task, family, tmp_path)["arms"]
    assert not arms["disagreement"]["test"] and list(arms["hyper-cleaning"]["test"]) == ["1", "2", "3", "4"]


def test_a_setting_that_more_seeds_change_is_measured_anew() -> None:
    own = {"chosen": {"set": {"a": 1}, "validation": 3.0}, "test": {"0": 5.0}, "seconds": {"0": 1.0}}
    evidence_families.choose(own, {"set": {"a": 1}, "validation": 4.0})
    assert own["test"] == {"0": 5.0} and own["chosen"] == {"set": {"a": 1}, "validation": 4.0}
    evidence_families.choose(own, {"set": {"a": 2}, "validation": 2.0})
    assert own["test"] == {} and own["seconds"] == {}


def test_two_arms_on_one_seed_train_on_the_same_draw() -> None:
    family = FAMILIES["wrong labels"]
    asked = evidence_families.asked_of(family, next(iter(family["tasks"])))
    asked["set"]["train.steps"] = 3
    base, drops = family["arms"]["labels alone"], {"changes": ["oversampled"], "set": {"problem.name": "none"}}
    assert measured(asked, base, {}, 5)["test"] == measured(asked, drops, {"own.power": 0.0}, 5)["test"]


def told(task: str, arms: dict[str, tuple[str, float, list[float]]]) -> dict[str, Any]:
    return {"task": task, "tuned_on": None, "arms": {
        name: {"asked": {"kind": kind}, "search": [], "seconds": {}, "chosen": {"set": {}, "validation": validation},
               "test": {str(seed): value for seed, value in enumerate(values)}}
        for name, (kind, validation, values) in arms.items()
    }}  # fmt: skip


def test_the_objective_is_chosen_on_validation_rows_and_compared_with_every_other_arm() -> None:
    base = [10.0 + seed for seed in range(10)]
    better = [value - 1.5 - 0.1 * seed for seed, value in enumerate(base)]
    found = told("a", {"base": ("base", 5.0, base), "rival": ("rival", 4.0, base[::-1]),
                       "worse": ("objective", 3.0, better), "lucky": ("objective", 3.5, [0.0] * 10)})  # fmt: skip
    comparisons = tables.compared([found])
    assert [one.arm for one in comparisons] == ["base", "rival"]
    zero = {"zero hypergradient": ("control", 9.0, base)}
    two = [told(task, {"base": ("base", 5.0, base), "worse": ("objective", 3.0, better), **zero}) for task in "ab"]
    assert (
        "| worse | " in tables.means_table(two)
        and "-1.95 (" in tables.means_table(two)
        and not tables.means_table(two[:1])
    )
    first = comparisons[0]
    assert first.pairs.mean == pytest.approx(-1.95) and first.p == pytest.approx(2 / 1024)
    assert first.corrected == pytest.approx(4 / 1024) and first.won and not comparisons[1].won


def test_the_pages_tables_are_those_of_what_was_measured() -> None:
    page = evidence_families.PAGE.read_text()
    found = tables.measured_tasks(FAMILIES, evidence_families.RESULTS)
    assert tables.between(page, tables.summaries(found)) == page
    assert sum(len(tasks) for tasks in found.values()) > 3


def test_weights_that_stay_train_as_a_hypergradient_of_zero_does() -> None:
    family = FAMILIES["wrong labels"]
    asked = evidence_families.asked_of(family, next(iter(family["tasks"])))
    asked["set"]["train.steps"] = 5
    stays, zero = {"set": {"problem.name": "zero_hyper_cleaning"}}, {"set": {"problem.weight": 0}}
    assert measured(asked, stays, {}, 5)["test"] == measured(asked, zero, {}, 5)["test"]


def test_gold_loss_correction_sees_through_a_rule_that_spoils_labels() -> None:
    """All of class 0's labels but the trusted ones say 1, and half of class 1's say 2: the table undoes it."""
    rng = np.random.default_rng(1)
    truth = np.arange(180) % 3
    rows = torch.tensor(rng.normal(size=(180, 2)) + 8.0 * np.stack([truth == 1, truth == 2], 1), dtype=torch.float32)
    given = truth.copy()
    given[truth == 0] = 1
    given[(truth == 1) & (np.arange(180) % 2 == 1)] = 2
    given[:9] = truth[:9]
    pool = Pool(rows, torch.tensor(given), torch.arange(180))
    data = TaskData(pool, pool, pool, pool, "blobs", clean=torch.tensor(truth), trusted=torch.arange(9))
    found = rivals.gold_loss_correction(data, 0, 1e-3)(pool).argmax(1)
    assert (found == truth).mean() > 0.97 > (given == truth).mean() + 0.3


def test_doubts_are_of_the_rows_that_are_trained_on_and_sure_of_the_trusted_ones() -> None:
    data, wrong = noisy_blobs()
    twice = rivals.trusted_twice(data, 0)
    logits = rivals.doubts(twice, 0)["logits"]
    assert logits.shape == (len(data.labelled),) and bool((logits[:6] == logits.max()).all())
    assert float(logits[torch.from_numpy(wrong)].max()) < float(logits[torch.from_numpy(~wrong)].min())


def test_settings_that_are_added_leave_what_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def run(found: Any, arm: str, point: Any, seed: int) -> dict[str, float]:
        calls.append((point["x"], seed))
        return {"validation": point["x"], "test": 0.0, "seconds": 0.0}

    monkeypatch.setattr(evidence_families, "run", run)
    found = {"arms": {"one": {"asked": {}, "search": [], "chosen": None, "test": {}, "seconds": {}}}}
    list(evidence_families.search(found, [1, 2], {"one": [{"x": 3.0}]}))
    list(evidence_families.search(found, [1, 2], {"one": [{"x": 2.0}, {"x": 3.0}]}))
    assert calls == [(3.0, 1), (3.0, 2), (2.0, 1), (2.0, 2)] and found["arms"]["one"]["chosen"]["set"] == {"x": 2.0}
