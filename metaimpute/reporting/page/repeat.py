"""What a step cost, and how to repeat each run."""

from __future__ import annotations

import shlex
import statistics
from pathlib import Path

import yaml

from ...recipes.shipped import shipped_recipes
from ...rundir.result import Result
from ...terminal import argument
from ..console import spread
from .blocks import Block, Cell, Group, Section, System, Table, Verbatim
from .svg import shares_bar

PHASES = ("data", "imputation", "base", "hypergradient")  # of a step; result.json's phase_seconds


def cost(group: Group) -> Section:
    """Seconds per step, and where they go as far as runs recorded it."""
    systems = group.systems
    parts = [name for name in PHASES if any(_phase(system, name) for system in systems)]
    head = ["system", "whole step", *parts, *(["rest"] if parts else []), *(["shares"] if parts else [])]
    rows = []
    for system in systems:
        whole = [1000 * run.result.training_seconds / run.result.steps for run in system.runs if run.result.steps]
        cells = [Cell(system.name), Cell(spread(whole, "{:.1f}"))]
        if parts:
            found = [_phase(system, name) for name in parts]
            rest = statistics.mean(whole) - sum(value or 0.0 for value in found) if whole else 0.0
            shares = [value or 0.0 for value in [*found, max(rest, 0.0)]] if any(found) else []
            cells += [Cell("-" if value is None else f"{value:.1f}") for value in found]
            cells += (
                [Cell(f"{rest:.1f}" if rest >= 0 else "-"), Cell(shares_bar(shares))]
                if shares
                else [Cell("-"), Cell("-")]
            )
        rows.append(cells)
    note = "Over the whole run, with evaluation and checkpoints"
    note += "; the rest is what no phase accounts for. Shares in the order of the columns." if parts else "."
    return Section(
        "cost",
        "Where the time went",
        [Table("Milliseconds per step", head, rows, systems if len(systems) > 1 else (), "numbers", note)],
        folded=True,
    )


def _phase(system: System, name: str) -> float | None:
    """Mean milliseconds of one phase of a step."""
    results = [run.result for run in system.runs if run.result.steps]
    found = [r.phase_seconds[name] / r.steps for r in results if name in r.phase_seconds]
    return 1000 * statistics.mean(found) if found else None


def repeat(group: Group) -> Section:
    """Commands, machines, versions and the resolved recipe."""
    systems, blocks = group.systems, list[Block]()
    studies = {Path(run.study.file).name for system in systems for run in system.runs if run.study is not None}
    if studies:
        blocks.append(
            Verbatim("The study", "\n".join(f"metaimpute study {argument(name)}" for name in sorted(studies)))
        )
    calls = ["\n".join(command(run.result) for run in system.runs) for system in systems]
    if len(systems) == 1 and len(systems[0].runs) == 1:
        blocks.append(Verbatim("", calls[0]))
    else:
        blocks += [Verbatim(one.full_name, call, folded=True) for one, call in zip(systems, calls, strict=True)]
    for system in systems:
        recipe = yaml.safe_dump(system.runs[0].settings, sort_keys=False, allow_unicode=True)
        name = f"{system.full_name}, " if len(systems) > 1 else ""
        blocks.append(Verbatim(f"{name}every setting, seed {system.result.seed}", recipe, folded=True))
    machines: dict[str, list[str]] = {}
    for system in systems:
        for run in system.runs:
            machines.setdefault(_machine(run.result), []).append(f"{system.key or system.name} seed {run.result.seed}")
    lines = [machine if len(machines) == 1 else f"{', '.join(runs)}: {machine}" for machine, runs in machines.items()]
    blocks.append(Verbatim("Machine and versions", "\n".join(lines), folded=True))
    typed = dict.fromkeys(run.result.environment["command"] for system in systems for run in system.runs)
    blocks.append(Verbatim("Commands as they were typed", "\n".join(typed), folded=True))
    return Section("repeat", "Repeat it", blocks)


def _machine(result: Result) -> str:
    found = result.environment
    versions = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    where = f"{found['device']}, {found['threads']} of {found['cores']} cores, {found['system']}"
    return f"{where}; Python {found['python']}, {versions}; {result.profile} profile: {result.profile_reason}"


def command(result: Result) -> str:
    """The call that repeats a run, with the recipe's name where it comes with the package; never a path from a disk's root."""
    modules = [part for name in result.imports or [] for part in ("--import", argument(_near(name)))]
    words = [
        "--profile",
        result.profile,
        *(part for value in result.overrides for part in ("--set", value)),
    ]
    rest = shlex.join(map(str, [*words, "--seed", result.seed]))
    return " ".join(["metaimpute run", argument(recipe_name(result.recipe)), *modules, rest])


def recipe_name(recipe: str) -> str:
    """How to name a run's recipe in a command: its name alone where that is a shipped one, else its file."""
    path = Path(recipe)
    known = shipped_recipes()
    if path.stem in known and (not path.exists() or path.resolve() == known[path.stem].resolve()):
        return path.stem if path.parent.name in ("recipes", "") else _near(recipe)
    return _near(recipe)


def _near(path: str) -> str:
    """A path as it is, but from a disk's root: then below the folder where one is, or its file's name alone."""
    given = Path(path)
    if not given.is_absolute():
        return path
    return str(given.relative_to(Path.cwd())) if given.is_relative_to(Path.cwd()) else given.name
