"""Run directories read back: what was asked, what was measured, and the trained network."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..problems import BilevelProblem, problems
from ..progress import counted
from ..recipes.schema import CONDUCT
from ..recipes.source import RecipeError, read
from ..rundir.checkpoint import latest
from ..rundir.layout import METRICS, RECIPE, RESULT, is_run
from ..rundir.measure import MEASURE, UNRECORDED, Measure, measure_of, value_of
from ..rundir.origin import recipe_of
from ..rundir.result import Result
from ..rundir.stored import DamagedFile, read_metrics
from ..terminal import argument
from ..training.state import RunState
from .console import system_name
from .named import Named, named

TOLD = 3  # settings in a system's name, at most


class Kind(NamedTuple):
    """What runs have in common whose numbers can stand in one table; ``content`` tells data of one name apart, where known."""

    task: str
    metric: str
    source: str
    content: str | None


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        metrics: lines of ``metrics.jsonl``, in order. settings: the resolved recipe. study: its part in one, if it has any.
    """

    folder: Path
    result: Result
    metrics: list[dict[str, float]]
    settings: dict[str, Any]
    study: Named | None = None

    @property
    def measure(self) -> Measure:
        """What it is compared by: as its study says, else as it has recorded itself."""
        return self.study.measure if self.study is not None else measure_of(self.result)

    @property
    def is_control(self) -> bool:
        """Whether something else stands in the hypergradient's place."""
        return is_control(self.result.problem)

    @property
    def system(self) -> str:
        """What runs that differ in their seed alone have in common."""
        sections = {name: value for name, value in self.settings.items() if name != "about"}
        train = {key: value for key, value in (sections.get("train") or {}).items() if key not in CONDUCT}
        r = self.result
        data = [r.source, r.profile, r.labels, r.unlabelled, r.test_examples, content_of(r)]
        name = [self.study.name, self.study.file] if self.study is not None else []
        return json.dumps([{**sections, "train": train}, data, name], sort_keys=True, default=str)

    @property
    def kind(self) -> Kind:
        result = self.result
        return Kind(result.task, result.metric, result.source, content_of(result))

    @property
    def learns_labels(self) -> bool:
        return self.result.problem != "none"

    def series(self, *names: str) -> tuple[list[float], list[list[float]]]:
        """Steps at which all of these were measured, and their values."""
        lines = [line for line in self.metrics if all(name in line for name in names)]
        return [line["step"] for line in lines], [[line[name] for line in lines] for name in names]

    def restored(self) -> RunState:
        """The run's data, task and trained network.

        Raises:
            MissingData: when the data is not here. NoCheckpoint: when the weights are gone.
        """
        state, _, _ = latest(self.folder)
        session = RunState(recipe_of(self.folder), lambda message: None)
        session.load_state(state)
        session.module.eval()
        torch.set_grad_enabled(True)
        return session


def read_run(folder: Path, metrics: bool = True) -> Run:
    """A finished run.

    Args:
        metrics: whether its ``metrics.jsonl`` is asked for; otherwise it may be damaged, or gone.

    Raises:
        RecipeError: when the folder holds no finished run, saying what is missing. DamagedFile: naming a file of it.
    """
    if not is_run(folder):
        raise RecipeError(f"{folder} is not a run directory (no {RECIPE})")
    try:
        result = Result.read(folder)
    except FileNotFoundError:
        raise RecipeError(
            f"{folder} is not finished (no {RESULT}); continue it with --resume {argument(folder)}"
        ) from None
    settings = read(folder / RECIPE).data
    for section, values in settings.items():
        if not isinstance(values, dict | None):
            raise DamagedFile(folder / RECIPE, f"{section} holds no keys")
    try:
        lines = read_metrics(folder / METRICS) if metrics else []
    except FileNotFoundError:
        raise DamagedFile(folder / METRICS, "it is gone") from None
    return Run(folder, result, lines, settings, named(folder))


def is_control(problem: str) -> bool:
    """Whether a problem of this name puts something else in the hypergradient's place."""
    made = problems.get(problem) if problem in problems else None
    return getattr(made, "control", BilevelProblem.control) is not BilevelProblem.control


def read_runs(folder: Path, metrics: bool = True) -> tuple[list[Run], list[str]]:
    """The run in a folder, or the finished runs of all run directories in it by name, and why others are left out.

    A study's folder holds them one level deeper.

    Args:
        metrics: whether what was measured in training is asked for too.

    Raises:
        RecipeError: when there is no finished run.
    """
    inside = sorted(path.parent for depth in ("*", "*/*") for path in folder.glob(f"{depth}/{RECIPE}"))
    if is_run(folder) or not inside:
        return [read_run(folder, metrics)], []
    found, left_out = [], []
    for path in counted(inside, "reading runs", len(inside)):
        try:
            found.append(read_run(path, metrics))
        except RecipeError as reason:
            left_out.append(str(reason))
        except OSError as reason:
            left_out.append(f"{path}: {reason.strerror}")
    if not found:
        raise RecipeError(f"no run in {folder} is finished: {'; '.join(left_out)}")
    return sorted(found, key=lambda run: run.study.place if run.study is not None else -1), left_out


