"""Drafts a recipe for one's own data from looking at it: the shipped ``own_*`` recipe with its values filled in."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..batches.outputs import Classes, Standardized
from ..models.image_encoder import REMEDY, packaged_encoder
from ..tasks import MissingData, OwnImages, OwnTable, OwnText, TaskData, TaskError
from ..tasks.doubts import Doubt
from ..tasks.files import missing_file
from ..tasks.image_listing import images_in
from ..tasks.looks import Facts, look_at_table, look_at_text
from ..tasks.own_data import OwnData
from ..tasks.own_images import pixel_sides
from ..tasks.quoting import shortened
from ..terminal import spelled
from .recipe import resolve, validate
from .shipped import shipped_recipes
from .source import RecipeError, Source, flow, override, parse
from .validation import options as options_of

SMALLEST, LARGEST = 16, 64  # sides of the network's input that a CPU trains in minutes
SMALLEST_ENCODED, LARGEST_ENCODED = 24, 224  # of images that an encoder pretrained on photographs makes something of
FOR_VALUES = "{name: mean_teacher, weight: 1, ramp: 0.4}"
VALUE = re.compile(r"^(\s*)(\w+):(\s+)(.*?)(\s*#.*)?$")


@dataclass(frozen=True)
class Draft:
    """A recipe's text, what was seen of the data as (what, how much), and what looks wrong with it."""

    text: str
    facts: Facts
    warnings: tuple[str, ...]


def by_set(doubt: Doubt) -> str:
    """How a user of the command line answers a question."""
    return f"say which here with --set {shlex.quote(doubt.setting)}"


def draft(
    kind: str,
    path: Path,
    label: str | None = None,
    missing: Sequence[str] = (),
    sets: Sequence[str] = (),
    answered: Callable[[Doubt], str] = by_set,
    labels: Path | None = None,
) -> Draft:
    """A recipe for the images, text or table in ``path``.

    Args:
        label: column of labels or targets. missing: words that mean "none"; a number does so among the labels alone.
        sets: ``task.key=value`` assignments, which go before what the data looks like. answered: says how a question is answered.
        labels: a table that says which images have which label.

    Raises:
        MissingData: when there is nothing at ``path``. TaskError, RecipeError: when the data cannot be used, and why, or can be
            read in two ways, and how to say which.
    """
    if not path.exists():
        folder = (
            "give the path of a folder of images, with labelled/CLASS/ and unlabelled/ or a table of labels, --labels"
        )
        raise MissingData(missing_file(str(path), folder) if kind == "images" else missing_file(str(path)))
    if labels is not None and kind != "images":
        raise RecipeError(
            "--labels is for images; labels of text and tables are a column of theirs, named with --label"
        )
    said: list[str] = []
    model = ""
    if kind != "images" and not path.is_file():
        raise TaskError(f"{path} is no regular file; give the path of a CSV or Parquet file")
    if kind == "images":
        options, facts, model = _look_at_images(path, labels, label, missing)
    elif kind == "text":
        options, facts, said = look_at_text(path, label, missing)
    else:
        options, facts, said = look_at_table(path, label, missing)
    options, task = _task(kind, {"test_share": 0, **options}, sets)
    task.measured_by_folds = True  # as the drafted recipe says
    try:
        task.check()
        data = task.load(0)
    except TaskError as error:
        answer = f"; {answered(error)}" if isinstance(error, Doubt) and error.answer else ""
        option = str(error).partition(": ")[0]
        unfound = labels is not None and not answer and not options.get(option, True)
        if unfound:  # a column that was not named
            answer = (
                "; name it with --label COLUMN" if option == "label" else f"; name it with --set task.{option}=COLUMN"
            )
        line = str(error) if str(error).startswith(f"{path}: ") else f"{path}: {error}"
        raise RecipeError(f"{line}{answer}") from None
    values = {f"task.{key}": value for key, value in options.items()}
    if isinstance(task, OwnTable):
        values["task.kind"] = "classes" if isinstance(task.output, Classes) else "values"
    if isinstance(task, OwnImages):
        values["model"] = model
        if task.table:
            told = task.told_by_table()
            values |= {"task.image_column": told.image_column, "task.label": told.label}
            columns = f"labels in '{told.label}' of {task.table}; images named in '{told.image_column}'"
            facts = [("columns", columns), *facts]
    if not isinstance(task.output, Classes):
        values |= {"method": FOR_VALUES}
    if isinstance(task, OwnTable):
        rows = f"; rows named by '{task.id}'" if task.id else ""
        facts = [("columns", f"{len(task.columns)} to learn from; target '{task.target}'{rows}"), *facts]
    facts = [*_counts(task, data), *facts]
    text = _recipe(f"own_{kind}", path, values, data)
    validate(resolve(parse(text, str(path)), "sample"), str(path), "sample")
    return Draft(text, facts, (*said, *data.warnings))


def _task(kind: str, options: dict[str, Any], sets: Sequence[str]) -> tuple[dict[str, Any], OwnData]:
    """The task and its options, those of ``sets`` before those that were found."""
    source = Source({"task": options}, {}, "init")
    for assignment in sets:
        source = override(source, assignment)
    other = sorted(set(source.data) - {"task"})
    if other:
        raise RecipeError(
            f"--set {other[0]}: init sets keys of the task, e.g. task.id=name; change others in the recipe"
        )
    entry = {"images": OwnImages, "text": OwnText, "table": OwnTable}[kind]
    given = source.data["task"]
    return given, entry(**options_of(entry, given, source, ("task",), ()))


