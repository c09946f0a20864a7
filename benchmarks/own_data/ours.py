"""metaimpute as it comes, as a system of the benchmark: the commands that a user gives, and variants asked for by name."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .asked import SETS, Answer, Asked
from .features import Unavailable

OURS = "metaimpute, defaults"
PATCHES = "metaimpute, without an encoder"  # what the defaults are where no pretrained encoder is installed
L2I = "metaimpute, network with L2I"
TABM = "metaimpute, with TabM"  # as one system more
LOOKAHEAD = (
    "problem={name: l2i, estimator: mixed, form: released, holdout_view: weak, inner: {lr: 0.01, rate: trust(0.05)}}"
)


def metaimpute_defaults(
    asked: Asked, labelled: np.ndarray, labels: np.ndarray, rows: Any, changes: tuple[str, ...] = ()
) -> Answer:
    """``MetaImputer`` for arrays; ``metaimpute init``, ``run`` and ``impute`` for files. ``changes``: by ``--set``."""
    if asked.arrays:
        return imputer_defaults(asked, labelled, labels, rows)
    kind = {"table": "table", "texts": "text", "images": "images"}[asked.form]
    path = write_for_user(asked, labelled, labels, rows)
    recipe, run = asked.folder / "own.yaml", asked.folder / "run"
    column = () if kind == "images" else ("--label", "label")
    command("init", kind, str(path), *column, "--out", str(recipe))
    sets = [word for change in changes for word in ("--set", change)]
    command("run", str(recipe), "--seed", str(asked.seed), "--out", str(run), *sets)
    command("impute", str(run), *(() if asked.values else ("--sets", str(SETS))))
    return read_answer(asked, labelled, labels, len(rows))


def with_tabm(asked: Asked, labelled: np.ndarray, labels: np.ndarray, rows: Any) -> Answer:
    """The defaults and TabM (Gorishniy et al., ICLR 2025) as one member more, an optional extra."""
    if importlib.util.find_spec("tabm") is None:
        raise Unavailable("TabM: pip install tabm")
    from . import tabm  # noqa: F401  # registers it, in this process alone

    return metaimpute_defaults(asked, labelled, labels, rows)


def imputer_defaults(asked: Asked, labelled: np.ndarray, labels: np.ndarray, rows: Any) -> Answer:
    from metaimpute import MetaImputer
    from metaimpute.imputer import MetaImputerRegressor

    given = np.full(len(rows), np.nan) if asked.values else np.full(len(rows), None, dtype=object)
    given[labelled] = labels
    if asked.values:
        regressor = MetaImputerRegressor(random_state=asked.seed).fit(np.asarray(rows, float), given)
        one = regressor.expected_
        return Answer(regressor.transduction_, None, (one.error, one.low, one.high))
    imputer = MetaImputer(random_state=asked.seed).fit(np.asarray(rows, float), given)
    one = imputer.expected_
    return Answer(
        imputer.transduction_, imputer.label_distributions_.max(1), (100 * one.error, 100 * one.low, 100 * one.high)
    )


def command(*words: str) -> str:
    """Carries out ``metaimpute WORDS`` in this process, and returns what it prints.

    Raises:
        RuntimeError: with the last lines, when it fails.
    """
    from metaimpute.cli import main

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            main(args=list(words), prog_name="metaimpute", standalone_mode=True)
        except SystemExit as end:
            if end.code not in (0, None):
                raise RuntimeError(f"metaimpute {words[0]}: {printed.getvalue()[-500:]}") from None
    return printed.getvalue()


def folder_name(label: str) -> str:
    """A class as a folder can be called."""
    return re.sub(r"[^\w-]+", "-", label)


def write_for_user(asked: Asked, labelled: np.ndarray, labels: np.ndarray, rows: Any) -> Path:
    """The file or folder that a user would have: labels where they were drawn, blanks elsewhere."""
    given = pd.Series([None] * len(rows), dtype=object)
    given[labelled] = labels
    if asked.form == "images":
        from PIL import Image

        folder = asked.folder / "own"
        for number, image in enumerate(rows):
            name = "unlabelled" if given[number] is None else Path("labelled") / folder_name(given[number])
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / name / f"{number}.png")
        return folder
    frame = pd.DataFrame({"text": rows}) if asked.form == "texts" else rows.copy()
    path = asked.folder / "own.csv"
    frame.assign(label=given).to_csv(path, index=False)
    return path


def read_answer(asked: Asked, labelled: np.ndarray, labels: np.ndarray, count: int) -> Answer:
    """``labels.csv`` by place, and the error on the rows that the run held out."""
    found = pd.read_csv(asked.folder / "run" / "labels.csv", dtype=str, keep_default_na=False)
    places = found["id"].map(lambda name: int(Path(name).stem)).to_numpy()
    hidden = np.setdiff1d(np.arange(count), labelled)
    if not np.array_equal(np.sort(places), hidden):
        raise RuntimeError("labels.csv does not name the rows without a label")
    if asked.values:
        said = found["value"].astype(float)
    else:
        said = found["label"]
        if asked.form == "images":
            said = said.replace({folder_name(name): name for name in set(labels)})
    predictions = np.full(count, np.nan) if asked.values else np.full(count, "", dtype=object)
    predictions[labelled], predictions[places] = labels, said
    confidences = spread = sets = None
    if "set" in found:
        sets = [set[str]()] * count
        for place, words in zip(places, found["set"], strict=True):
            sets[place] = set(words.split("|"))
    if asked.values:
        spread = np.zeros(count)
        spread[places] = found["value_spread"].astype(float)
    if "confidence" in found and not asked.values:
        confidences = np.ones(count)
        confidences[places] = found["confidence"].astype(float)
    expected = json.loads((asked.folder / "run" / "result.json").read_text()).get("expected")
    own = (
        None
        if expected is None or expected["error"] is None
        else (expected["error"], expected["low"], expected["high"])
    )
    return Answer(predictions, confidences, own, spread, sets)