def by_system(runs: Iterable[Run]) -> list[list[Run]]:
    """Runs that differ in their seed alone, together and by seed; a seed run twice begins another group."""
    groups: dict[tuple[str, int], list[Run]] = {}
    seen: dict[tuple[str, int], int] = {}
    for run in runs:
        place = (run.system, run.result.seed)
        seen[place] = seen.get(place, 0) + 1
        groups.setdefault((run.system, seen[place]), []).append(run)
    return [sorted(group, key=lambda run: run.result.seed) for group in groups.values()]


def by_kind(runs: Iterable[Run]) -> dict[Kind, list[list[Run]]]:
    """Systems that can be compared, by task, metric and data, in their order."""
    groups: dict[Kind, list[list[Run]]] = {}
    for seeds in by_system(runs):
        groups.setdefault(seeds[0].kind, []).append(seeds)
    return groups


def titles_of(kinds: Iterable[Kind], between: str, metrics: Sequence[str] | None = None) -> list[str]:
    """Task and metric of each, with the data where another has both in common, and with its content where even that is shared.

    Args:
        between: task and metric. metrics: other words for them.
    """
    every, titles = list(kinds), []
    for kind, metric in zip(every, metrics or [kind.metric for kind in every], strict=True):
        beside = [other for other in every if other[:2] == kind[:2]]
        known = [kind.source] if len(beside) > 1 else []
        if sum(other.source == kind.source for other in beside) > 1:
            known.append(f"content {kind.content}" if kind.content else "content not recorded")
        titles.append(f"{kind.task}{between}{metric}" + (f" ({', '.join(known)})" if known else ""))
    return titles


def names_of(systems: Sequence[Sequence[Run]]) -> list[str]:
    """A name for each system unlike every other's: its study's; else where some share method and problem, with the settings that
    differ."""
    plain = [system_name(seeds[0].result) for seeds in systems]
    traits = [_traits(seeds[0]) for seeds in systems]
    names: list[str] = []
    for name, own, seeds in zip(plain, traits, systems, strict=True):
        alike = [other for shared, other in zip(plain, traits, strict=True) if shared == name]
        differ = [
            key
            for key in dict.fromkeys(key for other in alike for key in other)
            if len({str(other.get(key)) for other in alike}) > 1
        ]
        full = ", ".join([name, *(f"{key}={_brief(own[key])}" for key in differ[:TOLD] if key in own)])
        full = seeds[0].study.name if seeds[0].study is not None else full
        again = sum(other == full or other.startswith(f"{full} #") for other in names)
        names.append(f"{full} #{again + 1}" if again else full)
    return names


def _brief(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _traits(run: Run) -> dict[str, Any]:
    """What a run was made of, flat: its data, then every setting by its dotted key."""
    found = {key: run.result[key] for key in ("profile", "source", "labels")}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for key, inside in value.items():
                walk(inside, f"{path}.{key}" if path else str(key))
        elif not path.startswith("about.") and path.removeprefix("train.") not in CONDUCT:
            found[path] = value

    walk(run.settings, "")
    return found


def comparable(first: Result, second: Result) -> bool:
    """Whether a difference between two results means something: same data, same profile, same test set."""
    told = [(r.source, r.profile, r.test_examples, content_of(r)) for r in (first, second)]
    return told[0] == told[1]


def content_of(result: Result) -> str | None:
    """What identifies the content of a run's data; None of published data sets and of runs that did not record it."""
    return result.data_fingerprint or None


def measure_for(systems: Iterable[Sequence[Run]]) -> Measure:
    """What systems of one table are compared by: what all their runs say, else the last test error."""
    found = {run.measure for seeds in systems for run in seeds}
    return found.pop() if len(found) == 1 else MEASURE


def errors_by_seed(runs: Sequence[Run], measure: Measure | None = None) -> dict[int, float]:
    """The number of each seed that has one; ``measure`` instead of the runs' own."""
    values = {run.result.seed: value_of(run.result, measure or run.measure) for run in runs}
    return {seed: value for seed, value in values.items() if value is not None}


def unrecorded(runs: Sequence[Run]) -> list[str]:
    """A line where runs are older than the record of what they are compared by."""
    count = sum(run.result.measure is None and run.study is None for run in runs)
    return [f"{count} of {len(runs)} runs: {UNRECORDED}"] if count else []
