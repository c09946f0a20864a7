"""New tasks of one kind: a start or a rule learned on many small tasks, against what needs no hypergradient.

A system answers the query sets of new episodes. An objective adapts to each support set as it does in tests; rivals fit each
support set alone, or on features of one network trained on all classes that are not the tests'.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from torch import Tensor

from metaimpute import register_task
from metaimpute.engine.pytree import Tree
from metaimpute.problems.base import register_problem
from metaimpute.problems.l2i import RandomDirection
from metaimpute.problems.maml import MAML
from metaimpute.recipes.recipe import Recipe
from metaimpute.tasks.base import Missing, Pool, Task, TaskData
from metaimpute.tasks.fashion_mnist import find_fashion_mnist, read_idx
from metaimpute.tasks.few_shot import FewShot

from .training import Point, parts_of

AT_ONCE = 100  # episodes
Answers = Callable[[Tree], Tensor]  # of episodes' support, given and query to raw outputs [n, q, outputs]


@register_problem("random_maml")
class RandomMAML(MAML):
    """Control: a start that goes a random way, as far as the hypergradient would take it."""

    control = RandomDirection.control


@register_task("few_shot_fashion")
class FewShotFashion(FewShot):
    """Fashion-MNIST's test images at half their side: episodes of the first six kinds to learn from, of the others to test by."""

    input_shape = (1, 14, 14)

    def missing(self) -> list[Missing]:
        found = find_fashion_mnist()
        return [] if found else [Missing("Fashion-MNIST", ("METAIMPUTE_DATA",), "metaimpute data get fashion_mnist")]

    def classes(self) -> tuple[Tensor, dict[str, list[Tensor]], str]:
        folder = find_fashion_mnist()
        assert folder is not None
        images, labels = (read_idx(next(iter(sorted(folder.glob(f"t10k-{kind}*"))))) for kind in ("images", "labels"))
        small = torch.nn.functional.avg_pool2d(images[:, None].float() / 255, 2)
        members = [(labels == label).nonzero()[:, 0] for label in range(10)]
        return small, {"train": members[:6], "validation": members[6:], "test": members[6:]}, "Fashion-MNIST"


# systems ---------------------------------------------------------------------------------------------------------------


def adapted(recipe: Recipe, data: TaskData, own: Point) -> Answers:
    """The recipe trained, then adapting as its own tests do; ``own.lr`` is the rate of those steps, where it is another."""
    parts = parts_of(recipe, data)
    look_ahead = parts.algorithm.lookahead
    if "lr" in own:
        rule = look_ahead.settings.optimizer.with_hyper(lr=own["lr"])
        look_ahead.settings = dataclasses.replace(look_ahead.settings, optimizer=rule)
    module = look_ahead.evaluated(parts.module.eval())

    def answer(episodes: Tree) -> Tensor:
        with torch.no_grad():
            found: Tensor = module(episodes)
        return found

    return answer


def gaussian_process(task: Task, data: TaskData, seed: int, length: float) -> Answers:
    """Mean of a Gaussian process of unit variance, a noise of 1e-3 and a kernel of this length, on each support set."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (-0.5 * (torch.cdist(a, b) / length).square()).exp()

    def answer(episodes: Tree) -> Tensor:
        x, y, new = (episodes[name].double() for name in ("support", "given", "query"))
        gram = kernel(x, x) + 1e-3 * torch.eye(x.shape[1], dtype=x.dtype)
        found: Tensor = (kernel(new, x) @ torch.linalg.solve(gram, y)).float()
        return found

    return answer


def centroids(support: Tensor, given: Tensor, query: Tensor, ways: int) -> Tensor:
    """Minus the squared distance to the mean of each class, ``[n, q, ways]``."""
    means = torch.stack([support[(given == label)].mean(0) for label in range(ways)])
    return -torch.cdist(query, means).square()


def each(task: Task, one: Callable[[Tensor, Tensor, Tensor], Tensor], features: Callable[[Tensor], Tensor]) -> Answers:
    def answer(episodes: Tree) -> Tensor:
        support, query = (features(episodes[name].flatten(2)) for name in ("support", "query"))
        rows = zip(support, episodes["given"], query, strict=True)
        return torch.stack([one(*row) for row in rows])

    return answer


def unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows, dim=-1)


def nearest_centroid(task: Any, data: TaskData, seed: int, way: str) -> Answers:
    """The class whose support images have the nearest mean; ``way``: of pixels, of their direction, or of their square roots'."""
    ways = {"pixels": lambda rows: rows, "direction": unit, "roots": lambda rows: unit(rows.clamp_min(0).sqrt())}
    return each(task, lambda s, g, q: centroids(s, g, q, task.ways), ways[way])


def logistic_regression(task: Any, data: TaskData, seed: int, strength: float) -> Answers:
    def one(support: Tensor, given: Tensor, query: Tensor) -> Tensor:
        model = LogisticRegression(C=strength, max_iter=200)
        model.fit(support.numpy(), given.numpy())
        return torch.from_numpy(model.predict_log_proba(query.numpy())).float()

    return each(task, one, lambda rows: rows)


def features_of_a_classifier(task: Any, data: TaskData, seed: int, penalty: float) -> Answers:
    """Nearest centroid on the last hidden layer of a network trained to tell the other classes apart (Chen et al., ICLR 2019)."""
    _, parts, _ = task.classes()
    index = torch.cat(parts["train"])
    labels = np.repeat(np.arange(len(parts["train"])), [len(part) for part in parts["train"]])
    model = MLPClassifier((64, 64), alpha=penalty, max_iter=60, random_state=seed, early_stopping=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(task.images[index].flatten(1).numpy(), labels)

    def hidden(rows: Tensor) -> Tensor:
        found = rows.double()
        for weight, bias in zip(model.coefs_[:-1], model.intercepts_[:-1], strict=True):
            found = (found @ torch.from_numpy(weight).double() + torch.from_numpy(bias).double()).relu()
        return unit(found).float()

    return each(task, lambda s, g, q: centroids(s, g, q, task.ways), hidden)


RIVALS: dict[str, Callable[..., Answers]] = {
    "gaussian_process": gaussian_process, "nearest_centroid": nearest_centroid,
    "logistic_regression": logistic_regression, "features_of_a_classifier": features_of_a_classifier,
}  # fmt: skip


# measurement -----------------------------------------------------------------------------------------------------------


def error_of(answers: Answers, task: Task, pool: Pool) -> float:
    """Mean error of the queries, in percent, or their mean squared error."""
    assert isinstance(pool.inputs, Tensor) and pool.targets is not None
    rng, found = torch.Generator().manual_seed(0), []
    for index in torch.arange(len(pool)).split(AT_ONCE):
        raw = answers(task.view(pool.inputs[index], "none", rng))
        found.append(task.output.error(raw, pool.targets[index]))
    return float(f"{float(torch.cat(found).mean()):.5g}")


def answers_of(recipe: Recipe, data: TaskData, arm: dict[str, Any], own: Point) -> Answers:
    """An arm's answers, with its own settings."""
    if "rival" in arm:
        return RIVALS[arm["rival"]](recipe.task, data, recipe.train.seed, **own)
    return adapted(recipe, data, own)
