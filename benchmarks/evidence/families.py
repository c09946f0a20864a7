"""Families of ``families.yaml``: does an objective beat every control and the simple rivals, each with as many settings?

    python -m benchmarks.evidence families "wrong labels" --seconds 500

Every arm is tried with as many settings, three or six, on validation rows and seeds that are not reported; the best is then
measured on the seeds that are. Arms share draw, network and steps, but for those that change them on purpose. Every run is
kept, the search's too, in ``benchmarks/results/evidence/families/TASK.json``; the same command goes on after an interruption.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import click
import torch
import yaml

from metaimpute.environment import describe
from metaimpute.errors import UserError
from metaimpute.rundir.files import write_text

from .methods import slug
from .runs import measured
from .tables import write_tables
from .training import points

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "evidence" / "families"
PAGE = HERE.parents[1] / "docs" / "evidence.md"
FAILED = 100.0  # validation error of a run that diverged
KINDS = {"none": "base"}  # of arms that methods.py has measured; all but L2I's are controls else


def read_families() -> dict[str, Any]:
    """The families of families.yaml; tasks that are ``taken`` from those of methods.yaml have recipe and settings of theirs."""
    families: dict[str, Any] = yaml.safe_load((HERE / "families.yaml").read_text())
    tasks = yaml.safe_load((HERE / "methods.yaml").read_text())["tasks"]
    for family in families.values():
        for task in family.get("taken", ()):
            own = tasks[task]
            family.setdefault("tasks", {})[task] = {"recipe": own["recipe"], **own["set"]}
        everywhere = family.pop("everywhere", {})
        family["arms"] = {
            name: {**arm, "grid": {**everywhere, **arm.get("grid", {})}} for name, arm in family["arms"].items()
        }
    return families


def taken(task: str, results: Path) -> dict[str, Any]:
    """Arms of a task that ``methods.py`` has measured."""
    path = results.parent / f"{slug(task)}.json"
    arms = json.loads(path.read_text())["arms"]
    return {
        name: {
            "asked": {"kind": KINDS.get(name, "objective" if name.startswith("l2i") else "control")}, "search": [],
            "chosen": {"set": arm["set"], "validation": arm["validation"]}, "test": arm["test"],
            "seconds": dict.fromkeys(arm["test"], arm["seconds"]),
            "measured_by": f'python -m benchmarks.evidence methods "{task}"',
        }
        for name, arm in arms.items()
    }  # fmt: skip


def asked_of(family: dict[str, Any], task: str) -> dict[str, Any]:
    """The recipe, the settings of all arms, and the task whose choices are taken, if it is another one."""
    own = dict(family["tasks"][task])
    tuned_on, recipe = own.pop("tuned_on", None), own.pop("recipe", family.get("recipe"))
    found = {"recipe": recipe, "set": {**family.get("set", {}), **own}, "tuned_on": tuned_on}
    return {**found, "search": family["search"]} if "search" in family else found


def fresh(name: str, task: str, family: dict[str, Any]) -> dict[str, Any]:
    return {
        "family": name, "task": task, **asked_of(family, task), "profile": "sample", "tune": family["tune"],
        "command": f'python -m benchmarks.evidence families "{name}"', "environment": describe(torch.device("cpu")),
        "arms": {},
    }  # fmt: skip


def but_grid(asked: dict[str, Any]) -> dict[str, Any]:
    """An arm without its settings: those that were tried before are tried still where others are added."""
    return {key: value for key, value in asked.items() if key != "grid"}


def known(name: str, task: str, family: dict[str, Any], results: Path) -> dict[str, Any]:
    """What has been measured of a task with the same settings; an arm that is another one now begins anew."""
    path, found = results / f"{slug(task)}.json", fresh(name, task, family)
    if path.is_file():
        before = json.loads(path.read_text())
        if all(before[key] == found[key] for key in ("recipe", "set", "tuned_on")):
            found = {**found, "arms": before["arms"]}
    arms = taken(task, results) if task in family.get("taken", ()) else {}
    for arm, own in family["arms"].items():
        empty = {"asked": own, "search": [], "chosen": None, "test": {}, "seconds": {}}
        of_arm = found["arms"].get(arm)
        arms[arm] = empty if of_arm is None or but_grid(of_arm["asked"]) != but_grid(own) else {**of_arm, "asked": own}
        reported = set(map(str, seeds_of(family)))
        for seed in arms[arm]["test"].keys() - reported:  # of a pilot
            arms[arm].setdefault("pilot", {})[seed] = arms[arm]["test"].pop(seed)
            arms[arm]["seconds"].pop(seed)
    return {**found, "arms": arms}


def run(found: dict[str, Any], arm: str, point: dict[str, Any], seed: int) -> dict[str, Any]:
    own = found["arms"][arm]["asked"]
    try:
        return measured(found, own, point, seed)
    except UserError as error:
        if getattr(error, "prefix", "") != "training diverged: ":
            raise
        return {"validation": FAILED, "test": FAILED, "seconds": 0.0, "diverged": True}


def seeds_of(family: dict[str, Any]) -> range:
    """Seeds that are reported."""
    first = family.get("first", 0)
    return range(first, first + family["seeds"])


def search(found: dict[str, Any], seeds: list[int], settings: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """Tries the settings of every arm; then the best of each is under ``chosen``, with its mean validation error."""
    for arm, tried_points in settings.items():
        own = found["arms"][arm]
        before = {json.dumps(tried["set"], sort_keys=True): tried for tried in own["search"]}
        own["search"] = [
            before.get(json.dumps(point, sort_keys=True), {"set": point, "validation": {}, "seconds": {}})
            for point in tried_points
        ]
        for tried in own["search"]:
            point = tried["set"]
            for seed in seeds:
                if str(seed) not in tried["validation"]:
                    result = run(found, arm, point, seed)
                    tried["validation"][str(seed)], tried["seconds"][str(seed)] = (
                        result["validation"],
                        result["seconds"],
                    )
                    yield f"seed {seed} {arm} {point}: {result['validation']:.2f} on validation rows"
        best = min(own["search"], key=lambda tried: statistics.fmean(tried["validation"].values()))
        choose(own, {"set": best["set"], "validation": statistics.fmean(best["validation"].values())})


def settings_of(found: dict[str, Any], results: Path) -> dict[str, list[dict[str, Any]]]:
    """Settings to try of every arm that is measured here: those of its grid, or the one chosen on another task."""
    here = {arm: own["asked"] for arm, own in found["arms"].items() if "measured_by" not in own}
    if found["tuned_on"] is None:
        return {arm: points(asked) for arm, asked in here.items()}
    path = results / f"{slug(found['tuned_on'])}.json"
    other = json.loads(path.read_text())["arms"] if path.is_file() else {}
    if any((other.get(arm) or {}).get("chosen") is None for arm in here):
        raise click.UsageError(f"{found['tuned_on']!r} has to be measured first: its settings are taken")
    return {arm: [other[arm]["chosen"]["set"]] for arm in here}


def choose(own: dict[str, Any], chosen: dict[str, Any]) -> None:
    """Keeps an arm's setting; what was measured with another one, before there were more seeds to choose on, goes."""
    if own["chosen"] is not None and own["chosen"]["set"] != chosen["set"]:
        own["test"], own["seconds"] = {}, {}
    own["chosen"] = chosen


