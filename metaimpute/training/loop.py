"""One step of training, as every run takes it."""

from __future__ import annotations

from torch import Tensor

from ..engine import derive_seed, fixed_rng
from ..recipes.recipe import Recipe
from .assemble import Parts
from .watch import UpdateWatch

STEP = 2


def take_step(
    parts: Parts, recipe: Recipe, step: int, *, measure: bool = False, watch: UpdateWatch | None = None
) -> dict[str, Tensor | float]:
    """Draws the batches of ``step`` (from 0), trains on them, and moves averaged weights and learning rates along.

    Everything random is a function of the recipe's seed and the step. Returns what the algorithm measured.

    Raises:
        Diverged: when a loss is not finite.
    """
    with fixed_rng(derive_seed(recipe.train.seed, STEP, step)):
        with parts.algorithm.phases("data"):
            batch = parts.batches.batch(step)
            holdout = parts.batches.holdout(step) if recipe.problem.learns != "nothing" else None
        found = parts.algorithm.step(batch, holdout, measure=measure, watch=watch)
    if parts.averaged is not None:
        parts.averaged.update_parameters(parts.module)
    for scheduler in parts.schedulers:
        scheduler.step()
    return found
