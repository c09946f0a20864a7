"""Every recipe trains: its ``sample`` profile for three steps, its ``paper`` profile for one with the paper's network.

Data are made here in their canonical form; overrides change sizes alone, and FixMatch's threshold, which an untrained
network does not reach. BERT is a narrow one of twelve layers under BERT-base's name; that the class asks for BERT-base's
sizes is tested beside it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from metaimpute import recipes
from metaimpute.cli import main
from metaimpute.models.bert import MINILM_PACKAGE, BertBase
from metaimpute.recipes.profiles import profiles_of
from metaimpute.recipes.source import read
from metaimpute.training.session import Session

from . import fake_data

FOLDER = Path(__file__).parents[1] / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))
HAS_PAPER = [path for path in RECIPES if "paper" in profiles_of(read(path))]

SIZES: dict[str, tuple[str, ...]] = {  # what the small data sets below can meet
    "aflw": ("task.label_share=0.3", "task.validation=4"),
    "mtfl": ("task.label_share=0.3", "task.validation=4"),
    "drawn_faces": ("task.faces=60", "task.validation=20"),
    "cifar10": ("task.labels=20", "task.validation=10"),
    "cifar100": ("task.labels=100", "task.validation=100"),
    "fashion_mnist": ("task.labels=20", "task.validation=10"),
    "imagenet72": (),
    "tiny_imagenet": ("task.label_share=0.25", "task.validation=3"),
    "imdb": ("task.unlabelled=16",),
    "digits": (),
    "two_moons": (),
    "sinusoid": (),
    "few_shot_digits": (),
    "own_images": (),
    "own_text": (),
    "own_table": (),
}


def make_bert(folder: Path) -> None:
    """``bert-base-uncased/`` as transformers saves it: twelve layers, narrow, random weights, a vocabulary of the fake words."""
    transformers = pytest.importorskip("transformers")
    target = folder / "bert-base-uncased"
    target.mkdir()
    letters = [chr(c) for c in range(97, 123)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *fake_data.WORDS, *letters, *("##" + c for c in letters)]
    (target / "vocab.txt").write_text("\n".join(dict.fromkeys(words)) + "\n")
    transformers.BertTokenizerFast(str(target / "vocab.txt")).save_pretrained(target)
    config = transformers.BertConfig(
        hidden_size=24, num_attention_heads=12, intermediate_size=48, vocab_size=len(words)
    )
    transformers.BertModel(config).save_pretrained(target)


@pytest.fixture(scope="session")
def all_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small version of every data set that a recipe names."""
    folder = tmp_path_factory.mktemp("data")
    fake_data.make_aflw(folder)
    fake_data.make_mtfl(folder)
    fake_data.make_cifar10(folder)
    fake_data.make_cifar100(folder)
    fake_data.make_fashion_mnist(folder)
    fake_data.make_image_folder(folder, name="imagenet-72")
    fake_data.make_tiny_imagenet(folder)
    fake_data.make_tiny_imagenet(folder, name="tiny-imagenet-20")
    fake_data.make_imdb(folder)
    fake_data.make_own_images(folder)
    fake_data.make_own_text(folder)
    fake_data.make_own_table(folder)
    return folder