def report(found: dict[str, Any], seeds: range) -> Iterator[str]:
    """Measures every arm with its chosen setting, seed by seed."""
    for seed in seeds:
        for arm, own in found["arms"].items():
            if str(seed) not in own["test"] and "measured_by" not in own:
                result = run(found, arm, own["chosen"]["set"], seed)
                own["test"][str(seed)], own["seconds"][str(seed)] = result["test"], result["seconds"]
                yield f"seed {seed} {arm}: {result['test']:.2f} ({result['seconds']:.1f} s)"


def measure(
    name: str,
    family: dict[str, Any],
    until: float = float("inf"),
    results: Path = RESULTS,
    tasks: Collection[str] | None = None,
) -> bool:
    """Every run of a family, or of some tasks of it, that there is not yet; whether all are there now."""
    for task in [task for task in family["tasks"] if tasks is None or task in tasks]:
        found = known(name, task, family, results)
        path = results / f"{slug(task)}.json"

        def steps(found: dict[str, Any] = found) -> Iterator[str]:
            yield from search(found, family["tune"], settings_of(found, results))
            yield from report(found, seeds_of(family))

        for line in steps():
            click.echo(f"{task}: {line}")
            write_text(path, json.dumps(found, indent=1) + "\n")
            if time.monotonic() > until:
                return False
        write_text(path, json.dumps(found, indent=1) + "\n")
    return True


@click.command()
@click.argument("names", nargs=-1)
@click.option(
    "--task", "tasks", multiple=True, help="Only this task of them, so that several processes share a family."
)
@click.option("--seconds", type=float, default=float("inf"), help="Stop after so many; the same command goes on.")
@click.option("--table", "only_table", is_flag=True, help="Write tables and picture from what there is.")
def families(names: tuple[str, ...], tasks: tuple[str, ...], seconds: float, only_table: bool) -> None:
    """Measure the families NAMES of families.yaml (default: all)."""
    until = time.monotonic() + seconds
    asked = read_families()
    unknown = [name for name in names if name not in asked]
    if unknown:
        raise click.UsageError(f"no such family: {unknown[0]}; there are {', '.join(asked)}")
    known_tasks = [task for name in names or asked for task in asked[name]["tasks"]]
    stray = [task for task in tasks if task not in known_tasks]
    if stray:
        raise click.UsageError(f"no such task: {stray[0]}; there are {'; '.join(known_tasks)}")
    for name in () if only_table else names or tuple(asked):
        if not measure(name, asked[name], until, tasks=tasks or None):
            break
    if tasks and not only_table:
        return  # others may be at work on the rest
    write_tables(asked, RESULTS, PAGE)
