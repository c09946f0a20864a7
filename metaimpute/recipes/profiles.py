"""Which profile a recipe runs under: ``paper`` when data, weights and an accelerator are there, else ``sample``."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from ..environment import accelerator
from .recipe import Concrete, Recipe, load
from .source import RecipeError, Source, read


def profiles_of(source: Source) -> list[Concrete]:
    """Profiles a recipe defines; one without any has a ``sample`` alone."""
    profiles = source.data.get("profiles")
    found = [key for key in ("paper", "sample") if isinstance(profiles, dict) and key in profiles]
    return cast("list[Concrete]", found or ["sample"])


def choose(path: Path, wanted: str, sets: tuple[str, ...] = (), seed: int | None = None) -> tuple[Recipe, str]:
    """The recipe under the wanted profile, and the reason for the choice in a few words.

    Raises:
        RecipeError: for a mistake in the recipe, or a profile it does not have.
    """
    available = profiles_of(read(path))
    if wanted != "auto":
        if wanted not in available:
            raise RecipeError(f"{path}: the recipe has no profile '{wanted}'; it has {', '.join(available)}")
        return load(path, wanted, sets, seed), "asked for"
    if "paper" not in available:
        return load(path, "sample", sets, seed), "the recipe has no paper profile"
    paper = load(path, "paper", sets, seed)
    reasons = [f"{missing.what} not found" for missing in paper.missing()]
    if accelerator() is None:
        reasons.insert(0, "no accelerator")
    if not reasons:
        return paper, "data, weights and an accelerator are here"
    if "sample" not in available:
        return paper, "the recipe has no sample profile"
    return load(path, "sample", sets, seed), "; ".join(reasons)
