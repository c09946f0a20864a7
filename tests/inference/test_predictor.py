"""A finished run predicts from its folder alone: the same numbers, by name, with honest confidences."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import metaimpute
from metaimpute import recipes
from metaimpute.batches.outputs import Classes, Values
from metaimpute.cli import main
from metaimpute.inference import Predictions, Predictor, impute
from metaimpute.inference.predictor import NotExported
from metaimpute.tasks.base import TaskError
from metaimpute.tasks.contents import contents_in
from metaimpute.tasks.own_text import OwnText
from metaimpute.training.evaluation import calibration, confusion, outcome
from metaimpute.training.evaluation import predictions as raw_outputs
from metaimpute.training.session import Session

RECIPES = Path(__file__).parents[2] / "recipes"
SMALL = ("train.steps=6", "train.eval_every=3", "train.log_every=1", "train.threads=1")
FACES = ("task.faces=60", "task.validation=10", "task.label_share=0.2", "train.batch=4", "train.unlabelled_batch=4")


def trained(name: str, folder: Path, *sets: str) -> Session:
    session = Session(recipes.load(RECIPES / name, "sample", (*SMALL, *sets)), folder, say=lambda message: None)
    session.run()
    return session


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Session]:
    folder = tmp_path_factory.mktemp("moons") / "run"
    return folder, trained("two_moons.yaml", folder)


def command(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, list(map(str, arguments)))
    return done.exit_code, done.output


# calibration ---------------------------------------------------------------------------------------------------------


def test_calibration_of_a_hand_computed_case() -> None:
    """Confidences .95, .95 (one right), .65 (wrong), .5 (right; the top edge of its bin): ECE = mean gap weighted by count."""
    p = torch.tensor([[0.95, 0.05], [0.05, 0.95], [0.65, 0.35], [0.5, 0.5]], dtype=torch.float64)
    found = calibration(p, torch.tensor([0, 0, 1, 0]), bins=10)
    assert found["ece"] == pytest.approx((2 * abs(0.5 - 0.95) + 0.65 + 0.5) / 4, abs=1e-12)
    assert [b["count"] for b in found["bins"]] == [1, 1, 2]
    assert found["bins"][2] == {"confidence": pytest.approx(0.95), "accuracy": 0.5, "count": 2}
    assert calibration(torch.eye(3), torch.arange(3))["ece"] == 0.0, "certain and right"
    assert calibration(torch.eye(3), torch.tensor([1, 2, 0]))["ece"] == 1.0, "certain and wrong"


def test_confusion_counts_rows_by_truth() -> None:
    assert confusion(torch.tensor([0, 2, 2, 1]), torch.tensor([0, 1, 2, 1]), 3) == [[1, 0, 0], [0, 1, 1], [0, 0, 1]]


def test_a_result_holds_calibration_and_confusion_of_the_evaluated_network(run: tuple[Path, Session]) -> None:
    folder, session = run
    result = json.loads((folder / "result.json").read_text())
    matrix = torch.tensor(result["confusion"])
    wrong = 100 * (1 - matrix.diagonal().sum() / matrix.sum())
    assert float(wrong) == pytest.approx(result["test_last"], abs=1e-4), "the same network as the error's"
    assert sum(b["count"] for b in result["calibration"]["bins"]) == len(session.data.test)
    empty = session.data.test.subset(torch.arange(0))
    assert outcome(session.module, session.task, empty, 8, session.device) == {}


# load ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("averaged", [True, False])
def test_a_loaded_network_is_the_one_that_was_evaluated(tmp_path: Path, averaged: bool) -> None:
    session = trained("digits_mean_teacher.yaml", tmp_path / "run", f"train.ema={'0.9' if averaged else 'null'}")
    loaded = metaimpute.load(tmp_path / "run")
    pool = session.data.test
    expected = raw_outputs(session.evaluated_module(), session.task, pool, 256, session.device)
    assert torch.equal(loaded.raw(pool), expected)
    assert not averaged or not torch.equal(
        raw_outputs(session.module, session.task, pool, 256, session.device), expected
    )
    assert not loaded.module.training
    torch.testing.assert_close(loaded.predict_proba(pool).sum(1), torch.ones(len(pool)))


def test_loading_runs_no_code_from_the_folder(run: tuple[Path, Session]) -> None:
    names = {path.name for path in run[0].iterdir() if path.is_file()}
    assert names <= {
        "begun.json",
        "labels.jsonl",
        "metrics.jsonl",
        "model.safetensors",
        "recipe.resolved.yaml",
        "result.json",
        "run.lock",
        "task.json",
        "tested.json",
    }


@pytest.mark.parametrize("damage", ["empty", "half", "foreign"])
def test_damaged_weights_are_named(run: tuple[Path, Session], tmp_path: Path, damage: str) -> None:
    import shutil

    from safetensors.torch import save_file

    folder = tmp_path / "copy"
    shutil.copytree(run[0], folder)
    weights = folder / "model.safetensors"
    if damage == "foreign":
        save_file({"a": torch.ones(2)}, str(weights))
    else:
        weights.write_bytes(weights.read_bytes()[: 0 if damage == "empty" else 200])
    with pytest.raises(NotExported, match=r"model\.safetensors cannot be read \("):
        metaimpute.load(folder)


def test_what_is_no_finished_run_is_said(tmp_path: Path, run: tuple[Path, Session]) -> None:
    code, said = command("impute", tmp_path)
    assert code == 2 and "is not a run directory" in said
    (tmp_path / "recipe.resolved.yaml").write_text((run[0] / "recipe.resolved.yaml").read_text())
    code, said = command("impute", tmp_path)
    assert code == 2 and "holds no trained network" in said and "--resume" in said
    code, said = command("predict", run[0], RECIPES)
    assert code == 2 and "task 'two_moons' has no reader" in said


# impute --------------------------------------------------------------------------------------------------------------


def test_impute_labels_every_unlabelled_row_with_the_networks_answer(run: tuple[Path, Session], tmp_path: Path) -> None:
    folder, session = run
    out = tmp_path / "new" / "labels.csv"
    code, said = command("impute", folder, "--out", out)
    assert code == 0 and f"wrote {len(session.data.unlabelled):,} labels" in said, said
    with out.open() as stream:
        rows = list(csv.DictReader(stream))
    raw = raw_outputs(session.evaluated_module(), session.task, session.data.unlabelled, 256, session.device)
    assert [int(row["label"]) for row in rows] == raw.argmax(1).tolist()
    assert [row["id"] for row in rows] == [str(i) for i in session.data.unlabelled.ids.tolist()]
    assert [float(row["confidence"]) for row in rows] == pytest.approx(
        raw.double().softmax(1).max(1).values.tolist(), rel=1e-5
    )


def test_labelled_rows_are_not_labelled_again(tmp_path: Path) -> None:
    session = trained("two_moons.yaml", tmp_path / "run", "task.unlabelled_includes_labelled=true")
    given = {str(number) for number in session.data.labelled.ids.tolist()}
    found, _ = impute(tmp_path / "run")
    assert given <= {str(number) for number in session.data.unlabelled.ids.tolist()} and not given & set(found.ids)
    assert len(found) == len(session.data.unlabelled) - len(given)


def test_a_threshold_leaves_out_what_is_less_probable_and_says_so(run: tuple[Path, Session], tmp_path: Path) -> None:
    found, _ = impute(run[0])
    assert found.confidence is not None
    least = float(found.confidence.median())
    code, said = command("impute", run[0], "--out", tmp_path / "l.csv", "--min-confidence", least)
    kept = (tmp_path / "l.csv").read_text().splitlines()[1:]
    assert code == 0 and len(kept) == int((found.confidence >= least).sum()) and "left out" in said


def test_error_against_held_back_truth(run: tuple[Path, Session], tmp_path: Path) -> None:
    pool = run[1].data.unlabelled
    truth = tmp_path / "truth.csv"
    assert pool.targets is not None
    pairs = [f"{i},{t}" for i, t in zip(pool.ids.tolist(), pool.targets.tolist(), strict=True)]
    truth.write_text("\n".join(["id,label", *pairs[:50], f"{pool.ids[50]},", "unknown,1"]))
    raw = raw_outputs(run[1].evaluated_module(), run[1].task, pool, 256, run[1].device)
    wrong = 100 * (raw.argmax(1)[:50] != pool.targets[:50]).double().mean()
    code, said = command("impute", run[0], "--out", tmp_path / "l.csv", "--truth", truth)
    assert code == 0 and f"{float(wrong):.2f}% of 50 labels" in said, said
    truth.write_text("id,labels\n1,2\n")
    code, said = command("impute", run[0], "--out", tmp_path / "l.csv", "--truth", truth)
    assert code == 2 and "has no column 'label'" in said and "labels" in said


def test_values_come_in_their_own_units_with_a_spread(tmp_path: Path) -> None:
    session = trained("aflw_mean_teacher.yaml", tmp_path / "run", *FACES)
    found, predictor = impute(tmp_path / "run")
    assert isinstance(predictor, Predictor) and found.values is not None and found.spread is not None
    rows = session.data.unlabelled
    rows = rows.subset((~torch.isin(rows.ids, session.data.labelled.ids)).nonzero()[:, 0])
    raw = raw_outputs(session.evaluated_module(), session.task, rows, 64, session.device)
    torch.testing.assert_close(found.values, session.task.output.original(raw))  # type: ignore[attr-defined]
    assert float(found.spread.min()) > 0
    code, said = command("impute", tmp_path / "run", "--min-confidence", 0.5)
    assert code == 2 and "values have no confidence" in said


# the table -----------------------------------------------------------------------------------------------------------


def table(**changes: Any) -> Predictions:
    given = {
        "ids": ["a", "b", "c"],
        "names": ["cat", "dog"],
        "probabilities": torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.5, 0.5]]),
    }
    return Predictions(**(given | changes))


def test_rows_of_classes_and_of_values() -> None:
    found = table()
    assert found.header == [
        "id", "label", "confidence", "rank", "runner_up", "runner_up_confidence", "doubtful", "p(cat)", "p(dog)",
    ]  # fmt: skip
    assert [row[:7] for row in found.rows()] == [
        ["a", "cat", pytest.approx(0.9), 3, "dog", pytest.approx(0.1), False],
        ["b", "dog", pytest.approx(0.6), 2, "cat", pytest.approx(0.4), True],
        ["c", "cat", 0.5, 1, "dog", 0.5, True],
    ]
    assert found.brief(2)[1] == [["a", "cat", pytest.approx(0.9), "dog"], ["b", "dog", pytest.approx(0.6), "cat"]]
    assert found.counts() == {"cat": 2, "dog": 1}
    spread = torch.tensor([[1.0], [2.0], [3.0]])
    one = table(names=["price"], probabilities=None, values=torch.tensor([[1.5], [2.0], [3.0]]), spread=spread)
    assert one.header == ["id", "value", "value_spread", "rank", "doubtful"]
    assert one.rows()[0] == ["a", 1.5, 1.0, 3, False]
    with pytest.raises(TaskError, match="values were predicted"):
        _ = one.labels


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_files_read_back_with_what_a_spreadsheet_would_mangle(tmp_path: Path, suffix: str) -> None:
    pandas = pytest.importorskip("pandas")
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    found = table(ids=['x,1 "q"', "été/ü.png", "line\nbreak"])
    found.write(tmp_path / f"t{suffix}")
    read = pandas.read_csv if suffix == ".csv" else pandas.read_parquet
    back = read(tmp_path / f"t{suffix}")
    assert back["id"].tolist() == found.ids and back["label"].tolist() == found.labels
    with pytest.raises(TaskError, match=r"\.csv or \.parquet"):
        found.write(tmp_path / "t.xlsx")


def test_truth_of_values_is_compared_in_their_own_units(tmp_path: Path) -> None:
    found = table(names=["y"], probabilities=None, values=torch.tensor([[1.0], [2.0], [3.0]]))
    truth = tmp_path / "truth.csv"
    truth.write_text("id,value\na,1\nb,5\n")
    assert found.against(truth, Values(1)) == (pytest.approx((9 / 2) ** 0.5), 2)
    truth.write_text("id;value\na;1,0\nb;5,0\nc;\n")
    assert found.against(truth, Values(1)) == (pytest.approx((9 / 2) ** 0.5), 2), "a decimal comma"
    truth.write_text("id,value\na,one\n")
    with pytest.raises(TaskError, match=r"truth\.csv: could not convert"):
        found.against(truth, Values(1))
    truth.write_text("id,label\nz,cat\n")
    with pytest.raises(TaskError, match="names none of these rows; their ids look like 'a'"):
        table().against(truth, Classes(2))


# data that changes ---------------------------------------------------------------------------------------------------

TABLE = """
task: {name: own_table, file: DATA, target: y, test_share: 0.2}
model: {name: mlp, width: 8}
method: {name: fixmatch}
train: {steps: 6, batch: 4, unlabelled_batch: 8, checkpoint_every: 2, threads: 1}
"""


def a_table(folder: Path) -> Path:
    """A table of two numbers and a word, half of it labelled, and its recipe."""
    lines = [f"{i % 7}.5,{i % 3},{'red' if i % 2 else 'blue'},{'' if i % 4 > 1 else 'ab'[i % 2]}" for i in range(40)]
    (folder / "t.csv").write_text("\n".join(["p,q,colour,y", *lines]))
    (folder / "t.yaml").write_text(TABLE.replace("DATA", str(folder / "t.csv")))
    return folder / "t.csv"


@pytest.mark.parametrize("change", [("0.5,0,", "0.25,0,"), ("red", "green"), ("blue,a", "blue,b")])
def test_a_table_that_has_changed_is_neither_imputed_nor_resumed(tmp_path: Path, change: tuple[str, str]) -> None:
    """Its preprocessing would be fitted anew, and the network fed with other inputs than it has learnt from."""
    table = a_table(tmp_path)
    code, said = command("run", tmp_path / "t.yaml", "--out", tmp_path / "run")
    assert code == 0, said
    assert command("impute", tmp_path / "run")[0] == 0
    before = (tmp_path / "run" / "labels.csv").read_text()
    table.write_text(table.read_text().replace(*change, 1))
    code, said = command("impute", tmp_path / "run")
    assert (
        code == 2 and "the data has changed since" in said and "label it as it is now with metaimpute predict" in said
    )
    code, said = command("run", "--resume", tmp_path / "run")
    assert code == 2 and "the checkpoint was made on t.csv" in said, said
    assert (tmp_path / "run" / "labels.csv").read_text() == before
    assert command("predict", tmp_path / "run", table)[0] == 0


def test_loading_leaves_the_callers_generator_as_it_was(run: tuple[Path, Session]) -> None:
    before = torch.random.get_rng_state()
    metaimpute.load(run[0])
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_folder_that_wants_to_run_code_does_not(run: tuple[Path, Session], tmp_path: Path) -> None:
    """A pickle in a checkpoint's place, a tag in the recipe, a pickle in the preprocessing's place: each is refused."""
    import pickle
    import shutil

    mark = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (mark,)

    folder = tmp_path / "run"
    shutil.copytree(run[0], folder)
    for path in (folder / "checkpoints").iterdir():
        path.write_bytes(pickle.dumps(Evil()))
    assert command("run", "--resume", folder)[0] == 2
    (folder / "model.safetensors").write_bytes(pickle.dumps(Evil()))
    assert command("impute", folder)[0] == 2
    (folder / "recipe.resolved.yaml").write_text(f"task: !!python/object/apply:pathlib.Path.touch [{mark}]\n")
    assert command("impute", folder)[0] == 2
    a_table(tmp_path)
    assert command("run", tmp_path / "t.yaml", "--out", tmp_path / "table")[0] == 0
    (tmp_path / "table" / "inputs.skops").write_bytes(pickle.dumps(Evil()))
    assert command("impute", tmp_path / "table")[0] == 2
    assert not mark.exists()


@pytest.mark.parametrize(
    "content", ["\ufeffid;label\n01;cat\n1;dog\n".encode(), b"id,label\r\n01,cat\r\n1,dog\r\n", b"id\tlabel\n01\tcat\n1\tdog\n"]
)  # fmt: skip
def test_truth_is_read_as_any_table_and_its_ids_as_text(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "truth.csv").write_bytes(content)
    assert table(ids=["01", "1", "c"]).against(tmp_path / "truth.csv", Classes(2)) == (0.0, 2)


def test_truth_that_cannot_be_read_is_named_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_bytes(b"\x00\xff\xfe\x81\n\x8d")
    with pytest.raises(TaskError) as said:
        table().against(tmp_path / "truth.csv", Classes(2))
    assert "truth.csv" in str(said.value) and "\n" not in str(said.value)


def test_true_labels_that_are_no_class_are_named(tmp_path: Path) -> None:
    truth = tmp_path / "truth.csv"
    truth.write_text("id,label\na,cat\nb,Dog\nc,Cat\n")
    assert table().against(truth, Classes(2)) == (pytest.approx(200 / 3), 3)
    assert table().strangers(truth) == ["Dog", "Cat"]
    truth.write_text("id,label\na,Cat\nb,Dog\n")
    with pytest.raises(TaskError, match="no label is a class .*: 'Cat', 'Dog'; its classes are 'cat', 'dog'"):
        table().against(truth, Classes(2))


def test_labels_that_are_no_class_are_counted_and_said(run: tuple[Path, Session], tmp_path: Path) -> None:
    ids = run[1].data.unlabelled.ids.tolist()
    truth = tmp_path / "truth.csv"
    truth.write_text(f"id,label\n{ids[0]},0\n{ids[1]},upper\n{ids[2]},lower\n{ids[3]},lower\n")
    code, said = command("impute", run[0], "--out", tmp_path / "l.csv", "--truth", truth)
    assert code == 0 and "3 of 4 true labels are no class of this network: 'upper', 'lower'" in said, said


def test_values_are_summed_up(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from metaimpute.cli.predict import _finish

    one = table(names=["price"], probabilities=None, values=torch.tensor([[1.5], [2.0], [4.0]]))
    _finish(one, None, tmp_path / "one.csv", None, None)  # type: ignore[arg-type]
    assert "values: 3, mean 2.5, from 1.5 to 4\n" in capsys.readouterr().out
    names = [f"v{n}" for n in range(12)]
    many = table(names=names, probabilities=None, values=torch.arange(36.0).view(3, 12))
    _finish(many, None, tmp_path / "many.csv", None, None)  # type: ignore[arg-type]
    said = capsys.readouterr().out
    assert "v9: 3, mean 21, from 9 to 33\nand 2 more values of each row\n" in said and "v10" not in said


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_labels_cut_short_leave_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    old = tmp_path / f"t{suffix}"
    old.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        table().write(old)
    assert old.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == [old.name]


def test_what_is_strange_in_a_file_to_predict_is_said(tmp_path: Path) -> None:
    table = a_table(tmp_path)
    assert command("run", tmp_path / "t.yaml", "--out", tmp_path / "run")[0] == 0
    (tmp_path / "new.csv").write_text("p,q,colour\n1.5,1,violet\nmany,0,red\n2.5,2,blue\n")
    code, said = command("predict", tmp_path / "run", tmp_path / "new.csv")
    assert code == 0 and "violet" in said and "warning: " in said and "'p'" in said, said
    code, said = command("predict", tmp_path / "run", table)
    assert code == 0 and "warning: " not in said


def test_truth_is_of_the_class_that_equals_its_number_and_names_a_row_once(tmp_path: Path) -> None:
    found = Predictions(["a", "b", "c"], ["0.0", "1.0", "07"], torch.eye(3))
    truth = tmp_path / "truth.csv"
    truth.write_text("id,label\na,0\nb,1\nc,7\nb,1.0\n")
    assert found.against(truth, Classes(3)) == (pytest.approx(100 / 3), 3) and found.strangers(truth) == ["7"]
    truth.write_text("id,label\na,0\nb,1\nb,0\n")
    with pytest.raises(TaskError, match=r"truth\.csv: 'b' has two truths, in lines 3 and 4 of truth\.csv"):
        found.against(truth, Classes(3))


def test_rows_without_text_get_no_label_and_are_told(tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    path.write_text('text\nfine words\n"  "\nmore words\n')
    task = OwnText(file=str(path))
    names, texts = task.read(path)
    assert (names, texts) == (["0", "2"], ["fine words", "more words"]) and task.read_warnings == [
        "left out 1 row without text"
    ]
    assert contents_in(task, path, names).rows == [["fine words"], ["more words"]]


def test_truth_finds_rows_whose_numbers_a_spreadsheet_gave_decimals(run: tuple[Path, Session], tmp_path: Path) -> None:
    truth = tmp_path / "truth.csv"
    code, said = command("impute", run[0], "--out", tmp_path / "l.csv")
    assert code == 0, said
    first = (tmp_path / "l.csv").read_text().splitlines()[1].split(",")
    truth.write_text(f"id,label\n{first[0]}.0,{first[1]}\n")
    code, said = command("impute", run[0], "--out", tmp_path / "l.csv", "--truth", truth)
    assert code == 0 and "0.00% of 1 labels" in said, said


def test_where_no_label_is_left_there_is_none_to_compare(run: tuple[Path, Session], tmp_path: Path) -> None:
    truth = tmp_path / "truth.csv"
    truth.write_text("id,label\n0,1\n")
    code, said = command("impute", run[0], "--out", tmp_path / "l.csv", "--truth", truth, "--min-confidence", "1")
    assert code == 0 and "no label is left to compare with" in said and "below confidence 1" in said, said
