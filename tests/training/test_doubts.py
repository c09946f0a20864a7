"""What a finished run says of itself: a mask that never opened, one class for all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from metaimpute.cli import main
from metaimpute.reporting.console import result_table
from metaimpute.training.alarms import Alarms
from metaimpute.training.evaluation import balanced_accuracy, one_class_for_all

from ..fake_data import write_csv

RECIPE = """\
task: {name: own_table, file: t.csv, test: test.csv, target: y}
model: {name: mlp, width: 4}
method: {name: fixmatch, threshold: THRESHOLD}
problem: {name: none}
train: {steps: 4, batch: 4, unlabelled_batch: 8, eval_every: 2, log_every: 1, checkpoint_every: 2, threads: 1, optimizer: {name: sgd, lr: 1.0e-6}}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Noise with nine of ten rows in one class."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    for name, labelled in (("t.csv", 40), ("test.csv", 60)):
        count = 90 if name == "t.csv" else 60
        values = torch.randn(count, 2).tolist()
        rows = [
            {"a": a, "b": b, "y": ("no" if i % 10 else "yes") if i < labelled else ""}
            for i, (a, b) in enumerate(values)
        ]
        write_csv(tmp_path / name, rows)  # type: ignore[arg-type]
    return tmp_path


def run(threshold: float, *more: str) -> tuple[str, dict[str, object]]:
    Path("r.yaml").write_text(RECIPE.replace("THRESHOLD", str(threshold)))
    done = CliRunner().invoke(main, ["run", "r.yaml", "--out", f"r{threshold}", *more])
    assert done.exit_code == 0, done.output
    return done.output, json.loads(Path(f"r{threshold}/result.json").read_text())


def test_a_mask_that_never_opened_is_said(here: Path) -> None:
    said, result = run(0.999)
    line = "no imputed label was as sure as method.threshold (0.999) in any of the 4 measured steps"
    assert f"warning: {line}" in said and any(line in text for text in result["warnings"])  # type: ignore[attr-defined]
    said, result = run(0.1)
    assert "method.threshold" not in said
    assert CliRunner().invoke(main, ["report", "r0.999"]).exit_code == 0
    assert "as sure as method.threshold" in Path("r0.999/report.html").read_text()


def test_what_a_mask_did_before_a_pause_counts() -> None:
    first = Alarms(0.1, None, "", 0.95)
    assert first.look({"mask_rate": 0.5}, False) == []
    second = Alarms(0.1, None, "", 0.95)
    second.load_state(first.state())
    assert second.look({"mask_rate": 0.0}, True) == []
    older = Alarms(0.1, None, "", 0.95)
    older.load_state({name: value for name, value in first.state().items() if name not in ("opened", "masks_seen")})
    assert older.look({"mask_rate": 0.0}, True) == [], "a checkpoint that does not tell gives no cause"
    assert Alarms(0.1, None, "", None).look({"mask_rate": 0.0}, True) == []


def test_one_class_for_all_is_said_with_the_balanced_accuracy_beside_the_error(here: Path) -> None:
    said, result = run(
        0.5, "--set", "train.steps=60", "--set", "train.optimizer={name: sgd, lr: 0.05}", "--set", "task.ignore=[a]"
    )
    assert result["test_last"] == pytest.approx(10.0) and result["balanced_accuracy"] == 50.0
    assert "warning: the network says 'no' of every test example" in said
    assert "balanced accuracy, the mean over classes, 50%" in " ".join(said.split())
    assert "balanced accuracy %" in said
    assert CliRunner().invoke(main, ["report", "r0.5"]).exit_code == 0
    assert "balanced accuracy %" in Path("r0.5/report.html").read_text()


def test_balanced_accuracy_is_the_mean_recall_of_the_classes_that_occur() -> None:
    labels, targets = torch.tensor([0, 0, 0, 1, 2]), torch.tensor([0, 0, 1, 1, 1])
    assert balanced_accuracy(labels, targets) == pytest.approx(100 * (1 + 1 / 3) / 2)
    assert one_class_for_all({}, None) == []
    assert one_class_for_all({"predicted_classes": [1], "balanced_accuracy": 100.0}, None) == [], (
        "the test set has no other"
    )
    assert "says '1' of" in one_class_for_all({"predicted_classes": [1], "balanced_accuracy": 50.0}, None)[0]


def test_even_classes_have_no_second_accuracy() -> None:
    from ..reporting.made import result_with

    console = Console(record=True, width=120)
    console.print(result_table([[result_with(balanced_accuracy=80.5)]]))
    console.print(result_table([[result_with(balanced_accuracy=60.0)]]))
    assert console.export_text().count("balanced accuracy %") == 1
