"""Labels that a person has corrected: a table of ``id`` and ``label`` that is laid over the labels of one's own data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..engine.registry import describe_choices, nearest
from .base import TaskError
from .files import Table, read_table, written
from .quoting import quoted, safe
from .readings import as_numbers, class_of
from .row_names import called

ASKED_OF = 20_000  # names among which the nearest one is looked for
LABELS = ("label", "value")
AMBIGUOUS = re.compile(r"[+-]?[1-9]\d{0,2}([.,])\d{3}", re.ASCII)  # a thousand and more, or decimals


def read_corrections(
    path: Path, names: Sequence[str], classes: Sequence[str] | None, commas: bool = False
) -> dict[str, str]:
    """The label of each row that a file names, by the row's name; a blank label says nothing.

    Args:
        path: a table with the columns ``id`` and ``label`` (or ``value``). names: of all rows. classes: names of them; None
            where labels are numbers. commas: whether those of the data have decimal commas.

    Raises:
        TaskError: naming the line of an unknown row or class, with the nearest one, or of a row with two labels; for a file
            without any label.
    """
    table = read_table(path, ("id", *LABELS))
    label = next((name for name in LABELS if name in table.frame.columns), LABELS[0])
    for wanted in ("id", label):
        if wanted not in table.frame.columns:
            known = [str(name) for name in table.frame.columns]
            alike = next((name for name in known if name.strip().lower() == wanted), None)
            way = f"rename '{safe(alike)}'" if alike is not None else describe_choices(wanted, known)
            raise TaskError(f"{path} has no column '{wanted}'; {way}")
    if "doubtful" in table.frame.columns:
        raise TaskError(
            f"{path} is a file of imputed labels, which would all be taken for given ones; keep the rows that you have checked, "
            "in a file with the columns id and label"
        )
    known_names = {name.strip(): name for name in reversed(names)}
    found: dict[str, str] = {}
    lines: dict[str, int] = {}
    for row, (name, cell) in enumerate(zip(*(written(table.frame[one]) for one in ("id", label)), strict=True)):
        if not cell:
            continue
        name = called(name, known_names)
        if name not in known_names:
            raise TaskError(f"{_at(table, row)}: no row is called '{safe(name)}'; {_like(name, names)}")
        if classes is None and (of_thousands := AMBIGUOUS.fullmatch(cell)) and (of_thousands[1] == ",") != commas:
            whole, part = re.split("[.,]", cell)
            raise TaskError(
                f"{_at(table, row)}: '{safe(cell)}' may be {whole}.{part} or {whole}{part}; write {whole}{part}, or {whole}"
                f"{',' if commas else '.'}{part}0"
            )
        value = _label(cell, classes)
        if value is None:
            wrong = (
                "number; write one"
                if classes is None
                else f"class of this data; {describe_choices(cell, list(classes))}; a new one is announced with "
                f"--set 'task.new_classes=[{safe(cell)}]'"
            )
            raise TaskError(f"{_at(table, row)}: '{safe(cell)}' is no {wrong}")
        if found.setdefault(known_names[name], value) != value:
            raise TaskError(f"{path}: '{safe(name)}' has two labels, in {table.where([lines[name], row])}")
        lines.setdefault(name, row)
    if not found:
        raise TaskError(f"{path}: no row has a label; write them into '{label}', or leave the file out")
    return found


def _at(table: Table, row: int) -> str:
    kind = "row" if table.lines is None else "line"
    return f"{table.path}, {kind} {row if table.lines is None else table.lines[row]}"


def _like(name: str, names: Sequence[str]) -> str:
    close = nearest(name, list(names[:ASKED_OF]))
    return f"did you mean '{safe(close)}'?" if close else f"rows are called {quoted(list(names[:4]))}"


def _label(cell: str, classes: Sequence[str] | None) -> str | None:
    if classes is None:
        return _number(cell)
    label = class_of(cell, classes)
    return label if label in classes else None


def _number(cell: str) -> str | None:
    """A number as the data may have it, with a comma or a unit; None where it is none."""
    import pandas

    for commas in (True, False) if "," in cell else (False,):
        read = as_numbers(pandas.Series([cell], dtype=object), commas=commas)
        if not read.odd:
            number = repr(float(read.values.iloc[0]))
            return f"{number}0" if AMBIGUOUS.fullmatch(number) else number  # it goes into a file that is read again
    return None


def corrected(
    targets: Tensor, names: Sequence[str], classes: Sequence[str] | None, labels: Mapping[str, str]
) -> Tensor:
    """Targets ``[n]`` or ``[n, 1]`` with labels laid over them; of rows of one name the first is meant.

    Args:
        labels: by row's name. Of rows that are not here nothing is changed.
    """
    place = {name: number for number, name in reversed(list(enumerate(names)))}
    number = {name: at for at, name in enumerate(classes or ())}
    changed = targets.clone()
    for name, label in labels.items():
        if name in place:
            changed[place[name]] = torch.as_tensor(
                float(label) if classes is None else number[label], dtype=changed.dtype
            )
    return changed
