"""Members of an ensemble: scikit-learn's classifiers and regressors with settings that need no search by the user.

Each is fitted to labelled rows, some with the unlabelled ones beside them, and gives probabilities ``[n, classes]`` or values
``[n]`` of rows. Rows are standardised numbers. scikit-learn is imported where one is fitted: most commands fit none.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from scipy import sparse
from scipy.special import softmax

from ..engine.registry import Registry

TREES = 300
WIDTHS, RIDGES, SHARPNESS = (0.25, 0.5, 1.0, 2.0, 4.0), (0.01, 0.1, 1.0), (2.0, 4.0, 8.0, 16.0, 32.0)
KERNEL_ROWS = 1500  # labelled rows up to which a matrix of their pairs is solved with
SPREAD_OVER = 5000  # unlabelled rows at most that labels are spread over
SURE, DIRECTIONS = (
    0.75,
    256,
)  # probability at which a prediction is taken for a label; columns of wide rows that are kept
NEIGHBOURS, CLAMPING = 10, 0.9  # of the graph; the share that a row takes from its neighbours


@dataclass(frozen=True)
class Rows:
    """What a member is fitted to.

    Attributes:
        labelled: ``[n, features]``. labels: class numbers or values, ``[n]``. unlabelled: ``[m, features]``. classes: how many
            there are; 0 for values. seed: of whatever is random. Rows are arrays, or sparse for members that take them.
    """

    labelled: Any
    labels: np.ndarray
    unlabelled: Any
    classes: int
    seed: int


class Fitted(Protocol):
    """What is fitted to rows and answers for others."""

    def fit(self, rows: Rows) -> None: ...

    def predict(self, rows: Any) -> np.ndarray:
        """Probabilities ``[n, classes]``, or values ``[n]``."""
        ...


class Member(Fitted, Protocol):
    """What is registered: that, and what it is for.

    Attributes:
        for_classes, for_values: what it predicts. takes_sparse: whether rows may be a sparse matrix.
        most: labelled rows that it can take. prior: its weight before anything is seen, relative to the others'.
        once: whether it is so slow that each labelled row is held out once only.
    """

    for_classes: ClassVar[bool]
    for_values: ClassVar[bool]
    takes_sparse: ClassVar[bool]
    most: ClassVar[int]
    prior: ClassVar[float]
    once: ClassVar[bool]


members: Registry[type[Member]] = Registry("member")
register_member: Callable[[str], Callable[[Any], Any]] = members.register


class _Standard:
    for_classes, for_values, takes_sparse, most, prior, once = True, False, False, 10**9, 1.0, False


@register_member("logistic_regression")
class LogisticRegressionMember(_Standard):
    """A linear classifier with scikit-learn's own penalty, C = 1; searched for on a few labels a penalty does worse."""

    takes_sparse = True

    def fit(self, rows: Rows) -> None:
        # in the space that the labelled rows span the penalised solution is the same, and small
        self.basis, self.classes = _row_space(rows.labelled), rows.classes
        self.model = _linear(rows.labelled @ self.basis, rows.labels)

    def predict(self, rows: np.ndarray) -> np.ndarray:
        return _aligned(self.model, rows @ self.basis, self.classes)


def _row_space(rows: Any) -> np.ndarray:
    """Orthonormal columns that span the rows, ``[features, rank]``; the identity where there are more rows than features."""
    if rows.shape[0] >= rows.shape[1]:
        return np.eye(rows.shape[1])
    dense = rows.toarray() if sparse.issparse(rows) else rows
    _, size, basis = np.linalg.svd(dense, full_matrices=False)
    return np.asarray(basis[size > 1e-9 * size.max(initial=1e-30)].T)


def _linear(inputs: np.ndarray, labels: np.ndarray) -> Any:
    if len(np.unique(labels)) < 2:
        return Constant(int(labels[0]))
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(max_iter=1000).fit(inputs, labels)


class Constant:
    """Stands in for a model where one class alone has rows."""

    def __init__(self, number: int) -> None:
        self.classes_ = np.array([number])

    def predict_proba(self, rows: Any) -> np.ndarray:
        return np.ones((rows.shape[0], 1))


