"""Drafts a recipe for one's own data from looking at it: the shipped ``own_*`` recipe with its values filled in."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .engine.registry import describe_choices
from .recipes import resolve, validate
from .shipped import shipped_recipes
from .tasks import MissingData, OwnImages, OwnTable, OwnText, TaskData, TaskError
from .tasks.files import missing_file, read_frame, written
from .tasks.image_listing import images_in
from .tasks.outputs import Classes
from .tasks.own_data import OwnData, shortened
from .tasks.own_images import pixel_sides
from .terminal import spelled
from .yaml_source import RecipeError, flow, parse

if TYPE_CHECKING:
    from pandas import DataFrame

SMALLEST, LARGEST = 16, 64  # sides of the network's input that a CPU trains in minutes
USUAL_LABELS = ("label", "target", "class", "y")
FOR_VALUES = "{name: mean_teacher, weight: 1, ramp: 0.4}"
VALUE = re.compile(r"^(\s*)(\w+):(\s+)(.*?)(\s*#.*)?$")

Facts = list[tuple[str, str]]


@dataclass(frozen=True)
class Draft:
    """A recipe's text, what was seen of the data as (what, how much), and what looks wrong with it."""

    text: str
    facts: Facts
    warnings: tuple[str, ...]


def draft(kind: str, path: Path, label: str | None = None) -> Draft:
    """A recipe for the images, text or table in ``path``.

    Raises:
        MissingData: when there is nothing at ``path``. TaskError, RecipeError: when the data cannot be used, and why.
    """
    if not path.exists():
        folder = "give the path of a folder with labelled/CLASS/ and unlabelled/"
        raise MissingData(missing_file(str(path), folder) if kind == "images" else missing_file(str(path)))
    if kind != "images" and not path.is_file():
        raise TaskError(f"{path} is no regular file; give the path of a CSV or Parquet file")
    if kind == "images":
        options, facts = _look_at_images(path)
        task: OwnData = OwnImages(**options)
    elif kind == "text":
        options, facts = _look_at_text(path, label)
        task = OwnText(**options)
    else:
        options, facts = _look_at_table(path, label)
        task = OwnTable(**options)
    try:
        task.check()
        data = task.load(0)
    except TaskError as error:
        raise RecipeError(f"{path}: {error}") from None
    values = {f"task.{key}": value for key, value in options.items()}
    if isinstance(task, OwnTable):
        values["task.kind"] = "classes" if isinstance(task.output, Classes) else "values"
    if not isinstance(task.output, Classes):
        values |= {"method": FOR_VALUES, "problem.scale": "raw"}
    if isinstance(task, OwnTable):
        rows = f"; rows named by '{task.id}'" if task.id else ""
        facts = [("columns", f"{len(task.columns)} to learn from; target '{task.target}'{rows}"), *facts]
    facts = [*_counts(task, data), *facts]
    text = _recipe(f"own_{kind}", path, values, data)
    validate(resolve(parse(text, str(path)), "sample"), str(path), "sample")
    return Draft(text, facts, data.warnings)


def _counts(task: OwnData, data: TaskData) -> Facts:
    targets, names = data.labelled.targets, task.label_names or []
    assert targets is not None
    if isinstance(task.output, Classes):
        counts = torch.bincount(targets, minlength=len(names)).tolist()
        labels = f"{len(names)} classes: " + shortened([f"{n} {c}" for n, c in zip(names, counts, strict=True)], 12)
    else:
        mean, std = task.output.mean[0], task.output.std[0]  # type: ignore[attr-defined]
        labels = f"values of {names[0]}, {mean:.4g} on average, standard deviation {std:.4g}"
    return [
        ("labels to train on", f"{len(data.labelled):,}; {labels}"),
        ("unlabelled", f"{len(data.unlabelled):,} {task.things}"),
        ("test", data.source.partition("test: ")[2].rstrip(")") or "none"),
    ]


