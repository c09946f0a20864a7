"""How a run was begun: kept in its folder, so that it can be resumed, loaded and reported without being told again."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..plugins import given, imported
from ..recipes.recipe import Concrete, Recipe, resolve, validate
from ..recipes.source import RecipeError, Source, read
from ..tasks.base import Task
from ..tasks.locate import expanded, locate_file, locate_folder, looking
from ..terminal import argument, is_utf_8
from .files import write_text
from .layout import ORIGIN, RECIPE, is_run
from .stored import read_json

DATA = ("file", "folder")  # options of a task that name the user's data
LOCATED = (*DATA, "table", "test", "corrections")


@dataclass(frozen=True)
class Begun:
    """The recipe's path as it was given, the profile and why it was chosen, and the modules named with ``--import``.

    ``where``: the folder it was begun in, as a whole path and seen from the run's folder, since both may move together.
    """

    recipe: str
    profile: Concrete
    why: str
    imports: list[str] = field(default_factory=imported)
    where: list[str] = field(default_factory=lambda: _here())


def _here() -> list[str]:
    try:
        return [str(Path.cwd())]
    except OSError:  # it has been deleted
        return []


def write_begun(folder: Path, begun: Begun) -> None:
    where = [name for name in begun.where[-1:] if is_utf_8(name)]
    with contextlib.suppress(ValueError):  # another drive
        where = [os.path.relpath(name, folder) for name in where] + where
    write_text(folder / ORIGIN, json.dumps(asdict(begun) | {"where": where}) + "\n")


def read_begun(folder: Path) -> Begun:
    """What :func:`write_begun` wrote; where it is absent or damaged, what is most likely."""
    try:
        found = read_json(folder / ORIGIN)
        if found["profile"] not in ("paper", "sample"):
            raise ValueError("no such profile")
        modules = [str(name) for name in found.get("imports", [])]
        where = [name for name in found.get("where", []) if isinstance(name, str)]
        return Begun(str(found["recipe"]), found["profile"], str(found["why"]), modules, where)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return Begun(str(folder), "sample", "resumed", [], [])


def recipe_of(folder: Path, data: Path | None = None, *, without_data: bool = False) -> Recipe:
    """The recipe that a run directory was trained by.

    Relative paths in it start in the folder where the run was begun, then where the recipe was, then in the current one.

    Args:
        data: a file or folder that stands in the place of the one that the recipe names. without_data: whether none is looked
            at, be it here or not.

    Raises:
        RecipeError: when the folder is no run directory, or its recipe cannot be read; a module that the run was begun with and
            that has not been imported is named.
    """
    if not is_run(folder):
        raise RecipeError(f"{folder} is not a run directory (no {RECIPE})")
    begun = read_begun(folder)
    try:
        source = resolve(read(folder / RECIPE), begun.profile)
        if data is not None:
            _name_data(source, data)
        with looking(first=_places(folder, begun), nothing=without_data):
            recipe = validate(source, str(folder / RECIPE), begun.profile)
            found = {} if without_data else _found(recipe.task)
        settle(recipe.task, found)
    except RecipeError as error:
        absent = [name for name in begun.imports if not given(name)]
        if not absent:
            raise
        again = " ".join(f"--import {argument(name)}" for name in absent)
        raise RecipeError(f"{error}; the run was begun with {again}: give it again") from None
    recipe.path = begun.recipe
    return recipe


def _places(folder: Path, begun: Begun) -> list[Path]:
    """Folders that relative paths of a run's recipe start in: where it was begun, and where its recipe was."""
    bases = list(dict.fromkeys(Path(os.path.normpath(folder.absolute() / name)) for name in begun.where))
    recipes = [(base / begun.recipe).parent for base in bases]
    return list(dict.fromkeys([*bases, *recipes]))


def _name_data(source: Source, data: Path) -> None:
    """Raises:
    RecipeError: when the task of a recipe reads nothing of the user's."""
    options: Any = source.data.get("task")
    option = next((name for name in DATA if isinstance(options, dict) and name in options), None)
    if option is None:
        name = options.get("name") if isinstance(options, dict) else None
        raise RecipeError(f"--data: task '{name}' of this run reads no file or folder of yours; leave it out")
    if data.is_dir() != (option == "folder"):
        raise RecipeError(
            f"--data: {data} is {'a folder' if data.is_dir() else 'a file'}, and the run's data a {option}"
        )
    table = _beside(data, options) if option == "folder" else {}
    source.data["task"] = options | table | {option: str(data.absolute())}


def _beside(data: Path, options: dict[str, Any]) -> dict[str, str]:
    """The table of labels of a folder that is elsewhere by now, where it lies to it as it lay before."""
    table, folder = (expanded(str(options.get(name) or "")) for name in ("table", "folder"))
    if not options.get("table") or table.is_absolute() != folder.is_absolute():
        return {}
    path = Path(os.path.normpath(data.absolute() / os.path.relpath(table, folder)))
    return {"table": str(path)} if path.is_file() else {}


def _found(task: Task) -> dict[str, Path]:
    """Where the files and folders are that options of a task name by relative paths."""
    found: dict[str, Path] = {}
    for option in LOCATED:
        name = getattr(task, option, None)
        if isinstance(name, str) and name and not expanded(name).is_absolute():
            folder = option == "folder"
            path = locate_folder(name, getattr(task, "marker", "")) if folder else locate_file(name)
            if path is not None:
                found[option] = path
    return found


def settle(task: Task, found: dict[str, Path]) -> None:
    """Has options of a task name what was found for them, where they would name something else, or nothing, from here."""
    here = _found(task)
    for option, path in found.items():
        if option not in here or not here[option].samefile(path):
            setattr(task, option, str(path.absolute()))


def settled(recipe: Recipe, folder: Path) -> Recipe:
    """A recipe whose data is also looked for in a folder, after the current one."""
    with looking(last=[folder]):
        found = _found(recipe.task)
    settle(recipe.task, found)
    return recipe
