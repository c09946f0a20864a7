"""The recipes hold what the paper holds: every row of Tables 1 to 10, its numbers, and one setting per data set."""

from __future__ import annotations

import copy
import re
from collections import Counter
from fnmatch import fnmatch
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner

from metaimpute import recipes
from metaimpute.cli import main
from metaimpute.cli.lists import recipe_rows
from metaimpute.problems.forms import FORMS
from metaimpute.recipes import Recipe, about_recipes
from metaimpute.recipes.optim import ScheduleSpec
from metaimpute.recipes.profiles import profiles_of
from metaimpute.recipes.schema import PaperRow
from metaimpute.recipes.source import read
from metaimpute.tasks.splits import choose

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "recipes"

# What the paper prints ------------------------------------------------------------------------------------------------

FACES, TEN, HUNDRED = (91, 182, 455), (250, 500, 1000), (500, 1000, 2000)
ROWS: list[tuple[int, str, str, tuple[float, ...]]] = [
    (1, "SL", "AFLW", FACES), (1, "SL, all labels", "AFLW", ()), (1, "PL", "AFLW", FACES), (1, "PL-L2I", "AFLW", FACES),
    (1, "MT", "AFLW", FACES), (1, "MT-L2I", "AFLW", FACES),
    (2, "Pi model", "CIFAR-10", TEN), (2, "PL", "CIFAR-10", TEN), (2, "MixUp", "CIFAR-10", TEN), (2, "VAT", "CIFAR-10", TEN),
    (2, "MT", "CIFAR-10", TEN), (2, "MT-L2I", "CIFAR-10", TEN), (2, "MM", "CIFAR-10", TEN), (2, "MM-L2I", "CIFAR-10", TEN),
    (2, "FM", "CIFAR-10", TEN), (2, "FM-L2I", "CIFAR-10", TEN),
    (2, "MT", "CIFAR-100", HUNDRED), (2, "MT-L2I", "CIFAR-100", HUNDRED), (2, "MM", "CIFAR-100", HUNDRED),
    (2, "MM-L2I", "CIFAR-100", HUNDRED), (2, "FM", "CIFAR-100", HUNDRED), (2, "FM-L2I", "CIFAR-100", HUNDRED),
    (3, "SL, 100%", "ImageNet-72", ()), (3, "SL, 5%", "ImageNet-72", ()), (3, "MM", "ImageNet-72", ()),
    (3, "FM", "ImageNet-72", ()), (3, "FM-L2I", "ImageNet-72", ()),
    (4, "SL", "IMDb", ()), (4, "UDA", "IMDb", ()), (4, "UDA-L2I", "IMDb", ()),
    (5, "FM-L2I, hold-out batch 32", "CIFAR-100", (500,)), (5, "FM-L2I, hold-out batch 64", "CIFAR-100", (500,)),
    (5, "FM-L2I, hold-out batch 128", "CIFAR-100", (500,)),
    (6, "FM-L2I (joint)", "CIFAR-100", HUNDRED), (6, "FM-L2I (separate)", "CIFAR-100", HUNDRED),
    (7, "MT-L2I (exact)", "AFLW", FACES), (7, "MT-L2I (approx)", "AFLW", FACES),
    (8, "MT-L2I (exact)", "CIFAR-10", TEN), (8, "MT-L2I (approx)", "CIFAR-10", TEN),
    (8, "MT-L2I (exact)", "CIFAR-100", HUNDRED), (8, "MT-L2I (approx)", "CIFAR-100", HUNDRED),
    (9, "MT", "AFLW", FACES), (9, "MT-L2I (O)", "AFLW", FACES), (9, "MT-L2I (L)", "AFLW", FACES),
    (10, "FM", "CIFAR-10", TEN), (10, "FM-L2I (O)", "CIFAR-10", TEN), (10, "FM-L2I (L)", "CIFAR-10", TEN),
    (10, "FM", "CIFAR-100", HUNDRED), (10, "FM-L2I (O)", "CIFAR-100", HUNDRED), (10, "FM-L2I (L)", "CIFAR-100", HUNDRED),
]  # fmt: skip
METHODS = {
    "SL": "supervised", "Pi model": "pi_model", "PL": "pseudo_label", "MixUp": "mixup", "VAT": "vat", "MT": "mean_teacher",
    "MM": "mixmatch", "FM": "fixmatch", "UDA": "uda",
}  # fmt: skip
TASKS = {
    "AFLW": "aflw", "CIFAR-10": "cifar10", "CIFAR-100": "cifar100", "ImageNet-72": "imagenet72", "IMDb": "imdb",
}  # fmt: skip
ABOUT = about_recipes(FOLDER)
FOUND = [(path, row) for path, about in ABOUT for row in about.paper]


