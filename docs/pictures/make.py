"""The pictures of the documentation, from runs of the recipes: ``python docs/pictures/make.py moons grid faces report``.

Runs go to ``runs/`` of a folder of their own (``--work``), pictures to ``docs/pictures/``. ``report`` needs PyQt6-WebEngine, see
``screenshot.py``; everything else needs ``metaimpute[all]``. Minutes on one core.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from click.testing import CliRunner
from PIL import Image

import metaimpute
from metaimpute.cli import main as cli
from metaimpute.reporting import figures

HERE = Path(__file__).resolve().parent
COLOURS = ("#0091b3", "#e07b00")
MOONS: dict[str, dict[str, Any]] = {
    "the labels alone": {"method.name": "supervised", "problem.name": "none"},
    "Mean Teacher": {"problem.name": "none"},
    "Mean Teacher with L2I": {},
}
FACES = {"task": {"name": "drawn_faces", "label_share": 0.02, "unlabelled_includes_labelled": True}, "train.steps": 600}


def save(figure: Any, name: str) -> None:
    """As a PNG of at most 96 colours, which a drawing does not miss."""
    target = HERE / f"{name}.png"
    figure.savefig(target, dpi=100)
    shrink(target)


def shrink(target: Path) -> None:
    Image.open(target).convert("RGB").quantize(96, Image.Quantize.FASTOCTREE).save(target, optimize=True)
    print(f"wrote {target.name}, {target.stat().st_size / 1000:.0f} kB")


def moons() -> None:
    """Two moons, six labels: what each system makes of the plane."""
    plt = figures._pyplot()
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained", sharey=True)
    across, up = torch.meshgrid(torch.linspace(-1.6, 2.6, 211), torch.linspace(-1.1, 1.6, 136), indexing="xy")
    grid = torch.stack([across.flatten(), up.flatten()], 1)
    for ax, (title, changes) in zip(axes, MOONS.items(), strict=True):
        run = metaimpute.train("two_moons", set=changes, seed=3)
        found = run.predictor("cpu").predict_proba(grid)[:, 1].view_as(across)
        data = run.recipe.task.load(3)
        ax.contourf(across, up, found, levels=20, cmap="RdBu_r", alpha=0.35, vmin=0, vmax=1)
        ax.contour(across, up, found, levels=[0.5], colors="#444", linewidths=1)
        ax.scatter(*data.unlabelled.inputs.T, s=3, color="#777", linewidths=0)
        shades = ["#2166ac" if label == 0 else "#b2182b" for label in data.labelled.targets.tolist()]
        ax.scatter(*data.labelled.inputs.T, s=90, color=shades, edgecolors="white", linewidths=1.5, zorder=3)
        ax.set(title=f"{title}: {run.result.test_last:.1f}% wrong", xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    save(figure, "moons")


def call(*words: str) -> None:
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    print(done.stdout)


def grid() -> None:
    """The tutorial's digits: labels that were imputed, in the order of their confidence."""
    if not Path("runs/my_digits-seed0/result.json").exists():
        call("data", "example", "images", "my_digits")
        call("init", "images", "my_digits")
        call("run", "my_digits.yaml")
    call("impute", "runs/my_digits-seed0", "--truth", "my_digits_truth.csv")
    call("review", "runs/my_digits-seed0")
    with Path("my_digits_truth.csv").open(newline="") as stream:
        truth = {row["id"]: row["label"] for row in csv.DictReader(stream)}
    with Path("runs/my_digits-seed0/labels.csv").open(newline="") as stream:
        rows = sorted(csv.DictReader(stream), key=lambda row: int(row["rank"]))
    shown = rows[:: len(rows) // 48][:48]
    plt = figures._pyplot()
    figure, axes = plt.subplots(4, 12, figsize=(10, 4.3), layout="constrained")
    for ax, row in zip(axes.flat, shown, strict=True):
        right = row["label"] == truth[row["id"]]
        ax.imshow(Image.open(Path("my_digits") / row["id"]), cmap="gray_r")
        said = f"{row['label']}  {float(row['confidence']):.2f}"
        ax.set_title(said, fontsize=10, color="#222" if right else "#c00", fontweight="normal" if right else "bold")
        ax.axis("off")
    save(figure, "grid")


def faces() -> None:
    """The first drawn test faces: true landmarks, those of the labels alone and those of Mean Teacher with L2I."""
    runs: dict[str, dict[str, Any]] = {
        "labels alone": FACES | {"method.name": "supervised", "problem.name": "none"},
        "Mean Teacher with L2I": FACES,
    }
    found, errors = [], []
    for name, changes in runs.items():
        folder = Path("runs", f"faces {name}")
        if not (folder / "result.json").exists():
            metaimpute.train("mtfl_mean_teacher_l2i", set=changes, profile="sample", out=folder)
        predictor = metaimpute.load(folder, "cpu")
        test = predictor.task.load(0).test.subset(torch.arange(10))
        found.append(predictor.task.output.points(predictor.raw(test.inputs)))
        errors.append(json.loads((folder / "result.json").read_text())["test_last"])
    plt = figures._pyplot()
    figure, axes = plt.subplots(2, 5, figsize=(8, 3.7), layout="constrained")
    marks = (("truth", "o", "none", "#ffd23f"), *zip(runs, "xx", COLOURS, COLOURS, strict=True))
    points = [predictor.task.output.points(test.targets), *found]
    for number, ax in enumerate(axes.flat):
        ax.imshow(test.inputs[number, 0], cmap="gray", vmin=0, vmax=255, interpolation="bilinear")
        for (name, mark, face, edge), place in zip(marks, points, strict=True):
            if mark == "o":
                ax.scatter(
                    *place[number].T, s=50, marker=mark, facecolors=face, edgecolors=edge, linewidths=1.5, label=name
                )
            else:
                ax.scatter(*place[number].T, s=22, marker=mark, color=edge, linewidths=1.5, label=name)
        ax.axis("off")
    said = [
        f"truth, {len(predictor.task.load(0).labelled)} faces labelled",
        *(f"{n}: error {e:.1f}%" for n, e in zip(runs, errors, strict=True)),
    ]
    figure.legend(axes.flat[0].get_legend_handles_labels()[0], said, loc="outside lower center", ncols=3, frameon=False)
    save(figure, "faces")


def report() -> None:
    """The report of the moons' runs, and the review page of the digits, as a browser shows them."""
    call("report", *map(str, sorted(Path("runs").glob("two_moons*"))), "--out", "report.html")
    for name, page in (("report", "report.html"), ("review", "runs/my_digits-seed0/review.html")):
        words = [page, str(HERE / f"{name}.png"), "--width", "1000", "--height", "760"]
        subprocess.run([sys.executable, str(HERE / "screenshot.py"), *words], check=True, stderr=subprocess.DEVNULL)
        shrink(HERE / f"{name}.png")


PICTURES = {"moons": moons, "grid": grid, "faces": faces, "report": report}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", nargs="*", choices=list(PICTURES), default=list(PICTURES))
    parser.add_argument("--work", type=Path, default=Path("runs/pictures"), help="folder for runs")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    os.chdir(given.work)
    for name in given.pictures:
        PICTURES[name]()


if __name__ == "__main__":
    main()
