"""Data in memory as the file or folder that a user of the command line would have, and what messages call it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..tasks.image_listing import HIDDEN
from .data import Data

STEM, TEXT = "in_memory", "text"
LABELS = (
    "label",
    "labels",
    "label (given)",
)  # the column of labels is called by the first that no column of the data is
PLAIN = re.compile(r"\w[\w -]{0,60}")  # names of classes that any folder can have
IMAGE = re.compile(r"(?:[^\s,;]*/)?(?:labelled/[^/,;]+|unlabelled)/(\d{8})\.\w+")


def label_column(data: Data) -> str:
    """What the column of labels is called."""
    if data.kind == "texts":
        return LABELS[0]
    free = (
        name for name in (*LABELS, *(f"label {number}" for number in range(2, 1000))) if name not in data.rows.columns
    )
    return next(free)


def write_data(data: Data, labels: Sequence[str | None] | None, folder: Path) -> Path:
    """Writes the data with its labels, as words, below a folder; returns the file's or the folder's path.

    Args:
        labels: None for rows to be labelled by a run that is finished.
    """
    import pandas

    folder.mkdir(parents=True, exist_ok=True)
    if data.kind == "images":
        return _images(data.rows, [None] * len(data) if labels is None else labels, folder / STEM)
    frame = pandas.DataFrame({TEXT: data.rows}) if data.kind == "texts" else data.rows
    frame, path = frame.reset_index(drop=True), folder / f"{STEM}.csv"
    if labels is not None:
        frame = frame.assign(**{label_column(data): ["" if label is None else label for label in labels]})
    frame.to_csv(path, index=False)
    return path


def class_folders(labels: Iterable[str | None]) -> dict[str, str]:
    """Names of the folders that images of each class lie in, by the class: its own name where every folder can have that."""
    names = sorted({label for label in labels if label is not None})
    folded = [name.casefold() for name in names]
    plain = [
        bool(PLAIN.fullmatch(name)) and name == name.strip() and fold not in HIDDEN and folded.count(fold) == 1
        for name, fold in zip(names, folded, strict=True)
    ]
    return {
        name: name if fine else f"class {number}" for number, (name, fine) in enumerate(zip(names, plain, strict=True))
    }


def _images(rows: Sequence[Any], labels: Sequence[str | None], folder: Path) -> Path:
    """``labelled/CLASS/`` and ``unlabelled/``, which holds all images a second time where none is without a label."""
    places, full = class_folders(labels), None not in labels
    for number, (image, label) in enumerate(zip(rows, labels, strict=True)):
        written = _image(image, folder / ("unlabelled" if label is None else f"labelled/{places[label]}"), number)
        if full:
            (folder / "unlabelled").mkdir(exist_ok=True)
            shutil.copyfile(written, folder / "unlabelled" / written.name)
    return folder


def _image(image: Any, folder: Path, number: int) -> Path:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(image, Path):
        path = folder / f"{number:08}{image.suffix.lower()}"
        shutil.copyfile(image, path)
        return path
    path = folder / f"{number:08}.png"
    made = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    if made.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):  # what PNG holds
        made = made.convert("RGB")
    made.save(path)
    return path


def in_users_words(line: str, data: Path, recipe: Path, classes: Mapping[str, str], argument: str = "set") -> str:
    """A message about files that a user has never seen, as one about the data.

    Args:
        data, recipe: the files. classes: of images, the user's name of each class by its folder. argument: of the caller, that
            stands for ``--set``.
    """
    line = re.sub(rf"{re.escape(str(recipe))}(:\d+)?: ", "", line)
    line = re.sub("^--set ", f"{argument}: ", line).replace("or mend the file", "or mend the data")
    line = IMAGE.sub(lambda found: f"row {int(found[1])}", line)
    for name in (str(data / "labelled"), str(data / "unlabelled"), str(data), data.name):
        line = re.sub(rf"(?<![\w/]){re.escape(name)}(?![\w/]|\.\w)", "the data", line)
    for folder, label in classes.items():
        line = line.replace(f"'{folder}'", f"'{label}'") if folder != label else line
    line = re.sub(r"^the data: (target|label|folder): ", "labels: ", line)
    return re.sub(r"^(the data: )?file: (the data)?", lambda found: "the data" if found[2] else "the data: ", line)