def plain(row: PaperRow) -> tuple[int, str, str, tuple[float, ...]]:
    return row.table, row.row, row.data, tuple(row.labels)


def paper(name: str, *sets: str) -> Recipe:
    return recipes.load(FOLDER / f"{name}.yaml", "paper", sets)


# Rows -----------------------------------------------------------------------------------------------------------------


def test_the_recipes_cover_every_row_of_tables_1_to_10_once() -> None:
    found, expected = Counter(plain(row) for _, row in FOUND), Counter(ROWS)
    assert not expected - found, "rows that no recipe stands for"
    assert not found - expected, "rows that the paper does not have, or that two recipes stand for"


@pytest.mark.parametrize(
    ("path", "row"), FOUND, ids=lambda value: value.stem if isinstance(value, Path) else f"{value.table}-{value.row}"
)
def test_a_rows_assignments_give_what_the_row_says(path: Path, row: PaperRow) -> None:
    system = row.row.split(" (")[0].split(",")[0]
    assignments = row.assignments()
    assert len(assignments) == max(len(row.labels), 1)
    for sets, labels in zip(assignments, row.labels or [None], strict=True):
        recipe = recipes.load(path, "paper", sets)
        spec, task = recipe.problem_spec, recipe.task
        assert task.name == TASKS[row.data]
        assert recipe.method.name == METHODS[system.removesuffix("-L2I")]
        if labels is not None:
            assert task.labels == labels
        if not system.endswith("-L2I"):
            assert recipe.problem.name == "none"
            continue
        assert recipe.problem.name == ("l2i_learnable" if "(L)" in row.row else "l2i")
        assert spec.estimator == ("exact" if "(exact)" in row.row else "approx")
        assert spec.holdout == ("separate" if "(separate)" in row.row else "joint")
        batches = {5: int(row.row.split()[-1]) if row.table == 5 else None, 4: 8}
        assert spec.holdout_batch == batches.get(row.table)
        assert (spec.holdout_batch or recipe.train.batch) == (batches.get(row.table) or recipe.train.batch)
        assert spec.outer_optimizer == "shared" and spec.schedule == "algorithm1" and spec.weight == 1
        assert spec.inner.optimizer == "sgd" and spec.inner.steps == 1


def test_shares_of_labels_are_those_of_tables_1_and_3() -> None:
    assert [len(choose(torch.zeros(10_122 - 1_012, 10), torch.Generator(), None, n)) for n in FACES] == list(FACES)
    one_percent = paper("aflw_supervised").task
    assert (one_percent.labels, one_percent.label_share, one_percent.validation) == (0, 0.01, 1012)  # type: ignore[attr-defined]
    assert len(choose(torch.zeros(10_122 - 1_012, 10), torch.Generator(), None, 0, 0.01)) == FACES[0]
    rows = {(row.table, row.row): (path, row) for path, row in FOUND}
    for table, name, share in ((1, "SL, all labels", 1.0), (3, "SL, 100%", 1.0), (3, "SL, 5%", 0.05), (3, "FM", 0.05)):
        path, row = rows[table, name]
        task = recipes.load(path, "paper", row.assignments()[0]).task
        assert task.labels == 0 and task.label_share == share  # type: ignore[attr-defined]
        assert task.unlabelled_includes_labelled or share < 1, "else nothing is left over"
    assert paper("imdb_uda").task.labels == 20 and paper("imdb_uda").task.shortest == 500  # type: ignore[attr-defined]


# Numbers --------------------------------------------------------------------------------------------------------------

