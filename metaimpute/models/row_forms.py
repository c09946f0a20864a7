"""Examples as rows of numbers: what systems beside the network learn from, in one or several forms.

A form is fitted to the training examples, kept in the run's folder, and made again from new examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from ..batches.outputs import Classes
from ..engine.ambient import as_usual
from ..tasks.base import Pool, Task, TaskError
from .base import Model
from .image_features import FeatureModel
from .text import TextModel
from .text_layers import TextLayers

READ_TOGETHER = 256
MOST_WORDS = 20_000
INPUTS, WORDS = "inputs", "words"
LINEAR = ("logistic_regression", "ridge")


def pieces(examples: Pool) -> Iterator[Any]:
    """Raw examples, a few hundred at a time: images are read as they are asked for."""
    for index in torch.arange(len(examples)).split(READ_TOGETHER):
        yield examples.take(index)


def texts_of(examples: Pool) -> list[str]:
    return [text for part in pieces(examples) for text in part]


class RowForm(Protocol):
    """A way to write examples as rows.

    Attributes:
        name: of the form. sparse: whether rows are a sparse matrix. systems: those that are worth their time on it; None for all.
    """

    name: str
    sparse: bool
    systems: tuple[str, ...] | None

    def fit(self, pools: Sequence[Pool]) -> None:
        """Learns what it needs from the training examples, labelled and unlabelled."""
        ...

    def __call__(self, examples: Pool) -> Any:
        """Rows ``[n, features]`` of a pool of raw examples, whose targets are not looked at."""
        ...

    @property
    def learnt(self) -> Any:
        """What :meth:`fit` has found, to be kept; None for nothing."""
        ...

    def restore(self, learnt: Any) -> None: ...


class Inputs:
    """What the network sees of an example: a table's row, or the features of a frozen encoder."""

    name, sparse = INPUTS, False
    learnt: Any = None
    systems: tuple[str, ...] | None = None

    def __init__(self, task: Task) -> None:
        self.task = task

    def fit(self, pools: Sequence[Pool]) -> None:
        """There is nothing to learn."""

    def restore(self, learnt: Any) -> None:
        """There is nothing to restore."""

    @as_usual()
    def __call__(self, examples: Pool) -> np.ndarray:
        found = [self.rows(raw).detach().cpu().double().flatten(1).numpy() for raw in pieces(examples)]
        return np.concatenate(found) if found else np.zeros((0, 1))

    def rows(self, raw: Any) -> torch.Tensor:
        view: Any = self.task.view(raw, "none", torch.Generator(device="cpu"))
        rows: torch.Tensor = view["pooled"] if isinstance(view, dict) else view
        return rows


class More(Inputs):
    """One of a task's further forms of its examples.

    Of classes every input has a standard deviation of 1 over the training examples, one that marks a rare word as well, which a
    linear system would all but pass over beside the numbers; trees see no difference. Of values inputs stay as the task has them.
    """

    systems: tuple[str, ...] | None = (*LINEAR, "random_forest", "extra_trees")

    def __init__(self, task: Task, name: str) -> None:
        super().__init__(task)
        self.name = name
        self.learnt: Any = None

    def fit(self, pools: Sequence[Pool]) -> None:
        if isinstance(self.task.output, Classes):
            from sklearn.preprocessing import StandardScaler

            rows = [Inputs.__call__(self, pool) for pool in pools if len(pool)]
            self.learnt = StandardScaler().fit(np.concatenate(rows))

    def restore(self, learnt: Any) -> None:
        from sklearn.preprocessing import StandardScaler

        if not isinstance(learnt, StandardScaler):
            raise ValueError("no standard deviations")
        self.learnt = learnt

    def __call__(self, examples: Pool) -> np.ndarray:
        found = super().__call__(examples)
        return found if self.learnt is None or not len(found) else np.asarray(self.learnt.transform(found))

    def rows(self, raw: Any) -> torch.Tensor:
        return self.task.in_form(raw, self.name)


class Words:
    """Words and pairs of words of texts, weighted by how rare they are (TF-IDF)."""

    name, sparse = WORDS, True
    systems: tuple[str, ...] | None = LINEAR

    def __init__(self) -> None:
        self.learnt: Any = None

    def fit(self, pools: Sequence[Pool]) -> None:
        texts = [text for pool in pools for text in texts_of(pool)]
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectorizer = TfidfVectorizer(
            sublinear_tf=True, min_df=2 if len(texts) > 50 else 1, max_features=MOST_WORDS, strip_accents="unicode"
        )
        try:
            self.learnt = vectorizer.fit(texts)
        except ValueError:  # no word in any of them
            self.learnt = TfidfVectorizer(token_pattern="(?s).", max_features=MOST_WORDS).fit([*texts, "x"])

    def restore(self, learnt: Any) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        if not isinstance(learnt, TfidfVectorizer):
            raise ValueError("no vocabulary")
        self.learnt = learnt

    def __call__(self, examples: Pool) -> Any:
        return self.learnt.transform(texts_of(examples)).tocsr()


def check_forms(task: Task, model: Model) -> None:
    """Raises:
    TaskError: when the network learns its features itself, so that there are none for others to learn from."""
    kept = isinstance(model, FeatureModel) and getattr(model, "frozen", "all") == "all"
    if task.input_kind in ("vector", "text") or kept:
        return
    raise TaskError(
        f"model '{getattr(model, 'name', '')}' learns its features of {task.input_kind}s itself, and other systems have none; "
        "take 'timm' or 'patches', or drop choose"
    )


def row_forms(task: Task, model: Model, device: torch.device) -> list[RowForm]:
    """The forms of a task's examples that a model has, the most telling one first.

    Raises:
        TaskError: when the network learns its features itself, so that there are none for others to learn from.
    """
    check_forms(task, model)
    if task.input_kind != "text":
        return [Inputs(task), *(More(task, name) for name in task.more_forms)]
    words: list[RowForm] = [Words()]
    if isinstance(model, TextModel) and model.weights == "pretrained" and model.frozen:
        layers = TextLayers(model, device)
        return [*(layers.at(level) for level in layers.levels[::-1]), *words]
    return words
