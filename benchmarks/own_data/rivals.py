"""The systems of the benchmark: what a competent user of scikit-learn would try, and metaimpute as it comes.

A system is a function of the task, the labelled rows, their labels and all rows; it returns predictions for all rows. What it is
told of the task is an :class:`Asked`: its form, features of the rows that need no label, a seed and a folder to write in.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from .asked import Answer, Asked, System
from .features import COLUMNS, FEATURES, MINILM4, PIXELS, SKRUB, TFIDF, Unavailable
from .ours import L2I, LOOKAHEAD, OURS, PATCHES, TABM, metaimpute_defaults, with_tabm

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # systems run in forks


def most_frequent(labels: np.ndarray, seed: int) -> Any:
    from sklearn.dummy import DummyClassifier

    return DummyClassifier(strategy="most_frequent")


def mean_value(labels: np.ndarray, seed: int) -> Any:
    from sklearn.dummy import DummyRegressor

    return DummyRegressor()


def logistic_regression(labels: np.ndarray, seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=1000)


def random_forest(labels: np.ndarray, seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(n_estimators=300, random_state=seed)


def extra_trees(labels: np.ndarray, seed: int) -> Any:
    from sklearn.ensemble import ExtraTreesClassifier

    return ExtraTreesClassifier(n_estimators=300, random_state=seed)


def fewest_in_leaf(labels: np.ndarray) -> int:
    """Of scikit-learn's 20 rows in a leaf few labels would make no tree at all."""
    return max(2, min(20, len(labels) // 10))


def boosting(labels: np.ndarray, seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        min_samples_leaf=fewest_in_leaf(labels), early_stopping=False, random_state=seed
    )


def mean_of_four(labels: np.ndarray, seed: int) -> Any:
    """The mean of four kinds of probabilities; those of the support vectors by Platt's sigmoid."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.ensemble import VotingClassifier
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.svm import SVC

    folds = min(5, int(np.unique(labels, return_counts=True)[1].min()))
    members = [
        ("lr", logistic_regression(labels, seed)), ("trees", extra_trees(labels, seed)),
        ("svc", CalibratedClassifierCV(SVC(), ensemble=False, cv=folds)),
        ("knn", KNeighborsClassifier(min(5, len(labels)))),
    ]  # fmt: skip
    return VotingClassifier(members, voting="soft")


def ridge(labels: np.ndarray, seed: int) -> Any:
    from sklearn.linear_model import RidgeCV

    return RidgeCV(np.logspace(-2, 3, 11))


def random_forest_of_values(labels: np.ndarray, seed: int) -> Any:
    from sklearn.ensemble import RandomForestRegressor

    return RandomForestRegressor(n_estimators=300, random_state=seed)


def extra_trees_of_values(labels: np.ndarray, seed: int) -> Any:
    from sklearn.ensemble import ExtraTreesRegressor

    return ExtraTreesRegressor(n_estimators=300, random_state=seed)


def boosting_of_values(labels: np.ndarray, seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingRegressor

    return HistGradientBoostingRegressor(
        min_samples_leaf=fewest_in_leaf(labels), early_stopping=False, random_state=seed
    )


def gaussian_process(labels: np.ndarray, seed: int) -> Any:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, WhiteKernel

    return GaussianProcessRegressor(RBF(5.0, (0.1, 1e3)) + WhiteKernel(0.1, (1e-3, 10)), random_state=seed)


def mean_of_four_values(labels: np.ndarray, seed: int) -> Any:
    from sklearn.ensemble import VotingRegressor
    from sklearn.neighbors import KNeighborsRegressor
    from sklearn.svm import SVR

    members = [("ridge", ridge(labels, seed)), ("trees", extra_trees_of_values(labels, seed)), ("svr", SVR()),
               ("knn", KNeighborsRegressor(min(5, len(labels))))]  # fmt: skip
    return VotingRegressor(members)


def fitted(make: Callable[[np.ndarray, int], Any], features: str, asked: Asked, labelled: np.ndarray, labels: np.ndarray,
           rows: Any) -> Answer:  # fmt: skip
    """An estimator on the labelled rows alone; a numeric target is standardised for it."""
    X = asked.features(features)
    if asked.values:
        mean, spread = labels.mean(), labels.std() or 1.0
        estimator = make(labels, asked.seed).fit(X[labelled], (labels - mean) / spread)
        return Answer(estimator.predict(X) * spread + mean)
    estimator = make(labels, asked.seed).fit(X[labelled], labels)
    probabilities = estimator.predict_proba(X)
    return Answer(estimator.classes_[probabilities.argmax(1)], probabilities.max(1))


def with_unlabelled(
    kind: str, features: str, asked: Asked, labelled: np.ndarray, labels: np.ndarray, rows: Any
) -> Answer:
    """scikit-learn's semi-supervised classifiers: self-training of a logistic regression, or labels spread over neighbours."""
    from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier

    X, (names, numbers) = asked.features(features), np.unique(labels, return_inverse=True)
    known = np.full(len(X), -1)
    known[labelled] = numbers
    if kind == "self-training":
        estimator = SelfTrainingClassifier(logistic_regression(labels, asked.seed)).fit(X, known)
    else:
        estimator = LabelSpreading(kernel="knn", n_neighbors=10, max_iter=200).fit(X, known)
    probabilities = np.nan_to_num(estimator.predict_proba(X))
    return Answer(names[estimator.classes_[probabilities.argmax(1)]], probabilities.max(1))


CLASSIFIERS = {"logistic regression": logistic_regression, "random forest": random_forest, "extra trees": extra_trees,
               "boosting": boosting, "mean of four": mean_of_four}  # fmt: skip
REGRESSORS = {
    "ridge": ridge, "random forest": random_forest_of_values, "extra trees": extra_trees_of_values,
    "boosting": boosting_of_values, "Gaussian process": gaussian_process, "mean of four": mean_of_four_values,
}  # fmt: skip
BRIEFLY = {TFIDF: ("logistic regression", "self-training"), MINILM4: ("logistic regression", "mean of four"),
           PIXELS: ("logistic regression", "extra trees", "mean of four"),
           SKRUB: ("logistic regression", "ridge", "random forest", "mean of four")}  # fmt: skip


def systems(form: str, values: bool, arrays: bool = False) -> dict[str, System]:
    """The systems of a task by name; features that are not the only ones follow a comma."""
    found: dict[str, System] = {"constant": partial(fitted, mean_value if values else most_frequent, FEATURES[form][0])}
    for features in FEATURES[form]:
        after = "" if features == COLUMNS else f", {features}"
        for name, make in (REGRESSORS if values else CLASSIFIERS).items():
            if name in BRIEFLY.get(features, (name,)):
                found[name + after] = partial(fitted, make, features)
        for kind in () if values else ("self-training", "label spreading"):
            if kind in BRIEFLY.get(features, (kind,)):
                found[kind + after] = partial(with_unlabelled, kind, features)
    if form == "texts":
        found["SetFit"] = setfit
    found[OURS] = metaimpute_defaults
    if form == "table":
        found[TABM] = with_tabm
    if form != "texts" and not values and not arrays:
        found[L2I] = partial(metaimpute_defaults, changes=(LOOKAHEAD,))
    if form == "images":
        found[PATCHES] = partial(metaimpute_defaults, changes=("model={name: patches}",))
    return found


def setfit(asked: Asked, labelled: np.ndarray, labels: np.ndarray, rows: Any) -> Answer:
    """SetFit (Tunstall et al., 2022) on MiniLM with its own settings, an optional extra."""
    if None in (importlib.util.find_spec("setfit"), importlib.util.find_spec("accelerate")):
        raise Unavailable("SetFit: pip install setfit accelerate")
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    from metaimpute.models.bert import minilm_folder

    names, numbers = np.unique(labels, return_inverse=True)
    model = SetFitModel.from_pretrained(str(minilm_folder()), local_files_only=True)
    data = Dataset.from_dict({"text": [rows[i] for i in labelled], "label": numbers.tolist()})
    arguments = TrainingArguments(output_dir=str(asked.folder), seed=asked.seed, report_to="none", num_epochs=1)
    Trainer(model=model, args=arguments, train_dataset=data).train()
    probabilities = np.asarray(model.predict_proba(rows, as_numpy=True))
    return Answer(names[probabilities.argmax(1)], probabilities.max(1))
