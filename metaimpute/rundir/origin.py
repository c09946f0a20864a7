"""How a run was begun: kept in its folder, so that it can be resumed, loaded and reported without being told again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..plugins import given, imported
from ..recipes.recipe import Concrete, Recipe, load
from ..recipes.source import RecipeError
from ..terminal import argument
from .files import write_text
from .layout import ORIGIN, RECIPE, is_run
from .stored import read_json


@dataclass(frozen=True)
class Begun:
    """The recipe's path as it was given, the profile and why it was chosen, and the modules named with ``--import``."""

    recipe: str
    profile: Concrete
    why: str
    imports: list[str] = field(default_factory=imported)


def write_begun(folder: Path, begun: Begun) -> None:
    write_text(folder / ORIGIN, json.dumps(asdict(begun)) + "\n")


def read_begun(folder: Path) -> Begun:
    """What :func:`write_begun` wrote; where it is absent or damaged, what is most likely."""
    try:
        found = read_json(folder / ORIGIN)
        if found["profile"] not in ("paper", "sample"):
            raise ValueError("no such profile")
        modules = [str(name) for name in found.get("imports", [])]
        return Begun(str(found["recipe"]), found["profile"], str(found["why"]), modules)
    except (OSError, ValueError, LookupError, TypeError):
        return Begun(str(folder), "sample", "resumed", [])


def recipe_of(folder: Path) -> Recipe:
    """The recipe that a run directory was trained by.

    Raises:
        RecipeError: when the folder is no run directory, or its recipe cannot be read; a module that the run was begun with and
            that has not been imported is named.
    """
    if not is_run(folder):
        raise RecipeError(f"{folder} is not a run directory (no {RECIPE})")
    begun = read_begun(folder)
    try:
        recipe = load(folder / RECIPE, begun.profile)
    except RecipeError as error:
        absent = [name for name in begun.imports if not given(name)]
        if not absent:
            raise
        again = " ".join(f"--import {argument(name)}" for name in absent)
        raise RecipeError(f"{error}; the run was begun with {again}: give it again") from None
    recipe.path = begun.recipe
    return recipe