def _aligned(model: Any, rows: Any, classes: int) -> np.ndarray:
    """Probabilities with a column for every class, also for those that had no row."""
    found = np.zeros((rows.shape[0], classes))
    if not len(found):
        return found
    found[:, np.asarray(model.classes_, dtype=int)] = model.predict_proba(rows)
    return found


class _Trees(_Standard):
    """Trees averaged. ``kinds``: names of scikit-learn's, for classes and for values."""

    for_values = True
    kinds: ClassVar[tuple[str, str]]

    def fit(self, rows: Rows) -> None:
        from sklearn import ensemble

        kind = getattr(ensemble, self.kinds[0 if rows.classes else 1])
        self.model = kind(TREES, random_state=rows.seed).fit(rows.labelled, rows.labels)
        self.classes = rows.classes

    def predict(self, rows: np.ndarray) -> np.ndarray:
        return _aligned(self.model, rows, self.classes) if self.classes else np.asarray(self.model.predict(rows))


@register_member("extra_trees")
class ExtraTrees(_Trees):
    """Extremely randomised trees (Geurts et al., 2006)."""

    kinds = "ExtraTreesClassifier", "ExtraTreesRegressor"


@register_member("random_forest")
class RandomForest(_Trees):
    """Bagged trees over random columns (Breiman, 2001)."""

    kinds, once = ("RandomForestClassifier", "RandomForestRegressor"), True


