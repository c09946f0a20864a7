"""Recipes come with the package and run by name from any folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import setuptools
from click.testing import CliRunner, Result

from metaimpute import catalog
from metaimpute.cli import main
from metaimpute.recipes import shipped

ROOT = Path(__file__).parents[1]
NAMES = {path.stem for path in (ROOT / "recipes").glob("*.yaml")}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def test_every_recipe_goes_into_the_package_that_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    built = setuptools.distutils.core.run_setup("setup.py", stop_after="init")
    command = built.get_command_obj("build_py")
    command.build_lib = str(tmp_path)
    command.ensure_finalized()
    command.run()
    folder = tmp_path / shipped.INSTALLED.relative_to(ROOT)
    assert {path.stem for path in folder.iterdir()} == NAMES == set(shipped.shipped_recipes())
    assert {
        Path(name).stem for name in command.get_source_files() if name.startswith("recipes")
    } == NAMES  # for an sdist
    assert {str(path) for path in folder.iterdir()} <= set(command.get_outputs())


def test_an_editable_install_is_a_path_and_copies_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    built = setuptools.distutils.core.run_setup("setup.py", stop_after="init")
    command = built.get_command_obj("build_py")
    command.build_lib, command.editable_mode = str(tmp_path), True
    command.ensure_finalized()
    assert set(command.distribution.package_dir) == {""}  # with more or none setuptools makes an import hook
    assert not [name for name in command.get_outputs() if name.endswith(".yaml")]


def test_an_installed_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one.yaml").write_text("task: {}\n")
    monkeypatch.setattr(catalog, "INSTALLED", tmp_path)
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
