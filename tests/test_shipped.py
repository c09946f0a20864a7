"""Recipes come with the package and run by name from any folder."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import setuptools
from click.testing import CliRunner, Result

from metaimpute.cli import main
from metaimpute.recipes import shipped

ROOT = Path(__file__).parents[1]
NAMES = {path.stem for path in (ROOT / "recipes").glob("*.yaml")}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def test_every_recipe_goes_into_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **options: given.update(options))
    runpy.run_path(str(ROOT / "setup.py"))
    name = f"metaimpute.{shipped.INSTALLED.name}"
    assert name in given["packages"] and (ROOT / given["package_dir"][name]).samefile(shipped.CHECKOUT)
    packed = {path.stem for glob in given["package_data"][name] for path in shipped.CHECKOUT.glob(glob)}
    assert packed == NAMES == set(shipped.shipped_recipes())


def test_an_installed_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one.yaml").write_text("task: {}\n")
    monkeypatch.setattr(shipped, "INSTALLED", tmp_path)
    assert shipped.shipped_recipes() == {"one": tmp_path / "one.yaml"}


def test_a_name_is_enough_from_any_folder() -> None:
    done = call("run", "two_moons", "--set", "train.steps=2", "--set", "train.eval_every=2")
    assert done.exit_code == 0 and Path("runs/two_moons-l2i-seed0/result.json").exists()
    assert "two_moons.yaml [sample]: valid" in call("check", "two_moons").output
    assert "two_moons.yaml [sample]: valid" in call("check", "two_moons.yaml").output


def test_a_file_of_ones_own_comes_before_a_name_and_paths_are_left_alone() -> None:
    Path("two_moons").write_text("nonsense")
    assert call("check", "two_moons").exit_code == 2
    done = call("check", "deep/imdb_uda")
    assert done.exit_code == 2 and "deep/imdb_uda: No such file" in done.output
    done = call("run", "imdb_udaa")
    assert (
        done.exit_code == 2 and "no recipe of that name comes with metaimpute; did you mean 'imdb_uda'?" in done.output
    )


def test_recipes_are_listed_by_name_where_no_folder_holds_any() -> None:
    listed = set(call("list", "recipes").output.split())
    assert {"two_moons", "imdb_uda", "own_table"} <= listed
