"""Labels for the unlabelled examples a run was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ..progress import phase
from ..rundir.origin import DATA, recipe_of
from ..rundir.result import Result
from ..tasks.base import Missing, MissingData, Pool, Task, TaskData, TaskError
from ..tasks.own_data import OwnData
from ..tasks.own_images import TABLE_REMEDY
from ..tasks.own_table import OwnTable
from ..tasks.quoting import quoted
from ..terminal import argument
from .predictions import Predictions
from .predictor import Predictor, load


@dataclass(frozen=True)
class Imputed:
    """A run's own data, and the labels given to what of it had none.

    Attributes:
        found: the labels. predictor: what gave them. task: with its data at hand. data: its pools, as they were for training.
        unlabelled: the rows that ``found`` is of.
    """

    found: Predictions
    predictor: Predictor
    task: Task
    data: TaskData
    unlabelled: Pool

    @property
    def given(self) -> list[Pool]:
        """Rows with a label that a person gave: those trained on, those for validation and for the test."""
        return [self.data.labelled, self.data.validation, self.data.test]


def imputed(run: str | Path, device: str = "auto", data: str | Path | None = None) -> Imputed:
    """Labels, by the finished network, for every example of the run's own data that training had none of.

    Args:
        data: the file or folder, where it is no longer where the run found it.

    Raises:
        NotExported: when the run is not finished. MissingData: when its data is no longer here. TaskError: when the data has
            changed since, so that what the network learnt no longer fits it.
    """
    with phase("loading the run"):
        predictor = load(run, device)
    recipe = recipe_of(Path(run), None if data is None else Path(data))
    task = recipe.task
    if absent := task.missing():
        raise MissingData([Missing(one.what, one.looked or (str(run),), _again(task, one)) for one in absent])
    task.prepare_inputs = predictor.task.prepare_inputs
    if isinstance(task, OwnData) and isinstance(predictor.task, OwnData):
        task.keep_corrections(predictor.task.corrected_labels)
    with phase("loading data"):
        pools = task.load(predictor.recipe.train.seed)
    if task.learnt() != predictor.task.learnt():
        raise TaskError(_changed(Path(run), predictor, task, pools))
    known = torch.isin(pools.unlabelled.ids, pools.labelled.ids)  # labelled ones that training also drew as unlabelled
    without = pools.unlabelled.subset((~known).nonzero()[:, 0])
    if not len(without):
        raise TaskError(f"{run} was trained without unlabelled examples")
    return Imputed(predictor.label(without, task.row_names(without)), predictor, task, pools, without)


def _changed(run: Path, predictor: Predictor, task: Task, pools: TaskData) -> str:
    """That a run's data is no longer what it was trained on, in which way, and what labels it as it is."""
    result = Result.read(run)
    then, now = (result.labels, result.unlabelled), (len(pools.labelled), len(pools.unlabelled))
    columns = _columns(predictor.task), _columns(task)
    gone = [one for one in columns[0] if one not in columns[1]]
    new = [one for one in columns[1] if one not in columns[0]]
    if gone or new:
        how = "; ".join(f"{what}: {quoted(some)}" for what, some in (("columns gone", gone), ("new ones", new)) if some)
    elif then != now:
        how = f"{then[0]:,} labels and {then[1]:,} rows to learn from then, {now[0]:,} and {now[1]:,} now"
    else:
        how = "labels or rows are others, or in another order"
    name = next((getattr(task, option) for option in DATA if getattr(task, option, "")), "FILE")
    again = f"metaimpute predict {argument(run)} {argument(name)}"
    way = "put them back, or train again" if gone else f"label it as it is now with {again}"
    return f"the data has changed since {run} was trained on it: {how}; {way}"


def _columns(task: Task) -> list[str]:
    return list(task.columns) if isinstance(task, OwnTable) else []


def _again(task: Task, absent: Missing) -> str:
    """How to get data that a run was trained on."""
    if not isinstance(task, OwnData):
        return absent.remedy
    if absent.remedy == TABLE_REMEDY:
        return "put it there, or where it lay beside or in the folder of images that --data PATH names"
    return f"name it with --data PATH, or {absent.remedy}"


def impute(run: str | Path, device: str = "auto", data: str | Path | None = None) -> tuple[Predictions, Predictor]:
    """The labels of :func:`imputed`, and what gave them."""
    found = imputed(run, device, data)
    return found.found, found.predictor
