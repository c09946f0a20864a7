"""The systems of ``own_data.py``: what a competent user of scikit-learn would try, and metaimpute as it comes.

A system is a function of the task, the labelled rows, their labels and all rows; it returns predictions for all rows. What it is
told of the task is an :class:`Asked`: its form, features of the rows that need no label, a seed and a folder to write in.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from own_data_features import COLUMNS, FEATURES, MINILM4, PIXELS, SKRUB, TFIDF, Unavailable

OURS = "metaimpute, defaults"
PATCHES = "metaimpute, without an encoder"  # what the defaults are where no pretrained encoder is installed
L2I = "metaimpute, network with L2I"
TABM = "metaimpute, with TabM"  # as one system more
SETS = 0.9  # probability that a set of classes is to hold the true one with
LOOKAHEAD = (
    "problem={name: l2i, estimator: mixed, form: released, holdout_view: weak, inner: {lr: 0.01, rate: trust(0.05)}}"
)


@dataclass(frozen=True)
class Asked:
    """What a system is told of a task, and nothing of the hidden labels.

    Attributes:
        form: ``table``, ``texts`` or ``images``. values: whether the target is a number. arrays: whether a user would have
            numbers in an array. seed: of everything random. folder: to write in.
        features: of all rows by the name of the features, ``[n, width]``.
    """

    name: str
    form: str
    values: bool
    arrays: bool
    seed: int
    folder: Path
    features: Callable[[str], np.ndarray]


@dataclass(frozen=True)
class Answer:
    """A system's predictions.

    Attributes:
        predictions: for all rows, names of classes or numbers. confidences: probabilities of those, where it has some.
        own_error: what it expects its own error to be, in percent or in units of the target, and a 90% interval.
        spread: of values, how far off 90 of 100 are said to be at most. sets: of classes, the names of which one is said to be
            true with a probability of ``SETS``.
    """

    predictions: np.ndarray
    confidences: np.ndarray | None = None
    own_error: tuple[float, float, float] | None = None
    spread: np.ndarray | None = None
    sets: list[set[str]] | None = None


System = Callable[[Asked, np.ndarray, np.ndarray, Any], Answer]


# scikit-learn --------------------------------------------------------------------------------------------------------


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


# metaimpute ----------------------------------------------------------------------------------------------------------


def metaimpute_defaults(
    asked: Asked, labelled: np.ndarray, labels: np.ndarray, rows: Any, changes: tuple[str, ...] = ()
) -> Answer:
    """``MetaImputer`` for arrays; ``metaimpute init``, ``run`` and ``impute`` for files. ``changes``: by ``--set``."""
    if asked.arrays:
        return imputer_defaults(asked, labelled, labels, rows)
    kind = {"table": "table", "texts": "text", "images": "images"}[asked.form]
    path = write_for_user(asked, labelled, labels, rows)
    recipe, run = asked.folder / "own.yaml", asked.folder / "run"
    column = () if kind == "images" else ("--label", "label")
    command("init", kind, str(path), *column, "--out", str(recipe))
    sets = [word for change in changes for word in ("--set", change)]
    command("run", str(recipe), "--seed", str(asked.seed), "--out", str(run), *sets)
    command("impute", str(run), *(() if asked.values else ("--sets", str(SETS))))
    return read_answer(asked, labelled, labels, len(rows))


def with_tabm(asked: Asked, labelled: np.ndarray, labels: np.ndarray, rows: Any) -> Answer:
    """The defaults and TabM (Gorishniy et al., ICLR 2025) as one member more, an optional extra."""
    if importlib.util.find_spec("tabm") is None:
        raise Unavailable("TabM: pip install tabm")
    import own_data_tabm  # noqa: F401  # registers it, in this process alone

    return metaimpute_defaults(asked, labelled, labels, rows)


def imputer_defaults(asked: Asked, labelled: np.ndarray, labels: np.ndarray, rows: Any) -> Answer:
    from metaimpute import MetaImputer
    from metaimpute.imputer import MetaImputerRegressor

    given = np.full(len(rows), np.nan) if asked.values else np.full(len(rows), None, dtype=object)
    given[labelled] = labels
    if asked.values:
        regressor = MetaImputerRegressor(random_state=asked.seed).fit(np.asarray(rows, float), given)
        one = regressor.expected_
        return Answer(regressor.transduction_, None, (one.error, one.low, one.high))
    imputer = MetaImputer(random_state=asked.seed).fit(np.asarray(rows, float), given)
    one = imputer.expected_
    return Answer(
        imputer.transduction_, imputer.label_distributions_.max(1), (100 * one.error, 100 * one.low, 100 * one.high)
    )


def command(*words: str) -> str:
    """Carries out ``metaimpute WORDS`` in this process, and returns what it prints.

    Raises:
        RuntimeError: with the last lines, when it fails.
    """
    from metaimpute.cli import main

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            main(args=list(words), prog_name="metaimpute", standalone_mode=True)
        except SystemExit as end:
            if end.code not in (0, None):
                raise RuntimeError(f"metaimpute {words[0]}: {printed.getvalue()[-500:]}") from None
    return printed.getvalue()


def folder_name(label: str) -> str:
    """A class as a folder can be called."""
    return re.sub(r"[^\w-]+", "-", label)


def write_for_user(asked: Asked, labelled: np.ndarray, labels: np.ndarray, rows: Any) -> Path:
    """The file or folder that a user would have: labels where they were drawn, blanks elsewhere."""
    given = pd.Series([None] * len(rows), dtype=object)
    given[labelled] = labels
    if asked.form == "images":
        from PIL import Image

        folder = asked.folder / "own"
        for number, image in enumerate(rows):
            name = "unlabelled" if given[number] is None else Path("labelled") / folder_name(given[number])
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / name / f"{number}.png")
        return folder
    frame = pd.DataFrame({"text": rows}) if asked.form == "texts" else rows.copy()
    path = asked.folder / "own.csv"
    frame.assign(label=given).to_csv(path, index=False)
    return path


def read_answer(asked: Asked, labelled: np.ndarray, labels: np.ndarray, count: int) -> Answer:
    """``labels.csv`` by place, and the error on the rows that the run held out."""
    found = pd.read_csv(asked.folder / "run" / "labels.csv", dtype=str, keep_default_na=False)
    places = found["id"].map(lambda name: int(Path(name).stem)).to_numpy()
    hidden = np.setdiff1d(np.arange(count), labelled)
    if not np.array_equal(np.sort(places), hidden):
        raise RuntimeError("labels.csv does not name the rows without a label")
    if asked.values:
        said = found["value"].astype(float)
    else:
        said = found["label"]
        if asked.form == "images":
            said = said.replace({folder_name(name): name for name in set(labels)})
    predictions = np.full(count, np.nan) if asked.values else np.full(count, "", dtype=object)
    predictions[labelled], predictions[places] = labels, said
    confidences = spread = sets = None
    if "set" in found:
        sets = [set[str]()] * count
        for place, words in zip(places, found["set"], strict=True):
            sets[place] = set(words.split("|"))
    if asked.values:
        spread = np.zeros(count)
        spread[places] = found["value_spread"].astype(float)
    if "confidence" in found and not asked.values:
        confidences = np.ones(count)
        confidences[places] = found["confidence"].astype(float)
    expected = json.loads((asked.folder / "run" / "result.json").read_text()).get("expected")
    own = (
        None
        if expected is None or expected["error"] is None
        else (expected["error"], expected["low"], expected["high"])
    )
    return Answer(predictions, confidences, own, spread, sets)


os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # systems run in forks
