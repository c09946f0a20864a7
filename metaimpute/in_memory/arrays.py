"""Systems on rows of numbers that are taken as they are: no file, no folder, every column an input.

From the task on it is what a run does: the same training steps, and the same candidates measured and combined.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
import yaml

from ..batches.outputs import Classes
from ..inference import Predictor
from ..progress import counted
from ..recipes.components import NETWORK
from ..recipes.draft import FOR_VALUES
from ..recipes.recipe import Recipe, resolve, validate
from ..recipes.shipped import shipped_recipes
from ..recipes.source import Source, read
from ..tasks.arrays import ArrayTask
from ..training.assemble import take_step
from ..training.choosing import systems_of
from ..training.evaluation import class_names
from ..training.finite import Diverged
from ..training.session import TRAINING, doubts_about
from ..training.state import RunState
from .progress import shown, telling

RECIPE = "own_table"  # whose network, method and training those of an array are


@dataclass(frozen=True)
class Trained:
    """A predictor of rows in float64, so that a row's answer does not depend on its neighbours, and the network's losses.

    ``losses``: of each step; None where the network takes no part. ``warnings``: what took no part, a line each.
    """

    predictor: Predictor
    losses: list[float] | None
    warnings: tuple[str, ...]


def train_on(task: ArrayTask, adapt: Callable[[Source], Source], name: str, verbose: int = 0) -> Trained:
    """Trains and combines systems on the task's rows.

    Args:
        adapt: changes the recipe that there is for tables. name: of the caller, for messages.

    Raises:
        RecipeError: for a mistake in what ``adapt`` changes. FloatingPointError: when training diverges.
    """
    source = resolve(read(shipped_recipes()[RECIPE]), "sample")
    method = source.data["method"] if isinstance(task.output, Classes) else yaml.safe_load(FOR_VALUES)
    plain = Source({**source.data, "about": {}, "task": {"name": task.name}, "method": method}, {}, name)
    recipe = validate(adapt(plain), name, "sample", task)
    threads = torch.get_num_threads()
    try:
        return _trained(recipe, task, verbose)
    except Diverged as error:
        raise FloatingPointError(f"training diverged: {error}; lower learning_rate") from None
    finally:
        torch.set_num_threads(threads)


def _trained(recipe: Recipe, task: ArrayTask, verbose: int) -> Trained:
    steps, losses = recipe.steps, []
    with shown(verbose) as progress:
        told = telling(progress, steps, task.output)
        run = RunState(recipe, told.say)
        with contextlib.closing(run.parts.ahead):
            for step in counted(range(steps), TRAINING, steps):
                losses.append(float(take_step(run.parts, recipe, step)["loss"]))
                told.report(step + 1, {"loss": losses[-1]})
            run.algorithm.settle()
        systems = None if recipe.choose is None else systems_of(run, lambda: None, told.report_system)
        warnings = () if systems is None else tuple(doubts_about(systems))
        for line in warnings:
            told.say(f"warning: {line}")
    if systems is not None:  # the network answers for itself, and its copy would keep the data
        fitted = {name: one for name, one in systems.ensemble.fitted.items() if name != NETWORK}
        systems = dataclasses.replace(systems, ensemble=dataclasses.replace(systems.ensemble, fitted=fitted))
    task.forget()
    names = class_names(task.label_names, task.output.size)
    module = run.evaluated_module().eval().cpu().double()
    predictor = Predictor(recipe, task, module, torch.device("cpu"), names, systems)
    return Trained(predictor, losses if steps else None, warnings)
