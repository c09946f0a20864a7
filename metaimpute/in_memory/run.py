"""One run on data in memory: written as a file, a recipe drafted from looking at it, trained, its systems combined."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..inference import Predictor, load
from ..progress import phase
from ..recipes.draft import draft
from ..rundir.begin import Beginning
from ..rundir.files import write_text
from ..rundir.result import Result
from ..tasks.doubts import Doubt
from ..tasks.files import held_in_memory
from ..training.finite import Diverged
from ..training.session import Interrupted, Session
from .data import Data
from .files import STEM, class_folders, in_users_words, label_column, write_data
from .given import Given
from .progress import shown, telling

DRAFTED = {"table": "table", "texts": "text", "images": "images"}
WARNING = "warning: "


@dataclass(frozen=True)
class Finished:
    """A finished run.

    Attributes:
        folder: of the run. result: what it says of itself. predictor: its systems combined.
        originals: the user's own labels by the names that the run has for them. warnings: what looks wrong, a line each.
    """

    folder: Path
    result: Result
    predictor: Predictor
    originals: Mapping[str, Any]
    warnings: tuple[str, ...] = field(default=())


def run_on(
    data: Data,
    given: Given,
    folder: Path,
    begin: Callable[[Path], Beginning],
    *,
    sets: Sequence[str] = (),
    argument: str = "set",
    device: str = "auto",
    verbose: int = 0,
) -> Finished:
    """Trains and combines systems on rows of which some have a label.

    Args:
        folder: for the data's file, the recipe and the run. begin: makes a run of the drafted recipe's file.
        sets: ``task.key=value`` assignments. argument: of the caller, that takes such. verbose: 1 tells of it as it goes.

    Raises:
        TaskError, RecipeError: when the data cannot be used, in one line. MissingData: when an encoder is not installed.
        FloatingPointError: when training diverges. KeyboardInterrupt: on a signal.
    """
    folder = folder.absolute()
    words = given.words()
    path = write_data(data, words, folder)
    recipe = folder / f"{STEM}.yaml"
    classes = {place: label for label, place in class_folders(words).items()} if data.kind == "images" else {}
    said: list[str] = []

    def spoken(line: object) -> str:
        return in_users_words(str(line), path, recipe, classes, argument)

    def answered(doubt: Doubt) -> str:
        return f"say which with {_as_argument(argument, doubt, label)}"

    label = None if data.kind == "images" else label_column(data)

    try:
        with held_in_memory(path), shown(verbose) as progress:
            with phase("looking at the data"):
                drafted = draft(DRAFTED[data.kind], path, label, sets=[*_usual(data, given), *sets], answered=answered)
            write_text(recipe, drafted.text)
            began = begin(recipe)
            told = telling(progress, began.recipe.steps, began.recipe.task.output)

            def say(line: str) -> None:
                said.append(spoken(line))
                told.say(said[-1])

            session = Session(began.recipe, began.folder, why=began.why, begun=began.begun, say=say, report=told.report)
            session.report_system = told.report_system
            result = session.run()
        predictor = load(began.folder, device)
    except Interrupted:  # what a program expects of Ctrl-C; a run in memory is not gone on with
        raise KeyboardInterrupt from None
    except Diverged as error:
        lower = "learning_rate" if argument == "settings" else f'{argument}={{"train.optimizer.lr": ...}}'
        raise FloatingPointError(f"training diverged: {str(error).partition('; ')[0]}; lower {lower}") from None
    except UserError as error:
        error.args = (spoken(error),)
        raise
    called = {name: classes.get(name, name) for name in predictor.label_names}
    own = given.names(list(called.values()))
    originals = {name: own[label] for name, label in called.items()}
    warnings = tuple(line.removeprefix(WARNING) for line in said if line.startswith(WARNING))
    return Finished(began.folder, result, predictor, originals, warnings)


def _usual(data: Data, given: Given) -> list[str]:
    """Task options of every run on data in memory: rows are found again by their place, categories of pandas are words, and where
    every row has a label all of them are unlabelled ones as well."""
    import pandas

    found = ["task.unlabelled_includes_labelled=true"] if given.known.all() else []
    if data.kind != "images":
        found.append('task.id=""')
    if data.kind == "table":
        dtypes = data.rows.dtypes.items()
        words = [name for name, dtype in dtypes if isinstance(dtype, pandas.CategoricalDtype)]
        found += [f"task.words={json.dumps(words)}"] if words else []
    return found


def _as_argument(argument: str, doubt: Doubt, label: str | None) -> str:
    """An answer as Python has it: ``missing_label="?"``, ``set={"task.kind": "classes"}``, ``settings={"task": {...}}``."""
    import yaml

    key, _, text = doubt.setting.partition("=")
    value = yaml.safe_load(text)
    if key == "task.missing_values" and list(value) == [label] and len(value[label]) == 1:
        return f"missing_label={json.dumps(value[label][0], ensure_ascii=False)}"
    section, _, option = key.partition(".")
    plain = json.dumps({section: {option: value}} if argument == "settings" else {key: value}, ensure_ascii=False)
    return f"{argument}={plain}"
