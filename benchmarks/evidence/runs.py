"""One run of a family of ``families.yaml``: a system trained on a draw, or a rival fitted to it, and its errors in percent."""

from __future__ import annotations

import inspect
import time
from typing import Any

from metaimpute.recipes.recipe import Recipe
from metaimpute.tasks.base import Pool, TaskData

from . import episodes
from .rivals import CHANGES, RIVALS, Scores, doubts, logit_adjusted
from .search import SEARCHES
from .training import OWN, Point, drawn, fine_tuned, recipe_of, scores_of, trained


def own_of(point: Point) -> Point:
    """The settings of a rival, a change or what follows training, without the mark that they are that."""
    return {key.removeprefix(OWN): value for key, value in point.items() if key.startswith(OWN)}


def answer(recipe: Recipe, data: TaskData, asked: dict[str, Any], arm: dict[str, Any], point: Point) -> Scores:
    """An arm's scores of rows, with its own settings taken by the one of its parts that has any."""
    own = own_of(point)
    if "rival" in arm:
        return RIVALS[arm["rival"]](data, recipe.train.seed, **own)
    after = arm.get("after")
    for change in arm.get("changes", ()):
        takes = inspect.signature(CHANGES[change]).parameters
        data = CHANGES[change](data, recipe.train.seed, **{key: value for key, value in own.items() if key in takes})
    if after in SEARCHES:
        return scores_of(SEARCHES[after](recipe, data, asked, arm, point))
    if after == "fine_tuning":
        return scores_of(fine_tuned(recipe, data, asked, own["steps"]))
    begun = doubts(data, recipe.train.seed, **own) if arm.get("warm") else None
    scores = scores_of(trained(recipe, data, meta=begun))
    return logit_adjusted(scores, data, **own) if after == "logit_adjustment" else scores


def error_of(scores: Scores, pool: Pool) -> float:
    assert pool.targets is not None
    return round(100 * float((scores(pool).argmax(1) != pool.targets.numpy()).mean()), 4)


def measured(asked: dict[str, Any], arm: dict[str, Any], point: Point, seed: int) -> dict[str, float]:
    """``validation`` and ``test`` error in percent, and ``seconds`` of everything but drawing the data."""
    recipe = recipe_of(asked, arm, point, seed)
    data = drawn(recipe)
    start = time.perf_counter()
    if recipe.task.episodes:
        answers = episodes.answers_of(recipe, data, arm, own_of(point))
        found = {name: episodes.error_of(answers, recipe.task, getattr(data, name)) for name in ("validation", "test")}
    else:
        scores = answer(recipe, data, asked, arm, point)
        found = {name: error_of(scores, getattr(data, name)) for name in ("validation", "test")}
    return {**found, "seconds": float(f"{time.perf_counter() - start:.3g}")}
