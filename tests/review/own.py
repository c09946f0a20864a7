"""Small runs on one's own data of every kind, made once by the commands a user takes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from metaimpute.cli import main

from .. import fake_data

KINDS = ("images", "text", "table", "values")
QUICK = ("train.steps=4", "train.eval_every=4", "train.threads=1", "problem.name=none", "choose=null")
HOSTILE = "<script>alert(1)</script> & \"quoted\" 'words'"


def call(*words: object, at: Path | None = None) -> Result:
    """A command, in a folder."""
    before = Path.cwd()
    os.chdir(at or before)
    try:
        return CliRunner().invoke(main, [str(word) for word in words])
    finally:
        os.chdir(before)


def good(*words: object, at: Path | None = None) -> str:
    """What a command says that must end well."""
    done = call(*words, at=at)
    assert done.exit_code == 0, done.output
    return done.output


@dataclass(frozen=True)
class Project:
    """A folder with data, a recipe and a run in it; ``data`` and ``run`` are relative to it."""

    kind: str
    folder: Path
    data: str
    run: str = "runs/mine"

    @property
    def trained(self) -> Path:
        return self.folder / self.run


def a_table(path: Path, values: bool = False) -> None:
    """Rows of two numbers and a word, some labelled: the class is that of the first number, the value is near it."""
    lines = ["name,size,weight,colour,y"]
    for i in range(60):
        size = (i * 37 % 60) / 10
        label = f"{3 * size + 0.25:.2f}" if values else ("small" if size < 3 else "large")
        name = f"row {i}{HOSTILE if i == 40 else ''}".replace('"', '""')
        lines.append(f'"{name}",{size},{i % 7},{("red", "blue")[i % 2]},{label if i < 24 else ""}')
    path.write_text("\n".join(lines) + "\n")


def make(kind: str, folder: Path) -> Project:
    """A project with a finished run."""
    folder.mkdir(parents=True)
    if kind == "images":
        fake_data.make_own_images(folder)
        data, words = "my_images", ("images", "my_images", "--set", "task.size=16")
    elif kind == "text":
        rows = [
            {"id": f"t{i}", "text": f"{('a good', 'a bad')[i % 2]} film number {i} {HOSTILE if i == 30 else ''}",
             "label": ("good", "bad")[i % 2] if i < 16 else ""} for i in range(40)
        ]  # fmt: skip
        fake_data.write_csv(folder / "t.csv", rows)
        data, words = "t.csv", ("text", "t.csv", "--label", "label")
    else:
        a_table(folder / "t.csv", kind == "values")
        data, words = "t.csv", ("table", "t.csv", "--label", "y", "--set", "task.id=name")
    good("init", *words, "--out", "mine.yaml", at=folder)
    model = ("model={name: cnn}",) if kind == "images" else ()
    sets = [word for one in (*QUICK, *model) for word in ("--set", one)]
    good("run", "mine.yaml", "--out", "runs/mine", *sets, at=folder)
    return Project(kind, folder, data)


@pytest.fixture(scope="session", params=KINDS)
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make(request.param, tmp_path_factory.mktemp(request.param) / "project")
