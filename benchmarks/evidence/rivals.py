"""Simple rivals in the families of ``families.yaml``: changes of the labelled rows before training, and systems of other kinds.

A change takes pools and its settings to pools; a network, or an objective, is then trained on those. A system takes pools and
its settings to a function from rows to scores ``[n, classes]``. None sees right labels that the arms do not see.
"""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier

from metaimpute.tasks.base import Pool, TaskData
from metaimpute.tasks.splits import without

_cross_validated = dict[tuple[str, int, float], np.ndarray]()  # several arms ask for the same
Change = Callable[..., TaskData]
Scores = Callable[[Pool], np.ndarray]
FOLDS = 5
SURE = 0.02  # chances nearer to 0 or 1 count as this far from them


def rows_of(pool: Pool) -> np.ndarray:
    """Inputs as rows of numbers, ``[n, features]``."""
    assert isinstance(pool.inputs, torch.Tensor)
    found: np.ndarray = pool.inputs.flatten(1).double().numpy()
    return found


def labels_of(data: TaskData) -> np.ndarray:
    assert data.labelled.targets is not None
    return data.labelled.targets.numpy()


def kept(data: TaskData, positions: np.ndarray) -> TaskData:
    """The labelled rows at ``positions``, of which each trusted one is there still, or again; a repeated row counts again."""
    index = torch.as_tensor(positions, dtype=torch.long)
    trusted = None
    if data.trusted is not None:
        trusted = torch.isin(index, data.trusted).nonzero()[:, 0]
    clean = None if data.clean is None else data.clean[index]
    return dataclasses.replace(data, labelled=data.labelled.subset(index), clean=clean, trusted=trusted)


# changes of the labelled rows ------------------------------------------------------------------------------------------


def cross_validated(data: TaskData, seed: int, strength: float) -> np.ndarray:
    """Probabilities ``[n, classes]`` of each labelled row from logistic regressions that have not seen its label."""
    rows, labels = rows_of(data.labelled), labels_of(data)
    key = hashlib.sha256(rows.tobytes() + labels.tobytes()).hexdigest(), seed, strength
    if key not in _cross_validated:
        model = LogisticRegression(C=strength, max_iter=300)
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _cross_validated[key] = cross_val_predict(model, rows, labels, cv=folds, method="predict_proba")
    return _cross_validated[key].copy()


def without_issues(data: TaskData, seed: int, strength: float, way: str) -> TaskData:
    from cleanlab.filter import find_label_issues

    shares = cross_validated(data, seed, strength)
    issue = np.array(find_label_issues(labels_of(data), shares, filter_by=way, n_jobs=1))
    if data.trusted is not None:
        issue[data.trusted.numpy()] = False
    return kept(data, np.flatnonzero(~issue))


def confident_learning(data: TaskData, seed: int, strength: float = 0.3) -> TaskData:
    """Without the rows that confident learning prunes (Northcutt et al., 2021), of which trusted ones are none.

    Args:
        strength: inverse of the penalty of the logistic regressions that are cross-validated.
    """
    return without_issues(data, seed, strength, "prune_by_noise_rate")


def disagreement(data: TaskData, seed: int, strength: float) -> TaskData:
    """Without the rows whose label cross-validation disagrees with."""
    return without_issues(data, seed, strength, "predicted_neq_given")


def trusted_twice(data: TaskData, seed: int) -> TaskData:
    """Trusted rows among the others as well, which an objective then trains on; those held out are the same rows again."""
    assert data.trusted is not None
    count = len(data.labelled)
    index = torch.cat([torch.arange(count), data.trusted])
    found = kept(data, index.numpy())
    return dataclasses.replace(found, trusted=torch.arange(count, count + len(data.trusted)))


def trusted_alone(data: TaskData, seed: int) -> TaskData:
    """The trusted rows and no other."""
    assert data.trusted is not None
    return kept(data, data.trusted.numpy())


def oversampled(data: TaskData, seed: int, power: float) -> TaskData:
    """Rows of rare classes again and again: a class of n rows, of m in the largest, ``(m / n) ** power`` times."""
    labels = labels_of(data)
    counts = np.bincount(labels)
    times = np.maximum(1, np.rint((counts.max() / counts[labels].clip(1)) ** power)).astype(int)
    return kept(data, np.repeat(np.arange(len(labels)), times))


CHANGES: dict[str, Change] = {
    "confident_learning": confident_learning, "disagreement": disagreement, "trusted_twice": trusted_twice,
    "trusted_alone": trusted_alone, "oversampled": oversampled,
}  # fmt: skip


def doubts(data: TaskData, seed: int, strength: float = 0.3) -> dict[str, torch.Tensor]:
    """Logits of the training rows' weights by cross-validation: of the chance that a label is right, trusted ones near 1."""
    assert data.trusted is not None
    rows = kept(data, without(len(data.labelled), data.trusted).numpy())  # the others are held out
    chance = cross_validated(rows, seed, strength)[np.arange(len(rows.labelled)), labels_of(rows)]
    chance[torch.isin(rows.labelled.ids, data.labelled.ids[data.trusted]).numpy()] = 1.0
    return {"logits": torch.from_numpy(chance).float().clamp(SURE, 1 - SURE).logit()}


