"""From a recipe to the parts of a run, bound to one another, and the step of training that they take together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from ..batches.outputs import Classes
from ..engine import derive_seed, fixed_rng, parse_memory
from ..engine.ambient import as_usual
from ..engine.pytree import Tree
from ..engine.registry import describe_choices
from ..ensemble.folds import folds
from ..environment import pick_device
from ..methods.base import ema_decay
from ..problems.base import BilevelProblem, Context, Sizes
from ..problems.returned import own_values
from ..progress import phase
from ..recipes.optim import OptimizerSpec
from ..recipes.rates import parse_rate
from ..recipes.recipe import Recipe
from ..streams import Stream
from ..tasks.altered import altered
from ..tasks.base import MissingData, Pool, TaskData, TaskError
from ..tasks.splits import separate_holdout, without
from .ahead import Ahead, has_workers_of_its_own
from .algorithm import Algorithm1
from .compiled import require_compiler, uncompiled_parts
from .data import BatchSizes, BatchSource, to_device
from .dealing import check_dealable, note_statistics
from .label_updates import UpdateWatch
from .lookahead import OuterSettings
from .precision import functional
from .processes import ALONE, Processes, device_of

CALIBRATION_SAMPLE = 512
Tensors = tuple[Tensor, ...] | list[Tensor]


@dataclass(frozen=True)
class Parts:
    """What a run is made of. ``averaged``: the evaluated weights, where the recipe averages them."""

    device: torch.device
    data: TaskData
    module: nn.Module
    optimizer: torch.optim.Optimizer
    outer_optimizer: torch.optim.Optimizer | None
    schedulers: list[LambdaLR]
    algorithm: Algorithm1
    batches: BatchSource
    ahead: Ahead
    watch: UpdateWatch | None
    averaged: AveragedModel | None


@as_usual()
def assemble(
    recipe: Recipe, say: Callable[[str], None], data: TaskData | None = None, processes: Processes = ALONE
) -> Parts:
    """Loads the data and builds everything the recipe names.

    Args:
        data: of the recipe's task, loaded before, or a part of it. processes: over which batches are dealt out.

    Raises:
        RecipeError: for options the data cannot meet. MissingData: when data or weights are absent.
    """
    train, spec, task, method = recipe.train, recipe.problem_spec, recipe.task, recipe.method
    check_dealable(recipe, processes)
    processes.synchronise(train.sync_batchnorm)
    if train.threads is not None:
        torch.set_num_threads(train.threads)
    try:
        device = device_of(pick_device(train.device), processes)
    except ValueError as error:
        raise recipe.source.fail(("train", "device"), str(error)) from None
    lacking = require_compiler(device) if train.compile else None
    if lacking is not None:
        raise recipe.source.fail(("train", "compile"), lacking)
    if recipe.missing():
        raise MissingData(recipe.missing())
    draws = method.uses_unlabelled or recipe.problem.draws_unlabelled
    try:
        module, data = _network_and_data(recipe, device, draws, say, data)
        labelled, holdout = _holdout(recipe, data)
    except TaskError as error:
        raise recipe.task_error(error) from None
    note_statistics(module, recipe, processes, say)
    if train.channels_last:
        module.to(memory_format=torch.channels_last)
    model = functional(module, recipe.model.head, train.precision)
    method.bind(task.output)
    sizes = Sizes(len(labelled), len(data.unlabelled), task.output.size, train.batch, task.input_shape)
    problem = recipe.problem.bind(Context(model, method, task.output, sizes, spec.path, spec.inner_loss, spec.form))
    for name in recipe.estimator.named_parameters():
        if name not in model.params:
            reason = f"'{name}' is not a parameter of the model; {describe_choices(name, list(model.params))}"
            raise recipe.source.fail(("problem", "estimator", "parameters"), reason)
    optimizer = train.optimizer.build(module, model.head if train.optimizer.head_lr else ())
    schedulers = [train.schedule.build(optimizer, train.steps)]
    outer, meta = _outer(recipe, problem, module, sizes, device)
    if outer is not None and meta is None:
        schedulers.append(train.schedule.build(outer, train.steps))
    settings = OuterSettings(
        recipe.estimator, spec.inner.build(), parse_memory(spec.memory), spec.inner.steps, spec.weight, spec.schedule,
        spec.relative, spec.outer_optimizer == "shared", spec.psi, train.clip_norm,
        outer_decays=spec.outer_optimizer == "separate" and spec.outer is not None,
        rate=parse_rate(spec.inner.rate)(spec.inner.lr), compile=train.compile,
    )  # fmt: skip
    if train.compile and (line := uncompiled_parts(recipe.problem, recipe.estimator)):
        say(line)
    batches = BatchSource(
        task, method, labelled, data.unlabelled, holdout,
        BatchSizes(train.batch, train.unlabelled_batch, spec.holdout_batch or train.batch),
        spec.holdout_view or method.labelled_view, train.steps, train.seed, device, needs_unlabelled=draws,
        folds=_folds(recipe, labelled), views=train.views, processes=processes,
    )  # fmt: skip
    return Parts(
        device, data, module, optimizer, outer, schedulers,
        Algorithm1(model, method, problem, settings, optimizer, outer, meta, train.seed, processes), batches,
        Ahead(batches, _workers(recipe, device, say), problem.learns != "nothing", recipe.steps),
        _watch(recipe, module, data, device, say), None if train.ema is None else averaged_model(module, train.ema),
    )  # fmt: skip


def _network_and_data(
    recipe: Recipe, device: torch.device, draws: bool, say: Callable[[str], None], data: TaskData | None
) -> tuple[nn.Module, TaskData]:
    task, seed = recipe.task, recipe.train.seed
    if data is None:
        with phase("loading data"):
            data = altered(task, task.load(seed), seed)
    for line in data.warnings:
        say(f"warning: {line}")
    with phase("building the network"), fixed_rng(derive_seed(seed, Stream.INIT)):
        module = recipe.model.build(task.input_shape, task.output.size).to(device).train()
    task.prepare_inputs = recipe.model.preprocess(device)

    def calibration() -> Iterator[Tree]:
        """Evaluation views of a fixed random sample of the unlabelled pool."""
        rng = torch.Generator(device="cpu").manual_seed(derive_seed(seed, Stream.CALIBRATION))
        for index in torch.randperm(len(data.unlabelled), generator=rng, device="cpu")[:CALIBRATION_SAMPLE].split(64):
            yield to_device(task.view(data.unlabelled.take(index), "none", rng), device)

    if not recipe.steps and task.input_kind == "text":  # a network that takes no part; systems encode texts themselves
        return module, data
    with phase("calibrating"):
        recipe.model.calibrate(module, calibration)
    if not recipe.steps:  # systems see images as they are, and no augmented versions
        return module, data
    known = recipe.model.remember(task.distinct_inputs(data, draws) or [])
    if known:
        say(f"ran the frozen encoder once over {known:,} {task.input_kind}s, augmented versions among them")
    return module, data


def _workers(recipe: Recipe, device: torch.device, say: Callable[[str], None]) -> int:
    """Processes that prepare batches.

    Raises:
        RecipeError: where the model prepares inputs on a device, which they cannot.
    """
    count = recipe.train.workers
    if count and (reason := recipe.model.reason_against_workers(device)):
        raise recipe.source.fail(("train", "workers"), reason)
    if count and not has_workers_of_its_own():
        say("note: batches are prepared in the run's own process, as it is one of several at work (train.workers)")
        return 0
    return count


def _holdout(recipe: Recipe, data: TaskData) -> tuple[Pool, Pool]:
    """Pools that labelled and hold-out batches come from: the same one (joint), or two parts of it (separate, trusted)."""
    if recipe.problem_spec.folds or recipe.problem_spec.holdout == "joint" or recipe.problem.learns == "nothing":
        return data.labelled, data.labelled
    if recipe.problem_spec.holdout == "trusted":
        if data.trusted is None or not 0 < len(data.trusted) < len(data.labelled):
            count = 0 if data.trusted is None else len(data.trusted)
            known = f"{count} of the {len(data.labelled):,} training labels are known to be right"
            reason = f"{known}; trusted needs some that are, and others to train on"
            raise recipe.source.fail(("problem", "holdout"), reason)
        return data.labelled.subset(without(len(data.labelled), data.trusted)), data.labelled.subset(data.trusted)
    output = recipe.task.output
    return separate_holdout(data.labelled, output.size if isinstance(output, Classes) else None, recipe.train.seed)


def _folds(recipe: Recipe, labelled: Pool) -> list[Tensor]:
    """Positions of labelled examples that are held out in turn, balanced over classes; none but for ``holdout: folds(n)``.

    Raises:
        RecipeError: where they are too few.
    """
    count = recipe.problem_spec.folds
    if count is None or recipe.problem.learns == "nothing" or labelled.targets is None:
        return []
    seed = derive_seed(recipe.train.seed, Stream.HOLDOUT_SPLIT)
    targets, classes = labelled.targets.numpy(), isinstance(recipe.task.output, Classes)
    found = [torch.from_numpy(held) for _, held in folds(targets, count, 1, seed, classes)]
    if len(found) < count:
        reason = f"folds({count}) needs {count} labels that can be held out, and there are {len(found)}"
        raise recipe.source.fail(("problem", "holdout"), reason)
    return found


def _outer(
    recipe: Recipe, problem: BilevelProblem, module: nn.Module, sizes: Sizes, device: torch.device
) -> tuple[torch.optim.Optimizer | None, dict[str, Tensor] | None]:
    """The outer step's optimiser where it is not the base step's, and what an ``"own"`` problem learns."""
    spec = recipe.problem_spec
    if problem.learns == "own":
        with fixed_rng(derive_seed(recipe.train.seed, Stream.META)):
            initial = own_values(problem, problem.init_meta(sizes))
        meta = {n: t.to(device).requires_grad_() for n, t in initial.items()}
        return (spec.outer or OptimizerSpec(lr=0.01)).build(list(meta.values())), meta
    if problem.learns != "nothing" and spec.outer_optimizer == "separate":
        return (spec.outer or recipe.train.optimizer).build(module), None
    return None, None


def _watch(
    recipe: Recipe, module: nn.Module, data: TaskData, device: torch.device, say: Callable[[str], None]
) -> UpdateWatch | None:
    count = recipe.train.watch_test
    if not count:
        return None
    if recipe.problem.learns not in ("network", "labels"):
        say(f"note: problem '{recipe.problem.name}' makes no label update that train.watch_test could watch")
        return None
    return UpdateWatch(module, recipe.task, data.test, count, recipe.train.seed, device)


def averaged_model(module: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of the weights for evaluation, with a warm-up so that short runs forget their start.

    ``torch.optim.swa_utils.AveragedModel`` with decay ``min(1 - 1/(t+1), decay)`` over parameters and float buffers.
    """

    def average(averaged: Tensors, current: Tensors, count: Tensor | int) -> None:
        """Of one device and type, all together."""
        if not averaged[0].is_floating_point():
            torch._foreach_copy_(averaged, current)
            return
        # torch hands over a copy of the count on the accelerator, which reading would wait for; its own is on the CPU
        torch._foreach_lerp_(averaged, current, 1.0 - ema_decay(int(found.n_averaged), decay))

    found = AveragedModel(module, multi_avg_fn=average, use_buffers=True)
    return found


@as_usual()
def take_step(
    parts: Parts, recipe: Recipe, step: int, *, measure: bool = False, watch: UpdateWatch | None = None
) -> dict[str, Tensor | float]:
    """Draws the batches of ``step`` (from 0), trains on them, and moves averaged weights and learning rates along.

    Everything random is a function of the recipe's seed and the step. Returns what the algorithm measured.

    Raises:
        Diverged: when a loss is not finite.
    """
    with fixed_rng(derive_seed(recipe.train.seed, Stream.STEP, step)):
        with parts.algorithm.stopwatch("data"):
            batch, holdout = parts.ahead(step)
        found = parts.algorithm.step(batch, holdout, measure=measure, watch=watch)
    if parts.averaged is not None:
        parts.averaged.update_parameters(parts.module)
    for scheduler in parts.schedulers:
        scheduler.step()
    return found
