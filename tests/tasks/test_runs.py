"""Every image and landmark task trains from a recipe, with the bilevel step, on data made here; what is missing exits 3."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from metaimpute.cli import main
from metaimpute.tasks import fashion_mnist

from .. import fake_data

RECIPE = """\
about: {{title: small}}
task: {task}
model: {model}
method: {{name: {method}}}
problem: {{name: l2i, inner: {{lr: 0.01}}, holdout: {holdout}}}
train: {{steps: 2, batch: 4, unlabelled_batch: 4, optimizer: {{name: sgd, lr: 0.001}}, eval_every: 1, threads: 1}}
"""
SMALL = "{name: cnn, width: 2}"
FACES = "{name: tcdcn, hidden: 8}"
CASES: list[tuple[Any, str, str, str]] = [
    (fake_data.make_cifar10, "{name: cifar10, labels: 20, validation: 10}", SMALL, "fixmatch"),
    (fake_data.make_cifar100, "{name: cifar100, labels: 200, validation: 100}", SMALL, "mean_teacher"),
    (fake_data.make_fashion_mnist, "{name: fashion_mnist, labels: 20, validation: 10}", SMALL, "fixmatch"),
    (fake_data.make_image_folder, "{name: image_folder, folder: images, labels: 6, size: 16}", SMALL, "fixmatch"),
    (lambda f: fake_data.make_image_folder(f, name="imagenet-72"), "{name: imagenet72, label_share: 0.25}",
     "{name: resnet26, width: 2}", "fixmatch"),
    (fake_data.make_tiny_imagenet, "{name: tiny_imagenet, label_share: 0.25}", SMALL, "mean_teacher"),
    (fake_data.make_mtfl, "{name: mtfl, label_share: 0.3, validation: 4}", FACES, "mean_teacher"),
    (fake_data.make_aflw, "{name: aflw, label_share: 0.3, validation: 4, flip: true}", FACES, "pseudo_label"),
]  # fmt: skip
NAMES = [task.split("name: ")[1].split(",")[0] for _, task, _, _ in CASES]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No data but what the test makes."""
    monkeypatch.setenv("METAIMPUTE_DATA", str(tmp_path / "here"))
    monkeypatch.setenv("METAIMPUTE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fashion_mnist, "SYSTEM", ())
    monkeypatch.chdir(tmp_path)
    return tmp_path / "here"


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def write(task: str, model: str, method: str, holdout: str = "joint") -> None:
    Path("r.yaml").write_text(RECIPE.format(task=task, model=model, method=method, holdout=holdout))


@pytest.mark.parametrize(("make", "task", "model", "method"), CASES, ids=NAMES)
def test_a_recipe_trains_and_without_its_data_exits_3(
    make: Any, task: str, model: str, method: str, here: Path
) -> None:
    write(task, model, method, "separate")
    for command in (("run", "r.yaml"), ("check", "r.yaml")):
        missing = call(*command)
        assert missing.exit_code == 3 and str(here) in missing.output and "Traceback" not in missing.output
    make(here)
    assert call("check", "r.yaml").stdout == "r.yaml [sample]: valid\n"
    done = call("run", "r.yaml", "--out", "out")
    assert done.exit_code == 0, done.output
    result = json.loads(Path("out/result.json").read_text())
    faces = "tcdcn" in model
    assert result["metric"] == ("landmark error %" if faces else "error %")
    assert result["test_last"] >= 0 and result["evaluations"][-1]["test_error"] == result["test_last"]
    assert set(result["test_measures"]) == ({"failure_rate"} if faces else set())
    if faces:
        rates = [e["test_failure_rate"] for e in result["evaluations"]]
        assert result["test_measures"]["failure_rate"] == {"last": rates[-1], "median": sum(rates) / 2}
        assert "test failure rate" in done.output and "validation_failure_rate" in result["evaluations"][0]


def test_impossible_options_name_the_key(here: Path) -> None:
    fake_data.make_tiny_imagenet(here)
    write("{name: tiny_imagenet, labels: 4}", SMALL, "fixmatch")
    done = call("run", "r.yaml")
    assert done.exit_code == 2 and "r.yaml:2: task.labels: 4 cannot be spread evenly over 3 classes" in done.output
    write("{name: mtfl}", FACES, "fixmatch")
    assert "fixmatch takes the arg max of class probabilities" in call("check", "r.yaml").output
    write("{name: aflw, label_share: 2}", FACES, "mean_teacher")
    assert "task.label_share: should be less than or equal to 1" in call("check", "r.yaml").output
    write("{name: tiny_imagenet, label_share: 0.01}", SMALL, "fixmatch", "separate")
    done = call("run", "r.yaml")
    assert done.exit_code == 2 and "problem.holdout: separate needs at least 2 labels per class" in done.output


@pytest.mark.parametrize("name", ["mtfl", "aflw", "imagenet72", "tiny_imagenet"])
def test_data_that_cannot_be_downloaded_comes_with_instructions(name: str, here: Path) -> None:
    done = call("data", "get", name)
    assert done.exit_code == 3 and str(here) in done.output and " get " in done.output
    assert f"{name}: not here; by hand" in call("data", "status").output


@pytest.mark.parametrize(
    ("name", "kind", "make"),
    [
        ("cifar10", "CIFAR10", fake_data.make_cifar10), ("cifar100", "CIFAR100", fake_data.make_cifar100),
        ("fashion_mnist", "FashionMNIST", fake_data.make_fashion_mnist),
    ],
)  # fmt: skip
def test_torchvision_downloads_into_the_cache(
    name: str, kind: str, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(root: str, download: bool) -> None:
        raise ConnectionError("no network here\nmore")

    monkeypatch.setattr(f"torchvision.datasets.{kind}", offline)
    done = call("data", "get", name)
    assert done.exit_code == 3 and "home page (ConnectionError: no network here); put" in done.output
    monkeypatch.setattr(f"torchvision.datasets.{kind}", lambda root, download: make(Path(root)))
    done = call("data", "get", name)
    assert done.exit_code == 0 and str(tmp_path / "cache") in done.output
    assert str(tmp_path / "cache") in call("data", "status").output
