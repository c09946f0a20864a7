"""Whether a recipe's batches can be dealt out over several processes; what cannot is refused, with the way out."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ..methods.base import Method
from ..problems.base import BilevelProblem
from ..recipes.recipe import Recipe
from .processes import Processes


def check_dealable(recipe: Recipe, processes: Processes) -> None:
    """Before anything is loaded.

    Raises:
        RecipeError: for a method, a problem or an option that one process has to hold all rows of, and for batches that cannot be
            dealt out evenly.
    """
    if processes.size == 1:
        return
    train, spec, problem, source = recipe.train, recipe.problem_spec, recipe.problem, recipe.source
    one = "run it in one process"
    if not _says(recipe.method, "row_wise"):
        reason = (
            f"'{recipe.method.name}' does not say that it works row by row (row_wise = True in its class), and several "
            f"processes have some rows each; {one}"
        )
        raise source.fail(("method", "name"), reason)
    if problem.learns != "nothing" and not _says(problem, "dealt_coupling"):
        reason = (
            f"'{problem.name}' does not say how its coupling is dealt out over several processes (dealt_coupling in its class); "
            f"{one}"
        )
        raise source.fail(("problem", "name"), reason)
    sizes = {("train", "batch"): train.batch, ("train", "unlabelled_batch"): train.unlabelled_batch}
    if problem.learns != "nothing":
        sizes["problem", "holdout_batch"] = spec.holdout_batch or train.batch
    for place, size in sizes.items():
        if size % processes.size:
            near = max(1, round(size / processes.size)) * processes.size
            raise source.fail(
                place, f"{size} rows cannot be dealt out evenly over {processes.size} processes; write {near}"
            )
    if train.watch_test:
        raise source.fail(("train", "watch_test"), f"watches the rows of one process; leave it out, or {one}")
    if train.compile:
        raise source.fail(
            ("train", "compile"), f"the loss of several processes cannot be compiled; leave it out, or {one}"
        )
    if train.precision == "fp16":
        reason = f"its loss scales have not been held to those of one process; take bf16 or float32, or {one}"
        raise source.fail(("train", "precision"), reason)
    if ":" in train.device:
        raise source.fail(
            ("train", "device"), f"'{train.device}' is one device, and each process has its own; write cuda"
        )


def _says(part: Method | BilevelProblem, name: str) -> bool:
    """Whether a component's own class, not one that it derives from, declares itself."""
    return bool(vars(type(part)).get(name))


def note_statistics(module: nn.Module, recipe: Recipe, processes: Processes, say: Callable[[str], None]) -> None:
    """Says what BatchNorm does, where there is any."""
    if recipe.train.sync_batchnorm and not has_statistics(module):
        say("note: train.sync_batchnorm=true changes nothing: the network has no BatchNorm")
    if processes.size > 1 and has_statistics(module) and not recipe.train.sync_batchnorm:
        say(
            "note: BatchNorm takes the statistics of each process's own rows, as in DistributedDataParallel; those of the joined "
            "batch: train.sync_batchnorm=true"
        )


def has_statistics(module: nn.Module) -> bool:
    """Whether a network normalises by what the batch's rows are like together."""
    return any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())
