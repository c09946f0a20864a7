"""``metaimpute.impute``: labels for data in memory in one call, by the systems that ``init`` and ``run`` would combine."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .ensemble.choice import Scored
from .inference import Predictions, Predictor
from .inference import impute as impute_run
from .recipes.draft import draft
from .rundir.begin import PYTHON, beginning
from .rundir.files import write_text
from .rundir.result import Result
from .tasks.image_listing import SUFFIXES
from .tasks.labels import as_labels, missing
from .tasks.readings import same_number
from .training.session import Session

if TYPE_CHECKING:
    from rich.table import Table

LABEL, TEXT, OWN = "label", "text", "own"
FROM_FRAMES = {"table": "table", "texts": "text", "images": "images"}


@dataclass(frozen=True)
class Imputed:
    """Labels for every row, and what is to be expected of them.

    Attributes:
        labels: ``[n]``, the given one where there was one; None or NaN for a row that nothing could be read of.
        confidence: probability of each label, ``[n]``, 1 where it was given; of values None. spread: of values, half the width of
            the interval that is to hold 90 of 100, ``[n]``, 0 where they were given.
        expected: the error to expect of the imputed ones, with its 90% interval: a share of wrong labels, or a root mean square.
        systems: the same of each system, and its weight. warnings: what looks wrong with the data, a line each.
        kind: ``table``, ``texts`` or ``images``. folder: of the run, which ``metaimpute report`` and the others take.
    """

    labels: np.ndarray
    confidence: np.ndarray | None
    spread: np.ndarray | None
    expected: Scored | None
    systems: tuple[Scored, ...]
    warnings: tuple[str, ...]
    kind: str
    folder: Path
    result: Result = field(repr=False)
    predictor: Predictor = field(repr=False)
    _originals: Mapping[str, Any] = field(repr=False)

    def predict(self, data: Any) -> np.ndarray:
        """Labels or values ``[n]`` of new data of the same kind."""
        kind, rows = _kind_of(data)
        if kind != self.kind:
            raise TypeError(f"these labels are for {self.kind}, and that is {kind}")
        with tempfile.TemporaryDirectory() as scratch:
            path = _written(kind, rows, [None] * len(rows), Path(scratch))
            found = self.predictor.predict(path / "unlabelled" if kind == "images" else path)
        return _by_row(found, len(rows), self._originals)[0]

    def __rich__(self) -> Table:
        from .reporting.console import candidates_table

        return candidates_table(self.result)

    def __str__(self) -> str:
        from .reporting.console import expectation

        given = np.count_nonzero(self.spread == 0 if self.confidence is None else self.confidence == 1)
        said = "; ".join(expectation(self.result)) or "nothing is known of their error"
        things = "rows" if self.kind == "table" else self.kind
        return f"{len(self.labels):,} {things}, {given:,} of them labelled; {said}"


def impute(
    data: Any,
    labels: Any,
    *,
    seed: int = 0,
    out: str | Path | None = None,
    set: Mapping[str, Any] | Iterable[str] = (),
    missing_label: Any = None,
    verbose: bool = False,
) -> Imputed:
    """Labels for the rows that have none: ``metaimpute.impute(frame, labels).labels``.

    Several systems are measured on folds of the labelled rows and combined, as ``metaimpute init`` and ``run`` do for files.

    Args:
        data: a data frame, or an array of numbers ``[n, columns]``; a list of texts; or a list of images: paths, PIL images or
            arrays uint8 ``[h, w]`` or ``[h, w, 3]``.
        labels: ``[n]``: classes, or numbers to predict as values; None, NaN or pandas.NA where there is none.
        seed: of everything random. out: the run's folder; None keeps it for as long as what is returned lives.
        set: changes of the recipe, as in :func:`metaimpute.train`, e.g. ``{"choose.combine": "best"}``.
        missing_label: a label that means "none" as well. verbose: whether to print what happens.

    Raises:
        TypeError: for data of another kind. TaskError, RecipeError: when the data cannot be used, in one line.
        MissingData: when texts need an encoder that is not installed.
    """
    kind, rows = _kind_of(data)
    given = as_labels(labels)
    if len(given) != len(rows):
        raise ValueError(f"{len(rows):,} rows and {len(given):,} labels")
    known = ~missing(given, missing_label)
    known &= np.array([not isinstance(label, str) or bool(label.strip()) for label in given])
    folder = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="metaimpute-"))
    try:
        imputed = _imputed(kind, rows, given, known, folder, seed, set, verbose)
    except BaseException:
        if out is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if out is None:
        weakref.finalize(imputed, shutil.rmtree, folder, ignore_errors=True)
    return imputed


def _imputed(
    kind: str,
    rows: Any,
    given: np.ndarray,
    known: np.ndarray,
    folder: Path,
    seed: int,
    set: Mapping[str, Any] | Iterable[str],
    verbose: bool,
) -> Imputed:
    from .trained import assignments

    path = _written(kind, rows, [label if here else None for label, here in zip(given, known, strict=True)], folder)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if verbose:
            print(line)

    changes = assignments(set)
    own = [change for change in changes if change.startswith("task.")]
    named = [] if kind == "images" else ['task.id=""']  # rows are found again by their place
    drafted = draft(FROM_FRAMES[kind], path, None if kind == "images" else LABEL, sets=[*named, *own])
    recipe = folder / f"{OWN}.yaml"
    write_text(recipe, drafted.text)
    began = beginning(recipe, sets=changes, seed=seed, out=folder / "run", words=PYTHON)
    result = Session(began.recipe, began.folder, why=began.why, begun=began.begun, say=say).run()
    found, predictor = impute_run(began.folder)
    originals = _originals(kind, given[known], predictor.label_names)
    answers, sure = _by_row(found, len(rows), originals)
    values = found.values is not None
    answers[known] = given[known].astype(float) if values else given[known]
    sure[known] = 0.0 if values else 1.0
    unit = 1.0 if values else 100.0
    return Imputed(
        _of_one_type(answers), None if values else sure, sure if values else None, _scored(result.expected, unit),
        tuple(one for found in result.candidates or () if (one := _scored(found, unit))),
        tuple(line.removeprefix("warning: ") for line in said if line.startswith("warning: ")),
        kind, began.folder, result, predictor, originals,
    )  # fmt: skip


def _of_one_type(answers: np.ndarray) -> np.ndarray:
    """Whole numbers or the like as an array of such, where every row has an answer of one kind; else as it is."""
    kinds = {type(one.item() if isinstance(one, np.generic) else one) for one in answers}
    return np.array(answers.tolist()) if len(kinds) == 1 and kinds <= {int, float, str, bool} else answers


def _kind_of(data: Any) -> tuple[str, Any]:
    """What kind of data it is, and its rows: a frame, a list of texts, or a list of images.

    Raises:
        TypeError: for anything else.
    """
    import pandas

    if isinstance(data, pandas.DataFrame):
        return "table", data
    if isinstance(data, np.ndarray) and data.ndim == 2 and data.dtype.kind in "biuf":
        return "table", pandas.DataFrame(data, columns=[f"x{number}" for number in range(data.shape[1])])
    if isinstance(data, np.ndarray) and data.ndim in (3, 4) and data.dtype == np.uint8:
        return "images", list(data)
    rows = list(data) if isinstance(data, Sequence | pandas.Series | np.ndarray) and not isinstance(data, str) else []
    if rows and all(isinstance(row, str) for row in rows):
        paths = all(Path(row).suffix.lower() in SUFFIXES and Path(row).is_file() for row in rows[:100])
        return ("images", [Path(row) for row in rows]) if paths else ("texts", rows)
    if rows and all(isinstance(row, Path) or hasattr(row, "convert") or _is_image(row) for row in rows):
        return "images", rows
    raise TypeError(
        "data is a data frame, an array of numbers [n, columns], a list of texts, or a list of images (paths, PIL images, or "
        f"arrays uint8 [h, w, 3]), not {type(data).__name__}"
    )


def _is_image(row: Any) -> bool:
    return isinstance(row, np.ndarray) and row.dtype == np.uint8 and row.ndim in (2, 3)


def _written(kind: str, rows: Any, labels: Sequence[Any], folder: Path) -> Path:
    """The file or folder that a user would have."""
    import pandas

    folder.mkdir(parents=True, exist_ok=True)
    if kind == "images":
        return _images(rows, labels, folder / OWN)
    if kind == "texts":
        frame = pandas.DataFrame({TEXT: rows})
    else:
        frame = rows.rename(columns=str)
        if LABEL in frame.columns:
            frame = frame.rename(columns={LABEL: f"{LABEL} (input)"})
    column = ["" if label is None else str(label) for label in labels]
    path = folder / f"{OWN}.csv"
    frame.reset_index(drop=True).assign(**{LABEL: column}).to_csv(path, index=False)
    return path


def _images(rows: Sequence[Any], labels: Sequence[Any], folder: Path) -> Path:
    from PIL import Image

    places = {name: f"class{number:04}" for number, name in enumerate(_classes(labels))}
    for number, (image, label) in enumerate(zip(rows, labels, strict=True)):
        target = folder / ("unlabelled" if label is None else f"labelled/{places[str(label)]}")
        target.mkdir(parents=True, exist_ok=True)
        if isinstance(image, Path):
            shutil.copyfile(image, target / f"{number:08}{image.suffix.lower()}")
        else:
            made = Image.fromarray(image) if isinstance(image, np.ndarray) else image
            made.save(target / f"{number:08}.png")
    return folder


def _classes(labels: Iterable[Any]) -> list[str]:
    return sorted({str(label) for label in labels if label is not None})


def _originals(kind: str, given: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """The user's own labels by the names that a run has for them."""
    own = {str(label): label for label in given}
    if kind == "images":
        return {f"class{number:04}": own[name] for number, name in enumerate(_classes(given))}
    return {
        name: own.get(name, next((label for text, label in own.items() if same_number(text.strip(), name)), name))
        for name in names
    }


def _by_row(found: Predictions, count: int, originals: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Labels or values by place, and their confidence or spread; None or NaN for a row that is not among them."""
    places = [int(Path(name).stem) for name in found.ids]
    sure = np.full(count, np.nan)
    if found.probabilities is None:
        assert found.values is not None
        answers = np.full(count, np.nan)
        answers[places] = found.values[:, 0].numpy()
        if found.spread is not None:
            sure[places] = found.spread[:, 0].numpy()
        return answers, sure
    named = np.full(count, None, dtype=object)
    for place, name in zip(places, found.labels, strict=True):
        named[place] = originals.get(name, name)
    confidence = found.confidence
    assert confidence is not None
    sure[places] = confidence.numpy()
    return named, sure


def _scored(found: Mapping[str, Any] | None, unit: float) -> Scored | None:
    if found is None:
        return None
    known: dict[str, Any] = {key: float("nan") if value is None else value for key, value in found.items()}
    return Scored(**known).times(1 / unit)