CIFAR = {"steps": 1024 * 1024, "batch": 64, "ema": 0.999, "eval_every": 1024, "test_checkpoints": 20}
ADAM = {"name": "adamw", "lr": 2e-3, "weight_decay": 0.2, "decay_biases": True}  # a step decays by 4e-4
SGD = {"name": "sgd", "lr": 0.03, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}
FACES_SGD = {"name": "sgd", "lr": 0.03, "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4}
IMAGENET_SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}
FAMILIES: dict[str, dict[str, Any]] = {
    "aflw": {
        "train": {"steps": 22_500, "batch": 128, "unlabelled_batch": 128, "ema": 0.999, "test_checkpoints": 20},
        "optimizer": FACES_SGD, "model": {"name": "tcdcn"},
    },
    "cifar10": {"train": CIFAR, "optimizer": ADAM, "model": {"name": "wrn", "depth": 28, "width": 2}},
    "cifar100": {"train": CIFAR, "optimizer": SGD, "model": {"name": "wrn", "depth": 28, "width": 2}},
    "imagenet72": {
        "train": {"batch": 256, "ema": None, "test_checkpoints": 20}, "optimizer": IMAGENET_SGD,
        "model": {"name": "resnet26", "variant": "decathlon"},
    },
    "imdb": {
        "train": {"steps": 10_000, "batch": 8, "unlabelled_batch": 24, "ema": None, "clip_norm": 1.0},
        "optimizer": {"name": "adamw", "lr": 2e-5, "weight_decay": 0.01, "decay_biases": False},
        "model": {"name": "bert-base-uncased", "length": 128, "pooling": "cls", "layers": None, "frozen": 0},
    },
}  # fmt: skip
SCHEDULES: dict[str, dict[int, float]] = {  # step: factor of the learning rate
    "aflw": {0: 1.0, 14_999: 1.0, 15_000: 0.1, 22_499: 0.1},
    "cifar10": {0: 1.0, 1024 * 1024 - 1: 1.0},
    "cifar100": {0: 1.0, 512 * 1024: 0.773010, 1024 * 1024: 0.195090},  # cos(7 pi t / 16 T)
    "imdb": {0: 0.0, 500: 0.5, 999: 0.999, 1_000: 0.9, 5_000: 0.5, 10_000: 0.0},  # t / 1,000, then 1 - t / 10,000
}
EPOCHS = {  # steps of one of ImageNet's 120 epochs; the learning rate falls every 30
    "imagenet72_supervised": 250, "imagenet72_mixmatch": 4754, "imagenet72_fixmatch": 1585, "imagenet72_fixmatch_l2i": 1585,
}  # fmt: skip
METHOD_OPTIONS: dict[tuple[str, str], dict[str, Any]] = {
    ("aflw", "pseudo_label"): {"weight": 3, "ramp": 0.4},  # to 3 in 9,000 of 22,500 steps
    ("aflw", "mean_teacher"): {"weight": 3, "ramp": 0.4, "decay": 0.999},
    ("cifar10", "pi_model"): {"weight": 20, "ramp": 0.4},
    ("cifar10", "pseudo_label"): {"weight": 1, "ramp": 0.4, "threshold": 0.95},
    ("cifar10", "mixup"): {"alpha": 0.75},
    ("cifar10", "vat"): {"weight": 0.3, "entropy": 0.06, "epsilon": 6, "power_iterations": 1},
    ("cifar", "mean_teacher"): {"weight": 50, "ramp": 0.4, "decay": 0.999},
    ("cifar", "mixmatch"): {"weight": 75, "ramp": 16 / 1024, "alpha": 0.75, "augmentations": 2, "temperature": 0.5},
    ("cifar", "fixmatch"): {"weight": 1, "ramp": 0, "threshold": 0.95},
    ("imagenet72", "mixmatch"): {"weight": 100, "alpha": 0.75, "augmentations": 2, "temperature": 0.5},
    ("imagenet72", "fixmatch"): {"weight": 10, "ramp": 0, "threshold": 0.7},
    ("imdb", "uda"): {"weight": 1, "temperature": 1, "threshold": 0, "tsa": "linear"},
}
UNLABELLED = {"cifar-fixmatch": 448, "cifar": 64, "imagenet72-fixmatch": 768, "imagenet72": 256}
PAPER = sorted({path.stem for path, _ in FOUND})


def family(name: str) -> str:
    return name.split("_")[0]


