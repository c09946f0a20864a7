"""What one's own texts and tables look like: which column holds labels, which names rows, where nothing is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engine.registry import describe_choices
from .base import TaskError
from .files import Table, read_table, written
from .quoting import safe, shortened
from .readings import holds, is_number
from .row_names import ALWAYS, USUAL, trouble

if TYPE_CHECKING:
    from pandas import DataFrame

USUAL_LABELS = ("label", "target", "class", "y")

Facts = list[tuple[str, str]]


def look_at_text(path: Path, label: str | None, missing: Sequence[str]) -> tuple[dict[str, Any], Facts, list[str]]:
    """Options of ``own_text``, what was seen, and what is to be said.

    Raises:
        TaskError: when no column can be the text or hold labels.
    """
    table, label = _labelled(path, label)
    identity, _, said = _identity(table, label)
    lengths = {c: _words(table.frame, c) for c in table.frame.columns if c not in (label, identity)}
    if not lengths:
        raise TaskError(f"{path} has no column beside '{label}' that could be the text")
    text = "text" if "text" in lengths else max(lengths, key=lambda c: lengths[c])
    facts = [("columns", f"text in '{text}', {lengths[text]:.0f} words on average; labels in '{label}'")]
    options = {"file": str(path), "text": text, "label": label, "id": identity}
    return options | _for_none(table, label, missing), facts, said


def look_at_table(path: Path, label: str | None, missing: Sequence[str]) -> tuple[dict[str, Any], Facts, list[str]]:
    """Options of ``own_table``, what was seen, and what is to be said.

    Raises:
        TaskError: when no column looks like labels.
    """
    table, label = _labelled(path, label)
    identity, unfit, said = _identity(table, label)
    gaps = {c: int(table.frame[c].isna().sum()) for c in table.frame.columns if c not in (label, identity, *unfit)}
    holes = [f"{c} {n:,}" for c, n in gaps.items() if n]
    facts = [("blank cells", shortened(holes, 6))] if holes else []
    options = {"file": str(path), "target": label, "id": identity, "ignore": unfit}
    return options | _for_none(table, label, missing), facts, said


def _labelled(path: Path, label: str | None) -> tuple[Table, str]:
    """A table whose labels and names of rows are as they are written, and its column of labels."""
    table = read_table(path)
    label = label or _label_column(path, table.frame)
    named = [name for name in table.frame.columns if name.lower() in USUAL]
    return read_table(path, (label, *named)), label


def _for_none(table: Table, label: str, words: Sequence[str]) -> dict[str, Any]:
    """The option ``missing_values`` for words given to the command."""
    frame, others = table.frame, [word for word in words if not is_number(word)]
    if not words:
        return {}
    if len(others) == len(words):
        return {"missing_values": list(words)}
    held = {name: others for name in frame.columns if others and name != label and holds(frame[name], others).any()}
    return {"missing_values": {label: list(words), **held}}


def _words(frame: DataFrame, name: Any) -> float:
    cells = written(frame[name])
    return sum(len(cell.split()) for cell in cells) / max(len(cells), 1)


def _label_column(path: Path, frame: DataFrame) -> str:
    """A column with a usual name, else the one with most blanks."""
    names = [str(c) for c in frame.columns]
    usual = [name for word in USUAL_LABELS for name in names if name.lower() == word]
    blanks = {str(c): float(frame[c].isna().mean()) for c in frame.columns}
    if usual:
        return usual[0]
    fullest = max(blanks, key=lambda c: blanks[c], default="")
    if not blanks or blanks[fullest] < 0.2:
        raise TaskError(f"{path}: name the column of labels with --label; {describe_choices('label', names)}")
    return fullest


def _identity(table: Table, label: str) -> tuple[str, list[str], list[str]]:
    """A column called id in which every row has its own value, or none; columns called so that are unfit, and why."""
    unfit, said = [], []
    found = ""
    for name in table.frame.columns:
        if name.lower() not in USUAL or name == label:
            continue
        wrong = trouble(table, name)
        if not wrong:
            found = found or name
        elif name.lower() in ALWAYS:
            unfit.append(name)
            said.append(f"column '{safe(name)}' is neither used to name rows nor to learn from: {wrong}")
    if unfit and not found:
        said.append("rows are numbered from 0 in the files of labels")
    return found, unfit, said
