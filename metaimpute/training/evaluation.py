"""A network on a pool of examples, in evaluation mode: predictions, errors, calibration, confusion."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..batches import ViewKind
from ..batches.outputs import Classes
from ..engine.ambient import as_usual
from ..engine.pytree import Tree
from ..progress import phase
from ..rundir.measure import wilson
from ..tasks.base import Pool, Task
from .data import to_device

BINS = 15
MOST_CLASSES = 50  # of a confusion matrix worth keeping


def outputs_of(
    module: nn.Module, inputs: Iterable[Tree], examples: int | None = None, doing: str = "testing"
) -> list[Tensor]:
    """What the network returns for each of these inputs, in evaluation mode.

    Args:
        examples: how many they are together. doing: what this phase of the work is called.
    """
    was_training = module.training
    module.eval()
    try:
        found: list[Tensor] = []
        with phase(doing, examples) as reached, as_usual(), torch.inference_mode():
            for one in inputs:
                found.append(module(one))
                reached.advance(len(found[-1]))
        return found
    finally:
        module.train(was_training)


def views(
    task: Task, pool: Pool, batch: int, device: torch.device, kind: ViewKind = "none", seed: int = 0
) -> Iterator[Tree]:
    """Model inputs for a whole pool, in order, ``batch`` examples at a time; ``seed`` draws a random view."""
    rng = torch.Generator(device="cpu").manual_seed(seed)
    for index in torch.arange(len(pool), device="cpu").split(batch):
        yield to_device(task.view(pool.take(index), kind, rng), device)


@as_usual()
def predictions(
    module: nn.Module, task: Task, raw: Any, batch: int, device: torch.device, kind: ViewKind = "none", seed: int = 0,
    doing: str = "testing",
) -> Tensor:  # fmt: skip
    """The network's raw outputs ``[n, outputs]`` on the CPU, in evaluation mode.

    Args:
        raw: raw examples as ``task.view`` takes them, or a pool of them. kind: the view; ``seed`` draws a random one.
        doing: what this phase of the work is called.
    """
    pool = raw if isinstance(raw, Pool) else Pool(raw, None, torch.arange(len(raw), device="cpu"))
    found = [
        outputs.cpu() for outputs in outputs_of(module, views(task, pool, batch, device, kind, seed), len(pool), doing)
    ]
    return torch.cat(found).clone() if found else torch.zeros(0, task.output.size, device="cpu")


@as_usual()
def measure(module: nn.Module, task: Task, pool: Pool, batch: int, device: torch.device) -> dict[str, float]:
    """``error``, the task's metric over the pool (for classes: error in percent), and the means of its output's other measures.

    NaN for an empty pool.
    """
    if not len(pool) or pool.targets is None:
        return {"error": float("nan")}
    totals: dict[str, float] = {}
    known = pool.targets.split(batch)
    for raw, true in zip(outputs_of(module, views(task, pool, batch, device), len(pool)), known, strict=True):
        targets = true.to(device)
        for name, values in {"error": task.output.error(raw, targets), **task.output.measures(raw, targets)}.items():
            totals[name] = totals.get(name, 0.0) + float(values.sum())
    means = {name: total / len(pool) for name, total in totals.items()}
    return means | {"error": task.output.overall(means["error"])}


def measures_of(raw: Tensor, task: Task, pool: Pool) -> dict[str, float]:
    """:func:`measure` from outputs ``[n, outputs]`` for the pool's examples."""
    if not len(pool) or pool.targets is None:
        return {"error": float("nan")}
    found = {"error": task.output.error(raw, pool.targets), **task.output.measures(raw, pool.targets)}
    means = {name: float(values.sum()) / len(pool) for name, values in found.items()}
    return means | {"error": task.output.overall(means["error"])}