@pytest.mark.parametrize("name", PAPER)
def test_numbers_are_those_of_the_paper(name: str) -> None:
    recipe, kind = paper(name), family(name)
    expected, train = FAMILIES[kind], recipe.train
    assert {key: getattr(train, key) for key in expected["train"]} == expected["train"]
    assert {key: getattr(train.optimizer, key) for key in expected["optimizer"]} == expected["optimizer"]
    assert {key: getattr(recipe.model, key) for key in expected["model"]} == expected["model"]
    wide = kind if kind.startswith("imagenet") else kind.rstrip("0123456789")
    options = METHOD_OPTIONS.get((kind, recipe.method.name)) or METHOD_OPTIONS.get((wide, recipe.method.name)) or {}
    assert options or recipe.method.name == "supervised"
    assert {key: getattr(recipe.method, key) for key in options} == options
    unlabelled = UNLABELLED.get(f"{wide}-{recipe.method.name}", UNLABELLED.get(wide))
    assert unlabelled is None or train.unlabelled_batch == unlabelled
    if wide == "cifar":
        assert recipe.task.validation == 5000
        if recipe.method.name == "fixmatch" and recipe.problem.name != "none":
            assert FORMS[recipe.problem_spec.form].distance == "squared_error", "appendix A.2"


@pytest.mark.parametrize("name", PAPER)
def test_learning_rates_follow_the_papers_schedule(name: str) -> None:
    train = paper(name).train
    at = train.schedule.factor_at(train.steps)
    points = SCHEDULES.get(family(name))
    if points is None:
        epoch = EPOCHS[name]
        assert train.steps == 120 * epoch and train.eval_every == epoch
        points = {epoch * n - before: round(0.1 ** (n // 30 - before), 4) for n in (30, 60, 90) for before in (0, 1)}
    assert {step: at(step) for step in points} == pytest.approx(points, abs=1e-6)


def test_on_cifar10_a_step_of_zero_gradient_keeps_all_but_four_ten_thousandths() -> None:
    """The decay of the released codes: on the weights, not in the gradient that Adam divides by its own size."""
    module = torch.nn.Linear(2, 2)
    with torch.no_grad():
        for p in module.parameters():
            p.fill_(0.5)
    optimizer = paper("cifar10_mean_teacher").train.optimizer.build(module)
    for _ in range(500):
        for p in module.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
    for p in module.parameters():
        torch.testing.assert_close(p.detach(), torch.full_like(p, 0.5 * (1 - 4e-4) ** 500), rtol=1e-4, atol=0)


def test_imagenets_epochs_are_passes_over_its_images() -> None:
    images, labelled = 1_281_167, round(0.05 * 1_281_167)
    assert EPOCHS["imagenet72_supervised"] == round(labelled / 256)
    assert EPOCHS["imagenet72_mixmatch"] == round((images - labelled) / 256)
    assert EPOCHS["imagenet72_fixmatch"] == round((images - labelled) / 768)
    row = next(row for _, row in FOUND if row.row == "SL, 100%")
    every = paper("imagenet72_supervised", *row.set).train
    assert every.eval_every == round(images / 256) and every.steps == 120 * every.eval_every


# One setting per data set ---------------------------------------------------------------------------------------------

EPOCH = {("train", "steps"), ("train", "eval_every"), ("train", "checkpoint_every"), ("train", "unlabelled_batch")}
MAY_DIFFER: dict[str, set[tuple[str, str]]] = {
    "aflw": set(), "mtfl": set(), "imdb": set(),
    "cifar10": {("train", "unlabelled_batch")}, "cifar100": {("train", "unlabelled_batch")},  # 64, and FixMatch's 7 x 64
    "imagenet72": EPOCH, "tiny_imagenet": EPOCH,  # an epoch is a pass over the unlabelled images, in the batches of a method
}  # fmt: skip


@pytest.mark.parametrize("profile", ["paper", "sample"])
@pytest.mark.parametrize("kind", MAY_DIFFER)
def test_recipes_of_a_data_set_agree_in_all_but_what_the_paper_varies(kind: str, profile: Any) -> None:
    members = sorted(FOLDER.glob(f"{kind}_*.yaml"))
    assert len(members) > 2
    settings = []
    for path in members:
        resolved = copy.deepcopy(recipes.load(path, profile).resolved)
        for section, key in MAY_DIFFER[kind]:
            resolved[section].pop(key, None)
        settings.append({section: resolved[section] for section in ("task", "model", "train")})
    for path, found in zip(members, settings, strict=True):
        assert found == settings[0], path.name


def base_of(name: str) -> str | None:
    """The recipe that an L2I recipe adds a problem to, where it is among the recipes."""
    stem = name.removesuffix("_learnable").removesuffix("_l2i")
    base = "imdb_uda_base" if name == "imdb_uda" else stem
    return base if base != name and (FOLDER / f"{base}.yaml").exists() else None


PAIRS = [(path.stem, base) for path, _ in ABOUT if (base := base_of(path.stem)) is not None]


def test_every_l2i_row_has_its_base_among_the_recipes() -> None:
    paired = {name for name, _ in PAIRS}
    assert {path.stem for path, row in FOUND if "-L2I" in row.row} <= paired


@pytest.mark.parametrize(("name", "base"), PAIRS)
def test_an_l2i_recipe_is_its_base_recipe_and_a_problem(name: str, base: str) -> None:
    contents = []
    for stem in (name, base):
        data = copy.deepcopy(read(FOLDER / f"{stem}.yaml").data)
        for overlay in (data, *(part for part in data["profiles"].values() if part)):
            for section in ("about", "problem"):
                overlay.pop(section, None)
        contents.append(data)
    assert contents[0] == contents[1]


# The page about the paper -----------------------------------------------------------------------------------------------

SETTINGS = re.findall(
    r"^\| (`.*?`) \| (`.*`) \| .+ \|$",
    (ROOT / "docs" / "paper.md")
    .read_text()
    .split("## Settings, their sources and their defaults")[1]
    .split("\n## ")[0],
    re.MULTILINE,
)


@pytest.mark.parametrize(("names", "settings"), SETTINGS, ids=[names.replace("`", "") for names, _ in SETTINGS])
def test_the_page_about_the_paper_gives_the_recipes_settings(names: str, settings: str) -> None:
    found = {name for pattern in names.replace("`", "").split(", ") for name in PAPER if fnmatch(name, pattern)}
    assert found
    for name in found:
        recipe = paper(name)
        if "problem." in settings and recipe.problem.name == "none":
            continue
        parts = {"train": [recipe.train], "task": [recipe.task], "model": [recipe.model], "method": [recipe.method]}
        parts["problem"] = [recipe.problem_spec, recipe.problem]
        for key, value in re.findall(r"`([\w.]+)=(.*?)`", settings):
            section, *path = key.split(".")
            holder = next(part for part in parts[section] if hasattr(part, path[0]))
            assert reduce(getattr, path, holder) == yaml.safe_load(value), f"{name}: {key}"


def test_every_recipe_of_the_paper_is_on_the_page_of_settings() -> None:
    patterns = [pattern for names, _ in SETTINGS for pattern in names.replace("`", "").split(", ")]
    assert len(SETTINGS) > 20
    for name in PAPER:
        assert sum(fnmatch(name, pattern) for pattern in patterns) >= (1 if "supervised" in name else 2), name


# As recipes and as a list ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "about"), ABOUT, ids=lambda value: value.stem if isinstance(value, Path) else "")
def test_recipes_are_short_and_say_what_they_are(path: Path, about: Any) -> None:
    text = path.read_text()
    assert text.startswith("# ") and len(text.splitlines()) <= 50
    assert about.title and "sample" in profiles_of(read(path))


def test_the_list_of_recipes_is_in_the_papers_order() -> None:
    rows = recipe_rows(ABOUT)
    assert [(row[0], row[1], row[2]) for row in rows if row[0] != "-"] == [(str(t), s, d) for t, s, d, _ in ROWS]
    assert len(rows) == len(ROWS) + sum(not about.paper for _, about in ABOUT)
    others = [(system, data.split(",")[0]) for table, system, data, *_ in rows if table == "-"]
    faces = [system for system, data in others if data == "MTFL"]
    assert faces == ["SL", "PL", "PL-L2I", "MT", "MT-L2I", "MT-L2I (L)"]


@pytest.mark.parametrize("width", [80, 160])
def test_the_list_fits_its_terminal_and_cuts_no_path(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", str(width))
    done = CliRunner().invoke(main, ["list", "recipes"], catch_exceptions=False)
    lines = done.output.splitlines()
    assert max(map(len, lines)) <= width
    listed = [word for line in lines for word in line.split() if word.startswith("recipes/")]
    assert set(listed) == {f"recipes/{path.name}" for path, _ in ABOUT}
    assert "task.labels=500|1000|2000" in done.output and "problem.holdout=separate" in done.output


def test_a_milestone_that_is_missed_by_a_step_is_noticed() -> None:
    late = ScheduleSpec(name="steps", milestones=[0.6667]).factor_at(22_500)
    assert late(15_000) == 1.0, "which is why the recipes write 0.66666"
