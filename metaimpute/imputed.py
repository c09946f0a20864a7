"""``metaimpute.impute``: labels for data in memory in one call, by the systems that ``init`` and ``run`` would combine."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .ensemble.choice import Scored
from .ensemble.conformal import LEVEL
from .in_memory.answers import Answers, answers_for, by_row
from .in_memory.data import Data, data_of
from .in_memory.given import Given, given_labels, require_classes
from .in_memory.progress import conclude, shown
from .in_memory.run import run_on
from .inference import Predictor
from .inference import impute as impute_run
from .inference.doubt import beyond_zero, confirmed, ranks, seldom
from .rundir.begin import PYTHON, beginning
from .rundir.result import Result
from .showing import watched
from .tasks.doubts import may_mean_none
from .tasks.quoting import safe
from .tasks.readings import is_number

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.table import Table

SHOWN = 10  # rows that a notebook shows


@dataclass(frozen=True, repr=False)
class Imputed:
    """Labels for every row, and what is to be expected of them.

    Attributes:
        labels: ``[n]``, the given one where there was one; None or NaN for a row that nothing could be read of.
        confidence: probability of each label, ``[n]``, 1 where it was given; of values None. spread: of values, half the width of
            the interval that is to hold 90 of 100, ``[n]``, 0 where they were given.
        expected: the error to expect of the imputed ones, with its 90% interval: a share of wrong labels, or a root mean square.
        systems: the same of each system, and its weight. warnings: what looks wrong with the data, a line each.
        probabilities: of every class, ``[n, classes]`` in the order of ``classes``, NaN for rows that were given or could not be
            read; None for values.
        given: whether a label was given, ``[n]``. index: of the data frame or series; None where the data had none.
        kind: ``table``, ``texts`` or ``images``. folder: of the run, which ``metaimpute report`` and the others take.
    """

    labels: np.ndarray
    confidence: np.ndarray | None
    spread: np.ndarray | None
    expected: Scored | None
    systems: tuple[Scored, ...]
    warnings: tuple[str, ...]
    probabilities: np.ndarray | None
    classes: tuple[Any, ...]
    given: np.ndarray
    index: Any
    kind: str
    folder: Path
    result: Result = field(repr=False)
    predictor: Predictor = field(repr=False)
    _originals: Mapping[str, Any] = field(repr=False)

    def predict(self, data: Any, verbose: int = 0) -> np.ndarray:
        """Labels or values ``[n]`` of new data of the same kind.

        Args:
            verbose: 1 shows on the standard error how far the work has come.

        Raises:
            TypeError: for data of another kind. TaskError: for rows that lack a column, or hold words where numbers were.
        """
        with watched(verbose):
            return self._answers(data).labels

    def predict_proba(self, data: Any) -> np.ndarray:
        """Probabilities ``[n, classes]`` of new data, in the order of ``classes``; NaN for a row that holds nothing.

        Raises:
            TypeError: for data of another kind, and for values.
        """
        found = self._answers(data).probabilities
        if found is None:
            raise TypeError("these are values, which have no probabilities")
        return found

    def predict_sets(self, data: Any, level: float = LEVEL) -> np.ndarray:
        """Which classes each row of new data may be of: sets that hold the right one with a probability of ``level``.

        Truth values ``[n, classes]`` in the order of ``classes``; all of them for a row that holds nothing.

        Raises:
            TypeError: as :meth:`predict_proba` does. ValueError: where nothing was held out, as with ``choose=null``.
        """
        shares = np.nan_to_num(self.predict_proba(data), nan=1.0)
        if self.predictor.systems is None:
            raise ValueError("sets need labelled rows that were held out; leave choose as it is")
        return self.predictor.systems.class_sets(shares, level)

    def _answers(self, data: Any) -> Answers:
        new = data_of(data)
        if new.kind != self.kind:
            raise TypeError(f"these labels are for {self.kind}, and that is {new.kind}")
        return answers_for(self.predictor, new, self._originals)

    def to_frame(self) -> DataFrame:
        """A row for each of the data, under its index: ``label``, ``confidence`` or ``spread``, whether it was ``given``, and of
        those that were not the ``rank``, 1 for the least sure."""
        import pandas

        if self.spread is None:
            assert self.confidence is not None
            sure, unsure = {"confidence": self.confidence}, 1 - self.confidence
        else:
            sure, unsure = {"spread": self.spread}, self.spread
        places = np.flatnonzero(~self.given & np.isfinite(unsure))
        rank = pandas.array([None] * len(self.labels), dtype="Int64")
        rank[places] = ranks(torch.from_numpy(unsure[places]))
        return pandas.DataFrame({"label": self.labels, **sure, "given": self.given, "rank": rank}, index=self.index)

    def __rich__(self) -> Table:
        from .reporting.console import candidates_table

        return candidates_table(self.result)

    def __str__(self) -> str:
        from .reporting.console import expectation, in_short

        things = "rows" if self.kind == "table" else self.kind
        given = int(self.given.sum())
        return in_short(len(self.labels), things, given, "; ".join(expectation(self.result)))

    def __repr__(self) -> str:
        return f"<Imputed: {self}>"

    def _repr_html_(self) -> str:
        """For notebooks: the sentence, what looks wrong, the systems, and the first rows."""
        from .reporting.notebook import page

        return page(str(self), self.warnings, self.result, self.to_frame(), SHOWN)


def impute(
    data: Any,
    labels: Any,
    *,
    seed: int = 0,
    out: str | Path | None = None,
    set: Mapping[str, Any] | Iterable[str] = (),
    missing_label: Any = None,
    verbose: int = 0,
) -> Imputed:
    """Labels for the rows that have none: ``metaimpute.impute(frame, labels).labels``.

    Several systems are measured on folds of the labelled rows and combined, as ``metaimpute init`` and ``run`` do for files.

    Args:
        data: a data frame, or an array ``[n, columns]``; a list of texts; or a list of images: paths, PIL images or
            arrays uint8 ``[h, w]`` or ``[h, w, 3]``.
        labels: ``[n]``: classes, or numbers to predict as values; None, NaN or pandas.NA where there is none. Or
            ``{row: label}``, or a series, of some rows: by the data's index, or by place from 0 where it has none.
        seed: of everything random. out: the run's folder; None keeps it for as long as what is returned lives.
        set: changes of the recipe, as in :func:`metaimpute.train`, e.g. ``{"choose.combine": "best"}``.
        missing_label: a label that means "none" as well. verbose: 1 shows phases, progress and the result on the standard error.

    Raises:
        TypeError: for data of another kind. ValueError (TaskError, RecipeError): when the data or its labels cannot be used, in
            one line. MissingData: when texts need an encoder that is not installed. FloatingPointError: when training diverges.
    """
    held = data_of(data)
    given = given_labels(labels, held, missing_label)
    _check(given, held)
    folder = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="metaimpute-"))
    try:
        imputed = _imputed(held, given, folder, seed, set, verbose)
    except BaseException:
        if out is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if out is None:
        weakref.finalize(imputed, shutil.rmtree, folder, ignore_errors=True)
    conclude(verbose, str(imputed))
    return imputed


def _check(given: Given, data: Data) -> None:
    """Raises:
    ValueError: where there is one class only, nothing to impute, or values of what has classes alone."""
    require_classes(given)
    if given.known.all():
        words = [str(label) for label in given.held]
        ask = "give None for those that are to be imputed"
        doubtful = [word for word in dict.fromkeys(words) if may_mean_none(word)]
        if doubtful:
            none = max(doubtful, key=words.count)
            label = given.held[words.index(none)]
            plain = label.item() if isinstance(label, np.generic) else label
            count = words.count(none)
            ask = (
                f"{count:,} {'is' if count == 1 else 'are'} '{safe(none)}': if that means none, missing_label={plain!r}"
            )
        raise ValueError(
            f"labels: each of the {len(data):,} {data.things} has one, so there is nothing to impute; {ask}"
        )
    words = [str(label) for label in given.held]
    if data.kind != "table" and all(map(is_number, words)) and any(float(word) % 1 for word in words):
        raise ValueError(
            f"labels are numbers with decimals; values are predicted of tables alone, and {data.kind} have classes"
        )


def _imputed(
    data: Data, given: Given, folder: Path, seed: int, set: Mapping[str, Any] | Iterable[str], verbose: int
) -> Imputed:
    from .trained import assignments

    changes = assignments(set)
    found = run_on(
        data,
        given,
        folder,
        lambda recipe: beginning(recipe, sets=changes, seed=seed, out=recipe.parent / "run", words=PYTHON),
        sets=[change for change in changes if change.startswith("task.")],
        verbose=verbose,
    )
    with shown(verbose):
        unlabelled, predictor = impute_run(found.folder)
    answers = by_row(unlabelled, len(data), found.originals)
    values, known = answers.probabilities is None, given.known
    answers.labels[known] = given.held.astype(float) if values else given.held
    answers.sure[known] = 0.0 if values else 1.0
    unit = 1.0 if values else 100.0
    odd: list[str] = []
    if unlabelled.values is not None and (
        line := beyond_zero(unlabelled.values[:, 0], given.held.astype(float).tolist())
    ):
        odd = [line]
    if unlabelled.probabilities is not None and confirmed(found.result.expected):
        odd = [one.said(columns=False) for one in seldom(unlabelled.probabilities, unlabelled.names)]
    return Imputed(
        _of_one_type(answers.labels), None if values else answers.sure, answers.sure if values else None,
        _scored(found.result.expected, unit),
        tuple(one for each in found.result.candidates or () if (one := _scored(each, unit))),
        (*found.warnings, *odd), answers.probabilities,
        () if values else tuple(found.originals[name] for name in predictor.label_names),
        known, data.index, data.kind, found.folder, found.result, predictor, found.originals,
    )  # fmt: skip


def _of_one_type(answers: np.ndarray) -> np.ndarray:
    """Whole numbers or the like as an array of such, where every row has an answer of one kind; else as it is."""
    kinds = {type(one.item() if isinstance(one, np.generic) else one) for one in answers}
    return np.array(answers.tolist()) if len(kinds) == 1 and kinds <= {int, float, str, bool} else answers


def _scored(found: Mapping[str, Any] | None, unit: float) -> Scored | None:
    if found is None:
        return None
    known: dict[str, Any] = {key: float("nan") if value is None else value for key, value in found.items()}
    return Scored(**known).times(1 / unit)