@register_member("self_training")
class SelfTraining(_Standard):
    """A linear classifier that takes its own sure predictions of unlabelled rows for labels (Yarowsky, 1995)."""

    prior, once = 2.0, True

    def fit(self, rows: Rows) -> None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.semi_supervised import SelfTrainingClassifier

        self.classes = rows.classes
        if len(np.unique(rows.labels)) < 2:
            self.basis, self.model = np.eye(rows.labelled.shape[1]), Constant(int(rows.labels[0]))
            return
        beside = _some(rows.unlabelled, SPREAD_OVER, rows.seed)
        every = np.concatenate([rows.labelled, beside])
        self.basis = _directions(every, rows.seed)
        labels = np.concatenate([rows.labels, np.full(len(beside), -1)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that nothing was sure enough, or that the last fit had not converged
            linear = LogisticRegression(max_iter=1000)
            self.model = SelfTrainingClassifier(linear, threshold=SURE).fit(every @ self.basis, labels)

    def predict(self, rows: np.ndarray) -> np.ndarray:
        return _aligned(self.model, rows @ self.basis, self.classes)


def _directions(rows: np.ndarray, seed: int) -> np.ndarray:
    """Orthonormal columns ``[features, at most DIRECTIONS]``: the identity, or those along which wide rows vary most."""
    if rows.shape[1] <= DIRECTIONS:
        return np.eye(rows.shape[1])
    from sklearn.utils.extmath import randomized_svd

    _, _, vectors = randomized_svd(rows, min(DIRECTIONS, *rows.shape), n_iter=3, random_state=seed)
    return np.asarray(vectors.T)


def _some(rows: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most so many of the rows, drawn."""
    if len(rows) <= most:
        return rows
    return rows[np.random.default_rng(seed).choice(len(rows), most, replace=False)]


def _squares(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances, ``[left rows, right rows]``."""
    from sklearn.metrics import pairwise_distances

    return np.asarray(pairwise_distances(left, None if left is right else right, metric="sqeuclidean"))


@register_member("kernel")
class Kernel(_Standard):
    """Regularised least squares on a Gaussian kernel, of values or of one-hot classes.

    Width and ridge are those with the lowest leave-one-out error, which has a closed form (Rasmussen and Williams, 2006, 5.4.2);
    scores of classes become probabilities with the sharpness that fits their leave-one-out values best.
    """

    for_values, most, prior = True, KERNEL_ROWS, 0.5

    def fit(self, rows: Rows) -> None:
        targets = np.eye(rows.classes)[rows.labels] if rows.classes else rows.labels[:, None].astype(float)
        self.classes, self.rows, self.mean = rows.classes, rows.labelled, targets.mean(0)
        squares = _squares(rows.labelled, rows.labelled)
        usual = np.median(squares[squares > 0]) if (squares > 0).any() else 1.0
        best: tuple[float, Any] | None = None
        for width in WIDTHS:
            values, vectors = np.linalg.eigh(np.exp(-squares * width / usual))
            for ridge in RIDGES:
                inverse = (vectors / (values + ridge)) @ vectors.T
                dual = inverse @ (targets - self.mean)
                left_out = targets - dual / np.diag(inverse)[:, None]
                error = float(((left_out - targets) ** 2).mean())
                if best is None or error < best[0]:
                    best = (error, (width / usual, dual, left_out))
        assert best is not None
        self.width, self.dual, left_out = best[1]
        if rows.classes:
            own = np.arange(len(rows.labels)), rows.labels
            losses = [-np.log(np.maximum(softmax(s * left_out, 1)[own], 1e-3)).mean() for s in SHARPNESS]
            self.sharpness = SHARPNESS[int(np.argmin(losses))]

    def predict(self, rows: np.ndarray) -> np.ndarray:
        parts = []
        for start in range(0, len(rows), 2048):
            squares = _squares(rows[start : start + 2048], self.rows)
            parts.append(np.exp(-squares * self.width) @ self.dual + self.mean)
        scores = np.concatenate(parts) if parts else np.zeros((0, len(self.mean)))
        return softmax(self.sharpness * scores, 1) if self.classes else scores[:, 0]


@register_member("label_spreading")
class Spreading(_Standard):
    """Label spreading over a graph of nearest neighbours of labelled and unlabelled rows (Zhou et al., 2004)."""

    def fit(self, rows: Rows) -> None:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.semi_supervised import LabelSpreading

        self.classes = rows.classes
        self.shares = np.bincount(rows.labels, minlength=rows.classes) / len(rows.labels)
        if len(np.unique(rows.labels)) < 2:
            self.model: Any = Constant(int(rows.labels[0]))
            return
        beside = _some(rows.unlabelled, SPREAD_OVER, rows.seed)
        every = np.concatenate([rows.labelled, beside])
        labels = np.concatenate([rows.labels, np.full(len(beside), -1)])
        neighbours = min(NEIGHBOURS, len(every) - 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("ignore", RuntimeWarning)  # of a row that no label reaches: 0 / 0
            self.model = LabelSpreading(kernel="knn", n_neighbors=neighbours, alpha=CLAMPING, max_iter=200).fit(
                every, labels
            )

    def predict(self, rows: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            found = _aligned(self.model, rows, self.classes)
        lost = ~np.isfinite(found).all(1)
        found[lost] = self.shares
        return found


@register_member("ridge")
class Ridge:
    """A linear regression, its penalty the one with the lowest leave-one-out error."""

    for_classes, for_values, takes_sparse, most, prior, once = False, True, False, 10**9, 1.0, False

    def fit(self, rows: Rows) -> None:
        from sklearn.linear_model import RidgeCV

        self.model = RidgeCV(np.logspace(-3, 4, 15)).fit(rows.labelled, rows.labels)

    def predict(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self.model.predict(rows))


@register_member("gaussian_process")
class GaussianProcess:
    """A Gaussian process with an RBF kernel and noise, fitted by its marginal likelihood."""

    for_classes, for_values, takes_sparse, most, prior, once = False, True, False, 400, 1.0, False

    def fit(self, rows: Rows) -> None:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

        width = np.sqrt(rows.labelled.shape[1])
        kernel = ConstantKernel(1.0, (1e-3, 1e3)) * RBF(width, (0.1 * width, 30 * width)) + WhiteKernel(
            0.3, (1e-4, 10.0)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = GaussianProcessRegressor(kernel, normalize_y=True, random_state=rows.seed)
            self.model = model.fit(rows.labelled, rows.labels)

    def predict(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self.model.predict(rows))
