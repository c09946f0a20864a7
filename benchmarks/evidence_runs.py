"""One run of a family of ``evidence.yaml``: a system trained on a draw, or a rival fitted to it, and its errors in percent."""

from __future__ import annotations

import dataclasses
import inspect
import time
from itertools import product
from pathlib import Path
from typing import Any

import evidence_controls  # noqa: F401  # registers what it defines
import numpy as np
import torch
from evidence_rivals import CHANGES, RIVALS, Scores, logit_adjusted
from torch import nn

from metaimpute.recipes.profiles import choose
from metaimpute.recipes.recipe import Recipe
from metaimpute.recipes.shipped import locate
from metaimpute.study.rows import flow
from metaimpute.tasks.altered import altered
from metaimpute.tasks.base import Pool, TaskData
from metaimpute.training.assemble import assemble, take_step
from metaimpute.training.evaluation import outputs_of

Point = dict[str, Any]
OWN = "own."  # settings of a change, of a rival or of what follows training, which no recipe knows


def points(arm: dict[str, Any]) -> list[Point]:
    """Every combination of an arm's grid; one empty setting where it has none."""
    grid = arm.get("grid", {})
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def recipe_of(asked: dict[str, Any], arm: dict[str, Any], point: Point, seed: int) -> Recipe:
    """What the family's recipe is with what the task sets, then the arm, then one setting of its grid."""
    of_point = {key: value for key, value in point.items() if not key.startswith(OWN)}
    sets = {**asked["set"], **arm.get("set", {}), **of_point}
    texts = tuple(f"{key}={flow(value)}" for key, value in sets.items())
    return choose(locate(Path(asked["recipe"])), "sample", texts, seed)[0]


def drawn(recipe: Recipe) -> TaskData:
    """The pools of a recipe's task and seed."""
    return altered(recipe.task, recipe.task.load(recipe.train.seed), recipe.train.seed)


def trained(recipe: Recipe, data: TaskData, begun: nn.Module | None = None) -> nn.Module:
    """The recipe's network, trained on ``data``; its parameters begin at those of ``begun``, or where the seed has them."""
    parts = assemble(recipe, lambda message: None, data)
    if begun is not None:
        parts.module.load_state_dict(begun.state_dict())
    for step in range(recipe.train.steps):
        take_step(parts, recipe, step)
    return parts.module if parts.averaged is None else parts.averaged.module


def scores_of(module: nn.Module) -> Scores:
    def scores(pool: Pool) -> np.ndarray:
        assert isinstance(pool.inputs, torch.Tensor)
        found: np.ndarray = torch.cat(outputs_of(module, [pool.inputs])).double().numpy()
        return found

    return scores


def fine_tuned(recipe: Recipe, data: TaskData, steps: int) -> nn.Module:
    """The network trained on all labelled rows, then for some steps on the trusted ones alone."""
    assert data.trusted is not None
    module = trained(recipe, data)
    few = dataclasses.replace(data, labelled=data.labelled.subset(data.trusted), clean=None, trusted=None)
    shorter = dataclasses.replace(recipe, train=recipe.train.model_copy(update={"steps": steps}))
    return trained(shorter, few, module)


def answer(recipe: Recipe, data: TaskData, arm: dict[str, Any], own: dict[str, Any]) -> Scores:
    """An arm's scores of rows, with its own settings taken by the one of its parts that has any."""
    if "rival" in arm:
        return RIVALS[arm["rival"]](data, recipe.train.seed, **own)
    after = arm.get("after")
    for change in arm.get("changes", ()):
        takes = inspect.signature(CHANGES[change]).parameters
        data = CHANGES[change](data, recipe.train.seed, **{key: value for key, value in own.items() if key in takes})
    if after == "fine_tuning":
        return scores_of(fine_tuned(recipe, data, **own))
    scores = scores_of(trained(recipe, data))
    return logit_adjusted(scores, data, **own) if after == "logit_adjustment" else scores


def error_of(scores: Scores, pool: Pool) -> float:
    assert pool.targets is not None
    return round(100 * float((scores(pool).argmax(1) != pool.targets.numpy()).mean()), 4)


def measured(asked: dict[str, Any], arm: dict[str, Any], point: Point, seed: int) -> dict[str, float]:
    """``validation`` and ``test`` error in percent, and ``seconds`` of everything but drawing the data."""
    recipe = recipe_of(asked, arm, point, seed)
    data = drawn(recipe)
    own = {key.removeprefix(OWN): value for key, value in point.items() if key.startswith(OWN)}
    start = time.perf_counter()
    scores = answer(recipe, data, arm, own)
    found = {name: error_of(scores, getattr(data, name)) for name in ("validation", "test")}
    return {**found, "seconds": float(f"{time.perf_counter() - start:.3g}")}