def _counts(task: OwnData, data: TaskData) -> Facts:
    targets, names = data.labelled.targets, task.label_names or []
    assert targets is not None
    if isinstance(task.output, Classes):
        counts = torch.bincount(targets, minlength=len(names)).tolist()
        labels = f"{len(names)} classes: " + shortened([f"{n} {c}" for n, c in zip(names, counts, strict=True)], 12)
    else:
        assert isinstance(task.output, Standardized)
        mean, std = task.output.mean[0], task.output.std[0]
        labels = f"values of {names[0]}, {mean:.4g} on average, standard deviation {std:.4g}"
    return [
        ("labels to train on", f"{len(data.labelled):,}; {labels}"),
        ("unlabelled", f"{len(data.unlabelled):,} {task.things}"),
        ("test", data.source.partition("test: ")[2].rstrip(")") or "none"),
    ]


def _require_sorted(path: Path, label: str | None, missing: Sequence[str]) -> None:
    """Raises:
    TaskError, RecipeError: where no table says what images are, and folders do not either."""
    if path.is_file():
        raise TaskError(
            f"{path} is no folder; give the folder of the images, and a table of their labels with --labels"
        )
    for option, given in (("--label", label), ("--missing", missing)):
        if given:
            raise RecipeError(
                f"{option} is for text and tables, and for a table that --labels names; without one images lie in "
                "labelled/CLASS/, those without label in unlabelled/"
            )
    absent = [part for part in ("labelled", "unlabelled") if not (path / part).is_dir()]
    if absent:
        raise TaskError(
            f"{path} holds no folder {absent[0]}/; put images in labelled/CLASS/ and unlabelled/, or name a table of labels with "
            "--labels"
        )


def _require_table(path: Path, labels: Path) -> None:
    """Raises:
    TaskError, RecipeError, MissingData: where a table of labels, or the folder of its images, is none."""
    if not path.is_dir():
        raise TaskError(f"{path} is no folder; give the folder of the images that {labels} names")
    if not labels.exists() and (path / labels).is_file():
        raise RecipeError(f"--labels: there is no file {labels} here; did you mean {path / labels}?")
    if not labels.exists():
        raise MissingData(missing_file(str(labels), "give the path of a CSV or Parquet file with --labels"))
    if not labels.is_file():
        raise RecipeError(f"--labels: {labels} is no regular file; give the path of a CSV or Parquet file")


def _look_at_images(
    path: Path, table: Path | None, label: str | None, missing: Sequence[str]
) -> tuple[dict[str, Any], Facts, str]:
    """Options of ``own_images``, what was seen, and the recipe's model as YAML.

    Args:
        table: that says what images are; None: folders do.
    """
    options: dict[str, Any] = {"folder": str(path)}
    if table is None:
        _require_sorted(path, label, missing)
    else:
        _require_table(path, table)
        options |= {
            "table": str(table),
            "image_column": "",
            "label": label or "",
            **({"missing_values": list(missing)} if missing else {}),
        }
    sides = pixel_sides(images_in(path))
    sides = sides[sides.min(1).values > 0]
    if not len(sides):
        raise TaskError(f"{path}: none of the images can be read")
    shorter = sides.min(1).values
    median, encoded = int(shorter.median()), packaged_encoder()
    model, why = "{name: patches}", f"patches, nothing pretrained; for an encoder, {REMEDY} and init again"
    if encoded:
        why = f"patches; the pretrained encoder that is installed makes little of under {SMALLEST_ENCODED} pixels"
    if encoded and median >= SMALLEST_ENCODED:
        model, why = "{name: timm}", "timm: EfficientNet-Lite0, pretrained on ImageNet, is installed"
    if model == "{name: timm}":
        size = min(
            median, LARGEST_ENCODED
        )  # as they are: the encoder enlarges what is smaller, and to do so twice blurs it
    else:
        size = min(max(8 * math.ceil(median / 8), SMALLEST), LARGEST)
    smallest, largest_seen = sides[shorter.argmin()].tolist(), sides[shorter.argmax()].tolist()
    seen = f"{smallest[0]} x {smallest[1]} to {largest_seen[0]} x {largest_seen[1]} pixels; the network sees {size} x {size}"
    return options | {"size": size}, [("images", seen), ("model", why)], model


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
    template = with_lines(template, [key for key in values if key.startswith("task.")])
    found = f"{len(data.labelled):,} labels, {len(data.unlabelled):,} without, {len(data.test):,} for the test"
    head = f"# {spelled(path)}, as metaimpute init found it: {found}.\n"
    return head + filled(template[template.index("about:") :], values)


def with_lines(template: str, places: Sequence[str]) -> str:
    """A recipe's text with an empty line, to be filled, for each ``task`` key that it has none of."""
    lines = template.splitlines()
    known = {match[2] for match in map(VALUE.match, lines) if match and match[1]}
    absent = [place.removeprefix("task.") for place in places if place.removeprefix("task.") not in known]
    last = next(number for number, line in enumerate(lines) if line.startswith("  name: own_"))
    return "\n".join([*lines[: last + 1], *(f"  {key}: null" for key in absent), *lines[last + 1 :]]) + "\n"


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
