"""A table that says which images of a folder have which label: its columns are found, and its rows matched with images."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .alike import alike_said
from .base import TaskError
from .doubts import named, words_for_none
from .files import Table, column, read_table, written
from .image_listing import SUFFIXES
from .image_names import ImageNames
from .looks import USUAL_LABELS
from .quoting import quoted, safe, shortened
from .readings import MissingValues, blank_out, one_spelling

if TYPE_CHECKING:
    from pandas import DataFrame

USUAL_IMAGES = (
    "file", "filename", "filepath", "image", "imagefile", "imagename", "imagepath", "img", "imgname", "imgpath", "path",
    "picture", "photo", "id", "imageid", "name",
)  # fmt: skip
LOOKED_AT = 2_000  # rows by which the column of images is told from others


@dataclass(frozen=True)
class TableLabels:
    """What a table says of images.

    Attributes:
        labels: of every image, blank where it has none. image_column, label: the columns they come from. said: what is to be
            said of them, a line each.
    """

    labels: list[str]
    image_column: str
    label: str
    said: tuple[str, ...]


def table_labels(path: Path, images: ImageNames, image_column: str, label: str, missing: MissingValues) -> TableLabels:
    """Labels of images by a table.

    Args:
        image_column, label: columns; empty: they are found. missing: words for "none" beside blank, among the labels.

    Raises:
        TaskError: ``option: reason``, by line, for a row that names no image, or several, and for an image with two labels; where
            the columns cannot be told; for a table without labels. Doubt: for labels that may mean "none".
    """
    table = _read(path)
    names = [str(name) for name in table.frame.columns]
    header = next((name for name in names if Path(name).suffix.lower() in SUFFIXES), None)
    if header is not None:
        raise TaskError(
            f"table: the first line of {path.name} names an image, '{safe(header)}', and no columns; write a line such as "
            "file,label above it"
        )
    for option, wanted in (("image_column", image_column), ("label", label), *_named_columns(missing)):
        if wanted:
            column(table.frame, wanted, option, path)
    image_column = image_column or _image_column(table, images, label)
    label = label or _label_column(path, names, image_column)
    if label == image_column:
        raise TaskError(f"label: column '{safe(label)}' of {path.name} names the images; name another")
    blank_out(table.frame, missing, [label])
    labels = one_spelling(written(column(table.frame, label, "label", path)))
    cells = written(column(table.frame, image_column, "image_column", path))
    if not labels:
        raise TaskError(f"table: {path.name} holds no rows")
    if not any(labels):
        raise TaskError(
            f"table: none of the {len(labels):,} rows of {path.name} has a label in column '{safe(label)}'; write some, or name "
            "another column with label"
        )
    said = [
        *alike_said(table.frame[label].dropna().astype(str)),
        *words_for_none(labels, "label", label, missing),
    ]
    of_images, unknown = _matched(table, images, image_column, cells, labels)
    return TableLabels(of_images, image_column, label, (*said, *unknown))


def _read(path: Path) -> Table:
    """A table whose cells are all kept as they are written."""
    return read_table(path, [str(name) for name in read_table(path).frame.columns])


def _named_columns(missing: MissingValues) -> list[tuple[str, str]]:
    return [("missing_values", name) for name in missing] if isinstance(missing, Mapping) else []


def _image_column(table: Table, images: ImageNames, label: str) -> str:
    """The column that names images: of those that name one in half of the rows the one with a usual name, else the best."""
    names = [str(name) for name in table.frame.columns if str(name) != label]
    names = [name for name in names if name.lower() not in USUAL_LABELS] or names
    shares = {name: _share(table.frame, name, images) for name in names}
    usual = [name for word in USUAL_IMAGES for name in names if re.sub(r"[\W_]", "", name.lower()) == word]
    good = [name for name in usual if 2 * shares[name] >= 1]
    if good:
        return good[0]
    most = max(shares.values(), default=0)
    best = [name for name in names if shares[name] == most]
    if most and len(best) == 1:
        return best[0]
    if not most and usual:
        return usual[0]  # none of its cells is an image's name, and the first is told
    found = f"columns {quoted(best)} name images; say which" if most else "no column names images; say which is to"
    raise TaskError(f"image_column: {table.path.name}: {found}; its columns: {shortened([safe(n) for n in names], 12)}")


def _share(frame: DataFrame, name: str, images: ImageNames) -> float:
    """The share of a column's cells that name an image."""
    cells = [cell for cell in written(frame[name].iloc[:LOOKED_AT]) if cell]
    return sum(bool(images.find(cell)) for cell in cells) / max(len(cells), 1)


def _label_column(path: Path, names: Sequence[str], image_column: str) -> str:
    """A column with a usual name, else the only one beside that of the images."""
    others = [name for name in names if name != image_column]
    usual = [name for word in USUAL_LABELS for name in others if name.lower() == word]
    if usual or len(others) == 1:
        return (usual or others)[0]
    if not others:
        raise TaskError(f"label: {path.name} has no column beside '{safe(image_column)}' that could hold labels")
    shown = shortened([safe(name) for name in others], 12)
    raise TaskError(f"label: {path.name}: name the column that holds the labels; choose one of: {shown}")


def _matched(
    table: Table, images: ImageNames, image_column: str, cells: Sequence[str], labels: Sequence[str]
) -> tuple[list[str], list[str]]:
    """The label of every image, and what is to be said of rows without a label that name none."""
    found, lines = [""] * len(images.names), dict[int, int]()
    absent: list[int] = []
    for row, (cell, label) in enumerate(zip(cells, labels, strict=True)):
        places = images.find(cell) if cell else []
        if not places and (cell or label):
            absent.append(row)
        if not label or not places:
            continue
        if len(places) > 1:
            several = quoted([images.names[place] for place in places])
            raise TaskError(
                f"table: '{safe(cell)}' ({table.where([row])}) may be any of {len(places):,} images: {several}; write its path "
                "inside the folder, or its whole path"
            )
        place = places[0]
        if place in lines and found[place] != label:
            raise TaskError(
                f"table: '{safe(images.names[place])}' has two labels, '{safe(found[place])}' and '{safe(label)}' "
                f"({table.where([lines[place], row])}); keep one of them"
            )
        found[place] = label
        lines.setdefault(place, row)
    lost = [row for row in absent if labels[row]]
    if lost:
        raise TaskError(_lost(table, images, image_column, cells, lost, bool(lines)))
    shown = named([cells[row] for row in absent], absent, table.where)
    said = f"rows of {table.path.name} without a label name no image: {shown}"
    return found, [said] if absent else []


def _lost(
    table: Table, images: ImageNames, image_column: str, cells: Sequence[str], rows: Sequence[int], some: bool
) -> str:
    """The mistake where rows have a label and name no image."""
    blank = [row for row in rows if not cells[row]]
    if blank:
        return f"table: no image is named, and a label given, in {table.where(blank)}; name the images in '{safe(image_column)}'"
    shown, close = named([cells[row] for row in rows], rows, table.where), images.like(cells[rows[0]])
    folder = safe(images.folder.name) or "the folder"
    if not some:
        return (
            f"table: no row of {table.path.name} with a label names an image in {folder}; column '{safe(image_column)}' has "
            f"{shown}; {close}; name another column with image_column, or another folder"
        )
    count = "1 label is of an image" if len(rows) == 1 else f"{len(rows):,} labels are of images"
    return f"table: {count} that {folder} does not hold: {shown}; {close}; mend such rows, or take them out"
