"""What a step cost, and how to repeat each run."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Sequence

import yaml

from ...rundir.result import Result
from ...terminal import argument
from ..console import spread
from .blocks import Block, Cell, Section, System, Table, Verbatim, Words
from .svg import shares_bar

PHASES = ("data", "imputation", "base", "hypergradient")  # of a step; result.json's phase_seconds


def cost(systems: Sequence[System]) -> Section:
    """Seconds per step, and where they go as far as runs recorded it."""
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
        "Cost of a step",
        [Table("Milliseconds per step", head, rows, systems if len(systems) > 1 else (), "numbers", note)],
    )


def _phase(system: System, name: str) -> float | None:
    """Mean milliseconds of one phase of a step."""
    results = [run.result for run in system.runs if run.result.steps]
    found = [r.phase_seconds[name] / r.steps for r in results if name in r.phase_seconds]
    return 1000 * statistics.mean(found) if found else None


def repeat(systems: Sequence[System]) -> Section:
    """Commands, machines, versions and the resolved recipe."""
    blocks: list[Block] = []
    for system in systems:
        blocks.append(Verbatim(system.full_name, "\n".join(command(run.result) for run in system.runs)))
        recipe = yaml.safe_dump(system.runs[0].settings, sort_keys=False, allow_unicode=True)
        seed = system.result.seed
        blocks.append(Verbatim(f"Resolved recipe, seed {seed}", recipe, folded=True))
    machines: dict[str, list[str]] = {}
    for system in systems:
        for run in system.runs:
            machines.setdefault(_machine(run.result), []).append(f"{system.key or system.name} seed {run.result.seed}")
    lines = [f"{', '.join(runs)}: {machine}" for machine, runs in machines.items()]
    blocks.append(Words(lines, "list", "Machines and versions"))
    recorded = [
        f"{system.full_name}, seed {run.result.seed}: {run.result.environment['command']}"
        for system in systems
        for run in system.runs
    ]
    blocks.append(Verbatim("Commands as they were typed", "\n".join(recorded), folded=True))
    return Section("repeat", "How to repeat each run", blocks)


def _machine(result: Result) -> str:
    found = result.environment
    versions = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    where = f"{found['device']}, {found['threads']} of {found['cores']} cores, {found['system']}"
    return f"{where}; Python {found['python']}, {versions}; {result.profile} profile: {result.profile_reason}"


def command(result: Result) -> str:
    """The call that repeats a run."""
    modules = [part for name in result.imports or [] for part in ("--import", argument(name))]
    words = [
        "--profile",
        result.profile,
        *(part for value in result.overrides for part in ("--set", value)),
    ]
    rest = shlex.join(map(str, [*words, "--seed", result.seed]))
    return " ".join(["metaimpute run", argument(result.recipe), *modules, rest])
