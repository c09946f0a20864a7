"""Recipes that come with the package."""

from __future__ import annotations

from pathlib import Path

from ..catalog import CHECKOUT, INSTALLED, shipped_recipes
from ..engine.registry import nearest
from .source import RecipeError

__all__ = ["CHECKOUT", "INSTALLED", "locate", "shipped_recipes"]


def locate(given: Path) -> Path:
    """A recipe's file: the given one, or for a bare name such as ``imdb_uda`` the one that comes with the package.

    Raises:
        RecipeError: for a bare name that is neither, with the nearest.
    """
    if given.exists() or len(given.parts) != 1 or given.is_absolute():
        return given
    known = shipped_recipes()
    if given.suffix == ".yaml":
        return known.get(given.stem, given)
    if given.name not in known:
        found = nearest(given.name, list(known))
        close = f"did you mean '{found}'?" if found else "metaimpute list recipes names them"
        raise RecipeError(f"no file '{given}' here, and no recipe of that name comes with metaimpute; {close}")
    return known[given.name]
