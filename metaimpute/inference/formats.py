"""Labels in the formats that tools for reviewing them import.

Label Studio: JSON tasks with ``predictions`` (labelstud.io/guide/predictions), and the labelling configuration they fit.
doccano: JSONL with ``text`` and ``label`` (``backend/data_import/pipeline/catalog.py``, text classification). cleanlab:
integer labels and ``pred_probs`` as arrays, as ``cleanlab.filter.find_label_issues`` and ``Datalab`` take them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from ..rundir.files import replacing, write_text
from ..tasks.base import TaskError
from ..tasks.contents import Contents
from .doubt import written
from .predictions import Predictions
from .table import Given, LabelTable

SUFFIXES = {"csv": ".csv", "parquet": ".parquet", "label-studio": ".json", "doccano": ".jsonl", "cleanlab": ".npz"}
TAG = "label"  # of the control in Label Studio
TAGS = {"text": "Text", "image": "Image", "cells": "Table"}
LOCAL_FILES = "/data/local-files/?d="  # as Label Studio serves files below its document root


@dataclass(frozen=True)
class Labels:
    """What there is to write.

    Attributes:
        found: labels given by a network. contents: of those rows, then of ``given``. given: rows with labels given by a person.
        model: a name for what gave the labels.
    """

    found: Predictions
    contents: Contents | None = None
    given: Given | None = None
    model: str = "metaimpute"


def write_as(
    kind: str, path: Path, labels: Labels, *, with_content: bool = False, with_given: bool = False
) -> list[Path]:
    """Writes labels in a format of :data:`SUFFIXES`; returns the files.

    Raises:
        TaskError: when the format does not suit the data, and why.
    """
    return WRITERS[kind](path, labels, with_content, with_given)


def _table(path: Path, labels: Labels, with_content: bool, with_given: bool) -> list[Path]:
    if with_content and labels.contents is None:
        raise TaskError("--with-content: the rows of this task hold nothing to be read; leave it out")
    table = LabelTable(labels.found, labels.contents if with_content else None, labels.given if with_given else None)
    table.write(path)
    return [path]


def _label_studio(path: Path, labels: Labels, with_content: bool, with_given: bool) -> list[Path]:
    contents = _readable(labels, "label-studio")
    found = labels.found
    names, of_classes = list(found.ids), found.probabilities is not None
    tasks: list[dict[str, Any]] = []
    answers: list[Any] = found.labels if of_classes else [row[0] for row in _values(found)]
    scores = [None] * len(names) if found.confidence is None else [written(c) for c in found.confidence.tolist()]
    for place, (name, answer, score) in enumerate(zip(names, answers, scores, strict=True)):
        made: dict[str, Any] = {"model_version": labels.model, "result": [_choice(answer, contents, of_classes)]}
        tasks.append(
            {"data": _data(contents, place, name), "predictions": [made if score is None else made | {"score": score}]}
        )
    if with_given and labels.given is not None:
        for place, (name, answer) in enumerate(zip(labels.given.ids, labels.given.labels, strict=True), len(names)):
            plain: Any = answer if of_classes else float(answer)
            annotation = {"result": [_choice(plain, contents, of_classes)]}
            tasks.append({"data": _data(contents, place, name), "annotations": [annotation]})
    write_text(path, json.dumps(tasks, ensure_ascii=False, indent=1) + "\n")
    config = path.with_suffix(".xml")
    write_text(config, _config(contents, found.names if of_classes else None))
    return [path, config]


def _choice(answer: Any, contents: Contents, of_classes: bool) -> dict[str, Any]:
    kind, value = ("choices", {"choices": [answer]}) if of_classes else ("number", {"number": answer})
    return {"from_name": TAG, "to_name": contents.kind, "type": kind, "value": value}


def _data(contents: Contents, place: int, name: str) -> dict[str, Any]:
    row = contents.rows[place]
    if contents.kind == "image":
        return {"id": name, "image": LOCAL_FILES + quote(name)}
    return {
        "id": name,
        contents.kind: row[0] if contents.kind == "text" else dict(zip(contents.columns, row, strict=True)),
    }


def _config(contents: Contents, classes: list[str] | None) -> str:
    """The labelling configuration to paste into a project's settings."""
    seen = f'  <{TAGS[contents.kind]} name="{contents.kind}" value="${contents.kind}"/>'
    if classes is None:
        asked = f'  <Number name="{TAG}" toName="{contents.kind}"/>'
    else:
        choices = "".join(f"    <Choice value={quoteattr(name)}/>\n" for name in classes)
        asked = f'  <Choices name="{TAG}" toName="{contents.kind}" choice="single">\n{choices}  </Choices>'
    return f"<View>\n{seen}\n{asked}\n</View>\n"


