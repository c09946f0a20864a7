"""A system of ``benchmarks/own_data`` on one draw of a task: its features, its call in a process of its own, its errors."""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metaimpute.inference.doubt import to_check
from metaimpute.tasks.locate import cache_folder
from metaimpute.training.evaluation import calibration

from .asked import Answer, Asked, System
from .features import FEATURES, Unavailable, compute
from .sets import Data, DataSet
from .tables import slug

SECONDS = 900
forked = multiprocessing.get_context("fork")


def feature_of(data_set: DataSet, data: Data, name: str) -> tuple[np.ndarray, float]:
    """One kind of features of all rows, kept in the cache, and the seconds it took.

    Raises:
        Unavailable: when a package with an encoder is not here.
    """
    path = cache_folder() / "own_data" / f"{slug(data_set.name)}-{slug(name)}.npz"
    if path.is_file():
        with np.load(path) as kept:
            found, seconds = kept["features"], float(kept["seconds"])
        if len(found) == len(data.truth):
            return found, seconds
    start = time.perf_counter()
    found = compute(name, data.rows)
    seconds = time.perf_counter() - start
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, features=found, seconds=seconds)
    return found, seconds


def features_of(data_set: DataSet, data: Data) -> tuple[dict[str, np.ndarray], dict[str, float], list[str]]:
    """Features of all rows by name; the seconds each took; what is missing for others."""
    known, seconds, lacking = {}, {}, []
    for name in FEATURES[data_set.form]:
        try:
            known[name], seconds[name] = feature_of(data_set, data, name)
        except Unavailable as error:
            lacking.append(str(error))
    return known, seconds, lacking


def carried_out(system: System, asked: Asked, labelled: np.ndarray, labels: np.ndarray, rows: Any,
                limit: float = SECONDS) -> dict[str, Any]:  # fmt: skip
    """Runs a system in a process of its own: its ``answer`` and what it took, or ``failed`` or ``unavailable``."""

    def work(end: Any) -> None:
        warnings.simplefilter("ignore")
        before, start, cpu = (
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            time.perf_counter(),
            time.process_time(),
        )
        try:
            found: dict[str, Any] = {"answer": system(asked, labelled, labels, rows)}
        except Unavailable as error:
            found = {"unavailable": str(error)}
        except Exception as error:
            traceback.print_exc()
            found = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
        found |= {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
        found["memory_mb"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        end.send(found)
        end.close()

    here, there = forked.Pipe(duplex=False)
    process = forked.Process(target=work, args=(there,))
    process.start()
    there.close()
    try:
        found = here.recv() if here.poll(limit) else {"failed": f"no answer in {limit:.0f} seconds"}
    except EOFError:
        found = {"failed": "the process ended without an answer"}
    if process.is_alive() and "failed" in found:
        process.kill()
    process.join()
    return found


def scores(answer: Answer, truth: np.ndarray, hidden: np.ndarray, values: bool) -> dict[str, Any]:
    """Errors on the hidden rows: in percent of the rows and of each class alike, or RMSE and RMSE in percent of the spread."""
    real, said = truth[hidden], np.asarray(answer.predictions)[hidden]
    found: dict[str, Any] = {}
    if values:
        wrong = float(np.sqrt(np.mean((said.astype(float) - real) ** 2)))
        found |= {"rmse": wrong, "error": 100 * wrong / float(real.std())}
        if answer.spread is not None:
            found["coverage"] = 100 * float(np.mean(np.abs(said.astype(float) - real) <= answer.spread[hidden]))
    else:
        right = said.astype(str) == real.astype(str)
        found["error"] = 100 * float(1 - right.mean())
        found["balanced_error"] = 100 * float(1 - np.mean([right[real == name].mean() for name in np.unique(real)]))
        if answer.confidences is not None:
            found["confidence"] = 100 * float(np.mean(answer.confidences[hidden]))
            sure = torch.from_numpy(np.asarray(answer.confidences[hidden], float))
            found |= least_sure(1 - sure, ~right)
            found["ece"] = 100 * calibration(torch.stack([sure, 1 - sure], 1), torch.from_numpy(1 - right))["ece"]
    if answer.sets is not None:
        sets = [answer.sets[place] for place in hidden.tolist()]
        held = [name in one for name, one in zip(real.astype(str), sets, strict=True)]
        found |= {"set_coverage": 100 * float(np.mean(held)), "set_size": float(np.mean([len(one) for one in sets]))}
    if answer.own_error is not None:
        found["own_error"] = list(answer.own_error)
    return {key: short(value) for key, value in found.items()}


def least_sure(doubt: torch.Tensor, wrong: np.ndarray) -> dict[str, list[float]]:
    """Of the rows that ``impute`` asks a person to check: their share of all, the share of the wrong labels that it expects
    among them, and the share that is there; in percent. Nothing where no label is wrong."""
    count, promised = to_check(doubt)
    if not wrong.any():
        return {}
    first = doubt.argsort(descending=True, stable=True)[:count].numpy()
    return {"least_sure": [100 * count / len(doubt), 100 * promised, 100 * float(wrong[first].sum() / wrong.sum())]}


def short(value: Any) -> Any:
    """Numbers with five digits."""
    if isinstance(value, list):
        return [short(item) for item in value]
    return None if value is None else float(f"{value:.5g}")


def one_draw(
    data_set: DataSet, data: Data, features: dict[str, np.ndarray], system: System, seed: int
) -> dict[str, Any]:
    """A system's measurements on one draw."""
    labelled = data_set.draw(data.truth, seed)
    with tempfile.TemporaryDirectory() as folder:
        asked = Asked(
            data_set.name, data_set.form, data_set.values, data_set.arrays, seed, Path(folder), features.__getitem__
        )
        outcome = carried_out(system, asked, labelled, data.truth[labelled], data.rows)
    if "answer" in outcome:
        hidden = np.setdiff1d(np.arange(len(data.truth)), labelled)
        outcome = scores(outcome.pop("answer"), data.truth, hidden, data_set.values) | outcome
        outcome |= {key: short(outcome[key]) for key in ("seconds", "cpu_seconds", "memory_mb")}
    return outcome
