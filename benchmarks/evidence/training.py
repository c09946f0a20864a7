"""From an arm of a family and a seed to a recipe, its data and its trained network."""

from __future__ import annotations

import dataclasses
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from metaimpute.recipes.profiles import choose
from metaimpute.recipes.recipe import Recipe
from metaimpute.recipes.shipped import locate
from metaimpute.study.rows import flow
from metaimpute.tasks.altered import altered
from metaimpute.tasks.base import Pool, TaskData
from metaimpute.training.assemble import Parts, assemble, take_step
from metaimpute.training.evaluation import outputs_of

from . import controls, frozen  # noqa: F401  # both register what they define
from .rivals import Scores

Point = dict[str, Any]
Learned = dict[str, torch.Tensor]
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


def parts_of(recipe: Recipe, data: TaskData, begun: nn.Module | None = None, meta: Learned | None = None) -> Parts:
    """A recipe's parts after training on ``data``; its parameters begin at those of ``begun``, or where the seed has them.

    Args:
        meta: where what an objective learns begins, by name, in the place of its own beginning.
    """
    parts = assemble(recipe, lambda message: None, data)
    if begun is not None:
        parts.module.load_state_dict(begun.state_dict())
    for name, value in (meta or {}).items():
        assert parts.algorithm.meta is not None
        with torch.no_grad():
            parts.algorithm.meta[name].copy_(value)
    for step in range(recipe.train.steps):
        take_step(parts, recipe, step)
    parts.algorithm.settle()
    return parts


def trained(recipe: Recipe, data: TaskData, begun: nn.Module | None = None, meta: Learned | None = None) -> nn.Module:
    """The network of :func:`parts_of`, averaged where the recipe averages it."""
    parts = parts_of(recipe, data, begun, meta)
    return parts.module if parts.averaged is None else parts.averaged.module


def scores_of(module: nn.Module) -> Scores:
    def scores(pool: Pool) -> np.ndarray:
        assert isinstance(pool.inputs, torch.Tensor)
        found: np.ndarray = torch.cat(outputs_of(module, [pool.inputs])).double().numpy()
        return found

    return scores


def fine_tuned(recipe: Recipe, data: TaskData, asked: dict[str, Any], steps: int) -> nn.Module:
    """The network trained as the recipe has it, then for some steps on the trusted rows alone, by the base method."""
    assert data.trusted is not None
    module = trained(recipe, data)
    few = dataclasses.replace(data, labelled=data.labelled.subset(data.trusted), clean=None, trusted=None)
    return trained(
        recipe_of(asked, {"set": {"problem.name": "none", "train.steps": steps}}, {}, recipe.train.seed), few, module
    )