@pytest.fixture(autouse=True)
def here(all_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data but what the test makes."""
    monkeypatch.setenv("METAIMPUTE_DATA", str(all_data))
    monkeypatch.setenv("METAIMPUTE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


NEEDS_MASK = ("ds3l", "unlabelled_weights", "robust_ssl")  # learn from the rows that pass it alone


def sizes(path: Path, profile: Any) -> tuple[str, ...]:
    """Overrides under which a recipe fits the small data and the method has labels to move from the first step."""
    recipe = recipes.load(path, profile)
    found = (*SIZES[recipe.task.name], "train.threads=1")
    return (
        (*found, "method.threshold=0")
        if recipe.method.name in ("fixmatch", "uda") or recipe.problem.name in NEEDS_MASK
        else found
    )


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_the_sample_profile_trains(path: Path) -> None:
    recipe = recipes.load(path, "sample")
    if recipe.model.name == "minilm":
        pytest.importorskip(MINILM_PACKAGE)
    short = ("train.steps=3", "train.eval_every=3", "train.log_every=1", "train.checkpoint_every=3")
    batches = ("train.batch=6", "train.unlabelled_batch=8")
    sets = [f"--set={one}" for one in (*sizes(path, "sample"), *short, *batches)]
    done = CliRunner().invoke(
        main, ["run", str(path), "--profile", "sample", "--out", "out", *sets], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output

    result = json.loads(Path("out/result.json").read_text())
    assert (result["profile"], result["steps"], result["task"]) == ("sample", 3, recipe.task.name)
    assert result["title"] == recipe.about.title and result["recipe"] == str(path)
    measured = result["expected"]["error"] if recipe.choose is not None else result["test_last"]
    assert math.isfinite(measured) and measured >= 0
    steps = [json.loads(line) for line in Path("out/metrics.jsonl").read_text().splitlines()]
    steps = [step for step in steps if "loss" in step]
    assert len(steps) == 3
    assert all(math.isfinite(value) for step in steps for value in step.values())
    if recipe.problem.needs_estimate:
        assert max(step["hypergradient_norm"] for step in steps) > 0
        assert all("holdout_after" in step for step in steps)
    else:
        assert not any("hypergradient_norm" in step for step in steps)


@pytest.mark.parametrize("path", HAS_PAPER, ids=lambda p: p.stem)
def test_the_paper_profile_builds_its_network_and_takes_a_step(path: Path, all_data: Path) -> None:
    if "bert" in recipes.load(path, "paper").model.name and not (all_data / "bert-base-uncased").exists():
        make_bert(all_data)
    asked = recipes.load(path, "paper")
    batches = [
        "train.batch=3",
        "train.unlabelled_batch=4",
        *(["problem.holdout_batch=2"] * asked.problem.needs_estimate),
    ]
    recipe = recipes.load(path, "paper", (*sizes(path, "paper"), *batches))
    assert not recipe.missing()
    assert (recipe.train.steps, recipe.train.optimizer) == (asked.train.steps, asked.train.optimizer)

    session = Session(recipe, Path("out"), say=lambda line: None)
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    assert type(session.optimizer) is kinds[recipe.train.optimizer.name]
    groups, spec = session.optimizer.param_groups, recipe.train.optimizer
    decays = [spec.weight_decay] if spec.decay_biases else [spec.weight_decay, 0.0]
    assert [group["weight_decay"] for group in groups] == decays
    at = recipe.train.schedule.factor_at(recipe.train.steps)
    assert [group["lr"] for group in groups] == pytest.approx([spec.lr * at(0)] * len(groups))
    trained = sum(p.requires_grad for p in session.module.parameters())
    assert sum(len(group["params"]) for group in groups) == trained
    for group in groups:  # a schedule that is counted from step 0 begins at 0
        group["lr"] = spec.lr / max(recipe.train.schedule.warmup, 1)

    before = session.weights()
    half = recipe.train.steps // 2  # where every weight has risen
    batch, holdout = session.batches.batch(half), None
    if recipe.problem.learns != "nothing":
        holdout = session.batches.holdout(half)
    found = {name: float(value) for name, value in session.algorithm.step(batch, holdout, measure=True).items()}
    assert all(math.isfinite(value) for value in found.values()), found
    assert found["weight"] == (recipe.method.weight if recipe.method.uses_unlabelled else 0)
    moved = [n for n, p in session.module.named_parameters() if not torch.equal(p, before[n])]
    assert set(session.algorithm.model.head) <= set(moved)
    assert len(moved) > 0.85 * trained, "all but scales of 1, which BERT's first 2e-8 does not move in float32"
    if recipe.problem.needs_estimate:
        assert len(holdout.index) == 2  # type: ignore[union-attr]
        with torch.no_grad():
            labels = session.algorithm.method.psi(
                session.algorithm.model, session.algorithm.model.params, batch.unlabelled
            )
        saturated = recipe.task.input_kind == "image" and bool(
            (labels.max(-1).values == 1).all()
        )  # a random network may be
        assert found["hypergradient_norm"] > 0 or saturated


def test_bert_base_has_the_published_size() -> None:
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        net = transformers.AutoModel.from_config(BertBase().config())
    assert sum(p.numel() for p in net.parameters()) == 109_482_240 and len(net.encoder.layer) == 12
