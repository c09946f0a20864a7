"""How a run begins or goes on: its recipe under a profile, and its folder, refused where it would write over something."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..recipes.profiles import choose
from ..recipes.recipe import Recipe
from ..recipes.shipped import locate
from ..recipes.source import RecipeError
from ..tasks.locate import looking
from ..terminal import argument, spelled
from .layout import WRITTEN_OVER, is_run
from .origin import Begun, read_begun, recipe_of, settled


@dataclass(frozen=True)
class Words:
    """How the command line, or Python, names what a run is begun with."""

    resume: str
    out: str
    others: str
    example: str
    resumed: Callable[[Path], str]


COMMAND = Words(
    "--resume", "--out", "RECIPE, --profile, --set, --seed and --out", "metaimpute run imdb_uda",
    lambda folder: f"--resume {argument(folder)}",
)  # fmt: skip
PYTHON = Words(
    "resume=", "out=", "recipe, profile=, set=, seed= and out=", "metaimpute.train('two_moons')",
    lambda folder: f"resume={str(folder)!r}",
)  # fmt: skip


@dataclass(frozen=True)
class Beginning:
    """The recipe that is trained, why under its profile, the run's folder, and what is to be kept of how it was begun.

    ``begun`` is None for a run that goes on.
    """

    recipe: Recipe
    why: str
    folder: Path
    begun: Begun | None


def beginning(
    recipe: Path | None,
    profile: Literal["auto", "paper", "sample"] = "auto",
    sets: tuple[str, ...] = (),
    seed: int | None = None,
    out: Path | None = None,
    resume: Path | None = None,
    words: Words = COMMAND,
    made: Path | None = None,
) -> Beginning:
    """A new run of ``recipe``, or the one in the folder ``resume`` as it was; ``words``: how whoever asks names arguments.

    Args:
        made: the new run's folder, where another process of the run has chosen it.

    Raises:
        RecipeError: for a mistake in the recipe, a folder that holds something else, or both a recipe and a run to go on with.
    """
    if resume is not None:
        if recipe is not None or sets or seed is not None or out is not None or profile != "auto":
            raise RecipeError(f"{words.resume} continues a run as it was; leave out {words.others}")
        return Beginning(recipe_of(resume), read_begun(resume).why, resume, None)
    if recipe is None:
        raise RecipeError(f"name a recipe, e.g. {words.example}")
    path = locate(recipe)
    with looking(last=[path.absolute().parent]):
        chosen, why = choose(path, profile, sets, seed)
    settled(chosen, path.absolute().parent)
    begun = Begun(str(path), chosen.profile, why)
    return Beginning(chosen, why, made or new_folder(path, chosen, out, words), begun)


def new_folder(recipe: Path, chosen: Recipe, out: Path | None, words: Words = COMMAND) -> Path:
    """``out``, or a new folder below ``runs`` named after the recipe, the problem (if any, beside several systems) and the seed.

    Raises:
        RecipeError: when ``out`` holds a run, or files that a run would write over.
    """
    if out is None:
        several = chosen.choose is not None and chosen.problem.name == "none"
        problem = "" if several else f"-{chosen.problem.name}"
        return _free_folder(Path("runs") / f"{spelled(recipe.stem)}{problem}-seed{chosen.train.seed}")
    if is_run(out):
        raise RecipeError(
            f"{out} already holds a run; continue it with {words.resumed(out)} or choose another {words.out}"
        )
    held = [out / name for name in WRITTEN_OVER if (out / name).exists()]
    taken = next((path.name for path in held if not path.is_symlink()), None)
    if taken is not None:
        raise RecipeError(
            f"{out} is no run, and holds {taken}, which a run would write over; choose another {words.out}"
        )
    return out


@contextlib.contextmanager
def given_back(folder: Path, chosen: bool) -> Iterator[None]:
    """A new run's folder is taken away again where the run ends before it has put anything there.

    Args:
        chosen: whether somebody asked for this folder, which then stays.
    """
    try:
        yield
    except BaseException:
        if not chosen:
            with contextlib.suppress(OSError):
                folder.rmdir()  # an empty one alone
        raise


def _free_folder(wanted: Path) -> Path:
    """``wanted``, made, or one with a number appended when a run is already there."""
    folder, number = wanted, 1
    while True:
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1
            folder = wanted.with_name(f"{wanted.name}-{number}")