def _look_at_images(path: Path) -> tuple[dict[str, Any], Facts]:
    missing = [part for part in ("labelled", "unlabelled") if not (path / part).is_dir()]
    if missing:
        raise TaskError(f"{path} holds no folder {missing[0]}/; put images in labelled/CLASS/ and unlabelled/")
    sides = pixel_sides(images_in(path))
    sides = sides[sides.min(1).values > 0]
    if not len(sides):
        raise TaskError(f"{path}: none of the images can be read")
    shorter = sides.min(1).values
    size = min(max(8 * math.ceil(int(shorter.median()) / 8), SMALLEST), LARGEST)
    smallest, largest = sides[shorter.argmin()].tolist(), sides[shorter.argmax()].tolist()
    seen = f"{smallest[0]} x {smallest[1]} to {largest[0]} x {largest[1]} pixels; the network sees {size} x {size}"
    return {"folder": str(path), "size": size}, [("images", seen)]


def _look_at_text(path: Path, label: str | None) -> tuple[dict[str, Any], Facts]:
    frame = read_frame(path, (label or "",))
    label = label or _label_column(path, frame)
    identity = _id_column(frame, label)
    lengths = {str(c): _words(frame, c) for c in frame.columns if str(c) not in (label, identity)}
    if not lengths:
        raise TaskError(f"{path} has no column beside '{label}' that could be the text")
    text = "text" if "text" in lengths else max(lengths, key=lambda c: lengths[c])
    facts = [("columns", f"text in '{text}', {lengths[text]:.0f} words on average; labels in '{label}'")]
    return {"file": str(path), "text": text, "label": label, "id": identity}, facts


def _look_at_table(path: Path, label: str | None) -> tuple[dict[str, Any], Facts]:
    frame = read_frame(path, (label or "",))
    label = label or _label_column(path, frame)
    identity = _id_column(frame, label)
    columns = [str(c) for c in frame.columns if str(c) not in (label, identity)]
    gaps = {c: int(frame[c].isna().sum()) for c in columns}
    holes = [f"{c} {n:,}" for c, n in gaps.items() if n]
    facts = [("blank cells", shortened(holes, 6))] if holes else []
    return {"file": str(path), "target": label, "id": identity}, facts


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


def _id_column(frame: DataFrame, label: str) -> str:
    """A column called id in which every row has its own value, or none."""
    named = (str(c) for c in frame.columns if str(c).lower() in ("id", "uid", "uuid", "key") and str(c) != label)
    return next((name for name in named if frame[name].is_unique and frame[name].notna().all()), "")


def _recipe(name: str, path: Path, values: dict[str, Any], data: TaskData) -> str:
    """The shipped recipe ``name`` with values from the data, and batches no larger than what there is."""
    template = shipped_recipes()[name].read_text(encoding="utf-8")
    known = parse(template, name).data["train"]
    values = {
        **values,
        "train.batch": min(known["batch"], max(len(data.labelled), 2)),
        "train.unlabelled_batch": min(known["unlabelled_batch"], max(len(data.unlabelled), 2)),
    }
    values["about"] = f"{{title: {flow(path.stem)}}}"
    found = f"{len(data.labelled):,} labels, {len(data.unlabelled):,} without, {len(data.test):,} for the test"
    head = f"# {spelled(path)}, as metaimpute init found it: {found}.\n"
    return head + filled(template[template.index("about:") :], values)


def filled(template: str, values: Mapping[str, Any]) -> str:
    """A recipe's text with other values for keys it has; its comments stay where they are.

    Args:
        values: of single keys, e.g. ``task.size``; of whole sections, e.g. ``method``, as YAML.
    """
    lines, section = [], ""
    for line in template.splitlines():
        match = VALUE.match(line + " " if line.endswith(":") else line)
        if match is None:
            lines.append(line)
            continue
        indent, key, gap, old, comment = match.groups()
        section = section if indent else key
        place = f"{section}.{key}" if indent else key
        if place in values and old:
            new = flow(values[place]) if indent else values[place]
            room = max(len(old) + len(comment or "") - len((comment or "").lstrip()) - len(new), 1)
            line = f"{indent}{key}:{gap}{new}" + (" " * room + comment.lstrip() if comment else "")
        lines.append(line)
    return "\n".join(lines) + "\n"
