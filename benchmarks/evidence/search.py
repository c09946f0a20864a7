"""Hyperparameters of a consistency loss by grid search, random search and hypergradient, at about equal cost.

All three see the same part of the labels held out. What each finds is then trained with once on all labels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import nn, tensor

from metaimpute.batches.outputs import Classes
from metaimpute.recipes.recipe import Recipe
from metaimpute.tasks.base import Pool, TaskData
from metaimpute.tasks.splits import separate_holdout

from .training import Point, parts_of, recipe_of, scores_of, trained

TRIED = 4  # settings of a search; with the last training, five trainings of the base method
QUARTERS = (0.25, 0.75)
Search = Callable[[Recipe, TaskData, dict[str, Any], dict[str, Any], Point], nn.Module]


def held_out_loss(module: nn.Module, pool: Pool) -> float:
    """Mean cross-entropy of held-out labels."""
    return float(F.cross_entropy(tensor(scores_of(module)(pool)), pool.targets))


def places(asked: dict[str, Any], at: list[tuple[float, ...]]) -> list[Point]:
    """Settings at these places of the family's ``search``, ranges ``[low, high]`` by key: 0 is low, 1 high, by logarithm."""
    ranges = asked["search"]
    return [
        {
            key: float(low * (high / low) ** share)
            for (key, (low, high)), share in zip(ranges.items(), place, strict=True)
        }
        for place in at
    ]


def best_of(recipe: Recipe, data: TaskData, asked: dict[str, Any], arm: dict[str, Any], tried: list[Point]) -> Point:
    """The setting whose network, trained on the labels that are not held out, has the lowest loss on those that are."""
    assert isinstance(recipe.task.output, Classes)
    seed = recipe.train.seed
    part, held = separate_holdout(data.labelled, recipe.task.output.size, seed)
    fewer = dataclasses.replace(data, labelled=part)
    return min(tried, key=lambda one: held_out_loss(trained(recipe_of(asked, arm, one, seed), fewer), held))


def by_grid(recipe: Recipe, data: TaskData, asked: dict[str, Any], arm: dict[str, Any], point: Point) -> nn.Module:
    """The middles of the halves of each of two ranges."""
    tried = places(asked, list(product(QUARTERS, repeat=len(asked["search"]))))
    found = best_of(recipe, data, asked, arm, [{**point, **one} for one in tried])
    return trained(recipe_of(asked, arm, found, recipe.train.seed), data)


def at_random(recipe: Recipe, data: TaskData, asked: dict[str, Any], arm: dict[str, Any], point: Point) -> nn.Module:
    """As many settings as :func:`by_grid`, drawn with the seed."""
    draws = np.random.default_rng(recipe.train.seed).random((TRIED, len(asked["search"])))
    tried = places(asked, [tuple(row) for row in draws.tolist()])
    found = best_of(recipe, data, asked, arm, [{**point, **one} for one in tried])
    return trained(recipe_of(asked, arm, found, recipe.train.seed), data)


def by_hypergradient(
    recipe: Recipe, data: TaskData, asked: dict[str, Any], arm: dict[str, Any], point: Point
) -> nn.Module:
    """Weight and threshold as they are learned at the end of one training, then the base method with them."""
    meta = parts_of(recipe, data).algorithm.meta
    assert meta is not None
    learned = {
        "method.weight": float(meta["log_weight"].detach().exp()),
        "method.threshold": float(meta["threshold_logit"].detach().sigmoid()),
    }
    last = {"set": {key: value for key, value in arm.get("set", {}).items() if not key.startswith("problem")}}
    setting = {key: value for key, value in point.items() if not key.startswith("problem")}
    again = recipe_of(asked, last, {**setting, **learned, "problem.name": "none"}, recipe.train.seed)
    return trained(again, data)


SEARCHES: dict[str, Search] = {"by_grid": by_grid, "at_random": at_random, "by_hypergradient": by_hypergradient}