def _doccano(path: Path, labels: Labels, with_content: bool, with_given: bool) -> list[Path]:
    contents, found = _readable(labels, "doccano"), labels.found
    if contents.kind == "image":
        raise TaskError("--format doccano: doccano imports images without labels; take label-studio")
    if found.probabilities is None:
        raise TaskError("--format doccano: doccano labels classes, and values were predicted; take label-studio")
    table = LabelTable(found, None, labels.given if with_given else None)
    lines = []
    for row, cells in zip(table.records(), contents.rows, strict=False):
        text = (
            cells[0]
            if contents.kind == "text"
            else "\n".join(map(": ".join, zip(contents.columns, cells, strict=True)))
        )
        kept = {key: row[key] for key in ("confidence", "rank", "runner_up", "given") if row.get(key) is not None}
        lines.append(json.dumps({"text": text, "label": [row["label"]], "row": row["id"], **kept}, ensure_ascii=False))
    write_text(path, "".join(line + "\n" for line in lines))
    return [path]


def _cleanlab(path: Path, labels: Labels, with_content: bool, with_given: bool) -> list[Path]:
    found, given = labels.found, labels.given
    if found.probabilities is None:
        raise TaskError("--format cleanlab: classes are needed, and values were predicted")
    seen = None if given is None or given.probabilities is None else np.isfinite(given.probabilities).all(1)
    if given is None or seen is None or not seen.any():
        raise TaskError(
            "--format cleanlab: no labelled row has probabilities from a model that was not trained on it; make the run with "
            "choose, or with a test set"
        )
    number = {name: place for place, name in enumerate(found.names)}
    at = np.flatnonzero(seen)
    assert given.probabilities is not None
    with replacing(path) as partial, partial.open("wb") as stream:
        np.savez_compressed(
            stream,
            ids=np.array([given.ids[i] for i in at]),
            labels=np.array([number[given.labels[i]] for i in at], dtype=np.int64),
            pred_probs=_summing_to_1(given.probabilities[at]),
            classes=np.array(found.names),
            unlabelled_ids=np.array(found.ids),
            unlabelled_pred_probs=_summing_to_1(found.probabilities.double().numpy()),
        )
    return [path]


def _summing_to_1(shares: np.ndarray) -> np.ndarray:
    return np.asarray(shares / shares.sum(1, keepdims=True))


def _readable(labels: Labels, kind: str) -> Contents:
    if labels.contents is None:
        raise TaskError(f"--format {kind}: the rows of this task hold nothing to be read; take csv")
    return labels.contents


def _values(found: Predictions) -> list[list[float]]:
    if found.values is None or found.values.shape[1] != 1:
        raise TaskError("--format label-studio: one value of each row can be written, not several; take csv")
    return [[float(f"{value:.6g}") for value in row] for row in found.values.tolist()]


WRITERS: dict[str, Callable[[Path, Labels, bool, bool], list[Path]]] = {
    "csv": _table,
    "parquet": _table,
    "label-studio": _label_studio,
    "doccano": _doccano,
    "cleanlab": _cleanlab,
}