def calibration(probabilities: Tensor, targets: Tensor, bins: int = BINS) -> dict[str, Any]:
    """Expected calibration error and the reliability diagram behind it (Guo et al., ICML 2017, eq. 5).

    ``ece = sum_b n_b / n |accuracy_b - confidence_b|`` over equal-width bins of the confidence, the largest probability.

    Args:
        probabilities: ``[n, classes]``. targets: ``[n]``.

    Returns:
        ``ece`` in [0, 1], and ``bins``: for each with an example in it ``confidence``, ``accuracy`` and ``count``.
    """
    confidence, label = probabilities.double().max(-1)
    right = (label == targets).double()
    place = (confidence * bins).long().clamp(0, bins - 1)
    found = []
    for number in range(bins):
        inside = place == number
        if inside.any():
            found.append(
                {
                    "confidence": float(confidence[inside].mean()),
                    "accuracy": float(right[inside].mean()),
                    "count": int(inside.sum()),
                }
            )
    ece = sum(b["count"] * abs(b["accuracy"] - b["confidence"]) for b in found) / max(len(targets), 1)
    return {"ece": ece, "bins": found}


def confusion(labels: Tensor, targets: Tensor, classes: int) -> list[list[int]]:
    """Counts ``[true class][predicted class]``."""
    return torch.bincount(targets * classes + labels, minlength=classes**2).view(classes, classes).tolist()


@as_usual()
def outcome(module: nn.Module, task: Task, pool: Pool, batch: int, device: torch.device) -> dict[str, Any]:
    """What a report says of a finished network beside its error; empty for values and for an empty pool."""
    if not len(pool) or not isinstance(task.output, Classes):
        return {}
    return outcome_of(predictions(module, task, pool, batch, device), task, pool)


def outcome_of(raw: Tensor, task: Task, pool: Pool) -> dict[str, Any]:
    """:func:`outcome` from outputs ``[n, outputs]`` for the pool's examples."""
    if not len(pool) or pool.targets is None or not isinstance(task.output, Classes):
        return {}
    probabilities = task.output.activate(raw)
    labels = probabilities.argmax(-1)
    found: dict[str, Any] = {"calibration": calibration(probabilities, pool.targets)}
    found["balanced_accuracy"] = balanced_accuracy(labels, pool.targets)
    found["predicted_classes"] = labels.unique().tolist()[:MOST_CLASSES]
    if task.output.size <= MOST_CLASSES:
        found["confusion"] = confusion(labels, pool.targets, task.output.size)
    return found


def error_interval(raw: Tensor, task: Task, pool: Pool, draws: int = 1000) -> list[float] | None:
    """95% interval of the pool's error over other rows of its kind; None for an empty pool.

    Of classes Wilson's, of values a percentile bootstrap over the rows, from the same draws each time.

    Args:
        raw: outputs ``[n, outputs]`` for the pool's examples.
    """
    if not len(pool) or pool.targets is None:
        return None
    errors = task.output.error(raw, pool.targets).double().flatten().cpu()
    if isinstance(task.output, Classes):
        return list(wilson(float((errors > 0).sum()), len(errors)))
    rng = torch.Generator(device="cpu").manual_seed(0)
    means = torch.cat(
        [
            errors[torch.randint(len(errors), (50, len(errors)), generator=rng, device="cpu")].mean(1)
            for _ in range(draws // 50)
        ]
    )
    ends = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.double, device="cpu"))
    return [task.output.overall(float(end)) for end in ends]


def balanced_accuracy(labels: Tensor, targets: Tensor) -> float:
    """Share of right labels within each class that occurs, in percent, mean over the classes (Brodersen et al., ICPR 2010)."""
    right = (labels == targets).double()
    return 100.0 * float(torch.stack([right[targets == one].mean() for one in targets.unique()]).mean())


def one_class_for_all(found: dict[str, Any], names: Sequence[str] | None) -> list[str]:
    """A line where :func:`outcome` found one class predicted of every test example: its error may look small, and is a guess.

    Args:
        names: of the classes, where they have any.
    """
    predicted = found.get("predicted_classes", [])
    if len(predicted) != 1 or found["balanced_accuracy"] == 100:
        return []
    name = str(predicted[0]) if names is None else names[predicted[0]]
    return [
        f"the network says '{name}' of every test example: its error is the share of the others, and its balanced accuracy, "
        f"the mean over classes, {found['balanced_accuracy']:.0f}%"
    ]


def class_names(names: Sequence[str] | None, count: int) -> list[str]:
    """Names of the classes, or their numbers where they have none."""
    return list(names) if names is not None else [str(number) for number in range(count)]
