"""Names that are read from the source are those of the registries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from metaimpute import catalog, engine
from metaimpute.cli.lists import recipe_rows
from metaimpute.engine.registry import Registry
from metaimpute.ensemble.members import members
from metaimpute.methods import methods
from metaimpute.models import models
from metaimpute.problems import problems
from metaimpute.recipes.recipe import about_recipes
from metaimpute.tasks import tasks

REGISTRIES: dict[str, Registry[Any]] = {
    "tasks": tasks, "models": models, "methods": methods, "problems": problems, "estimators": engine.estimators,
    "optimizers": engine.optimizers, "systems": members,
}  # fmt: skip


def own(registry: Registry[Any]) -> dict[str, str]:
    """Entries of the package's own; other tests may have added some."""
    return {
        name: registry.summary(name) for name in registry if registry.get(name).__module__.startswith("metaimpute.")
    }


@pytest.mark.parametrize("kind", catalog.HOMES)
def test_names_and_summaries_are_those_of_the_registry(kind: str) -> None:
    assert catalog.registered(kind) == own(REGISTRIES[kind]) and catalog.registered(kind)


def test_recipes_have_their_titles() -> None:
    folder = next(iter(catalog.shipped_recipes().values())).parent
    assert catalog.titles() == {path.stem: about.title for path, about in about_recipes(folder)}


def test_what_recipes_say_of_themselves_is_read_alike(tmp_path: Path) -> None:
    folder = next(iter(catalog.shipped_recipes().values())).parent
    plainly = catalog.about(folder)
    assert plainly and recipe_rows(plainly) == recipe_rows(about_recipes(folder))
    for wrong in (
        "about: {titel: x}",
        "about: [",
        "about: {paper: [{table: one, row: a, data: b}]}",
        "[1]",
        "about: {paper: [1]}",
    ):
        (tmp_path / "one.yaml").write_text(wrong + "\n")
        assert catalog.about(tmp_path) is None


def test_a_list_of_names_waits_for_no_torch() -> None:
    code = (
        "import sys; from metaimpute.cli import main\n"
        "try: main({words})\nexcept SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules and 'metaimpute.engine' not in sys.modules"
    )
    for words in (["list", "methods"], ["list"], ["list", "--json"], ["list", "recipes"]):
        done = subprocess.run(
            [sys.executable, "-c", code.format(words=words)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0 and "mean_teacher" in done.stdout, done.stderr