# systems of other kinds ------------------------------------------------------------------------------------------------


def fitted_to_all(data: TaskData, model: Any) -> Scores:
    """A classifier of scikit-learn on labelled and unlabelled rows; -1 stands for no label."""
    rows = np.concatenate([rows_of(data.labelled), rows_of(data.unlabelled)])
    labels = np.concatenate([labels_of(data), np.full(len(data.unlabelled), -1)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(rows, labels)
    classes = model.classes_

    def scores(pool: Pool) -> np.ndarray:
        found = np.zeros((len(pool), int(classes.max()) + 1))
        found[:, classes] = model.predict_proba(rows_of(pool))
        return found

    return scores


def self_training(data: TaskData, seed: int, threshold: float) -> Scores:
    """Logistic regression that takes its sure predictions for labels, again and again."""
    model = LogisticRegression(C=10.0, max_iter=300)
    return fitted_to_all(data, SelfTrainingClassifier(model, threshold=threshold))


def logistic_regression(data: TaskData, seed: int, strength: float) -> Scores:
    """Of the labelled rows alone. ``strength``: inverse of its penalty."""
    labelled = dataclasses.replace(data, unlabelled=data.unlabelled.subset(torch.arange(0)))
    return fitted_to_all(labelled, LogisticRegression(C=strength, max_iter=1000))


def label_spreading(data: TaskData, seed: int, neighbours: int) -> Scores:
    """Labels spread over a graph of nearest neighbours (Zhou et al., 2004)."""
    return fitted_to_all(data, LabelSpreading(kernel="knn", n_neighbors=neighbours, alpha=0.5))


def softmax_regression(
    rows: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor], classes: int, penalty: float
) -> torch.Tensor:
    """Weights ``[features + 1, classes]`` of least loss of the logits plus ``penalty / 2`` times their squared length."""
    weights = torch.zeros(rows.shape[1], classes, dtype=rows.dtype, requires_grad=True)
    solver = torch.optim.LBFGS([weights], max_iter=300, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        solver.zero_grad()
        value = loss(rows @ weights) + penalty / 2 * weights.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    solver.step(closure)  # type: ignore[no-untyped-call]
    return weights.detach()


def gold_loss_correction(data: TaskData, seed: int, penalty: float) -> Scores:
    """Softmax regression through the table of wrong labels that the trusted rows show (Hendrycks et al., NeurIPS 2018).

    ``C[k, j]``: mean probability of label j, by a model of the other rows' labels, over trusted rows of class k. Other rows'
    loss is that of ``p C``, trusted rows' that of p.
    """
    assert data.trusted is not None

    def with_one(pool: Pool) -> torch.Tensor:
        rows = torch.from_numpy(rows_of(pool))
        return torch.cat([rows, torch.ones(len(rows), 1, dtype=rows.dtype)], 1)

    rows, labels = with_one(data.labelled), torch.from_numpy(labels_of(data))
    classes, trusted = int(labels.max()) + 1, data.trusted
    other = without(len(labels), trusted)
    cross_entropy = torch.nn.functional.cross_entropy
    first = softmax_regression(rows[other], lambda raw: cross_entropy(raw, labels[other]), classes, penalty)
    seen = (rows[trusted] @ first).softmax(1)
    table = torch.stack([
        seen[labels[trusted] == k].mean(0) if (labels[trusted] == k).any() else torch.eye(classes, dtype=rows.dtype)[k]
        for k in range(classes)
    ])  # fmt: skip

    def loss(raw: torch.Tensor) -> torch.Tensor:
        shares = (raw[other].softmax(1) @ table).clamp_min(1e-12)
        wrong = -shares.gather(1, labels[other, None]).log().sum()
        return (wrong + cross_entropy(raw[trusted], labels[trusted], reduction="sum")) / len(raw)

    weights = softmax_regression(rows, loss, classes, penalty)
    return lambda pool: (with_one(pool) @ weights).numpy()


RIVALS: dict[str, Callable[..., Scores]] = {
    "self_training": self_training, "label_spreading": label_spreading, "gold_loss_correction": gold_loss_correction,
    "logistic_regression": logistic_regression,
}  # fmt: skip


# what is done with a trained network's scores ----------------------------------------------------------------------------


def logit_adjusted(scores: Scores, data: TaskData, tau: float) -> Scores:
    """Raw outputs less ``tau`` times the logarithm of the classes' shares among the labels (Menon et al., 2021)."""
    raw = scores(data.test)
    counts = np.bincount(labels_of(data), minlength=raw.shape[1]).clip(1)
    prior = tau * np.log(counts / counts.sum())
    return lambda pool: scores(pool) - prior
