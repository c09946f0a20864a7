"""The first thing a page says: the verdict, and the numbers behind it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial

from ...rundir.measure import interval_of, said, value_of
from ...rundir.result import Result
from ..console import spread, uneven
from ..run_verdict import said_of
from ..runs import errors_by_seed, unrecorded
from ..statistics import FROM_FIVE
from ..verdict import duration
from ..warned import warned
from .blocks import Block, Cell, Facts, Group, Section, System, Table, Words
from .svg import strip

Value = Callable[[Result], float | None]
COUNTS = (("labels", "labels"), ("unlabelled", "unlabelled"), ("test examples", "test_examples"), ("steps", "steps"))


def verdict(group: Group) -> Section:
    """What the numbers say, in sentences."""
    found = said_of(group.compared)
    following = [f"What now: {found.next}."] if found.next else []
    notes = unrecorded([run for system in group.systems for run in system.runs])
    more = [Words(notes, "note")] if notes else []
    return Section("verdict", "In short", [Words([*found.lines, *following], "verdict"), *more])


def results(group: Group) -> Section:
    """Of one run its numbers one below the other, else a row for each system."""
    one = len(group.systems) == 1 and len(group.systems[0].runs) == 1
    return Section("results", "The numbers", [_facts_of(group) if one else _table(group), *_more(group, one)])


def _facts_of(group: Group) -> Facts:
    system = group.systems[0]
    result, interval = system.result, interval_of(system.result)
    between = "" if interval is None else f" (95% interval {interval[0]:.3g} to {interval[1]:.3g})"
    tested = "-" if result.test_last is None else f"{result.test_last:.2f}{between}"
    facts = [(f"test {result.metric}", tested)]
    facts += [(name, values[0]) for name, values in _measured(group).items() if name.startswith("validation")]
    facts += [
        ("labelled, unlabelled, test rows", f"{result.labels:,}, {result.unlabelled:,}, {result.test_examples:,}"),
        ("data", result.source),
        ("system, model", f"{system.name}, {result.model}"),
        ("steps, time", f"{result.steps:,}, {duration(result.training_seconds)}"),
        ("profile, seed", f"{result.profile}, {result.seed}"),
    ]
    return Facts(
        facts, [(name, values[0]) for name, values in _measured(group).items() if not name.startswith("validation")]
    )


def _table(group: Group) -> Table:
    """A row per system: its number, every seed, and the difference to its baseline."""
    compared, systems = group.compared, group.systems
    measure = said(compared.measure, group.metric)
    head = ["system", measure]
    rows = [
        [Cell(_name(group, one)), Cell(_mean(group, one), "best" if _is_best(group, one) else "")] for one in systems
    ]
    tested = [list(errors_by_seed(one.runs, compared.measure).values()) for one in systems]
    every = [value for values in tested for value in values]
    if len(every) > 1:
        span = (min(every), max(every))
        head.append(f"each seed, {span[0]:.4g}\u00a0to\u00a0{span[1]:.4g}")
        for row, system, values in zip(rows, systems, tested, strict=True):
            told = f"{measure} of seeds: {', '.join(f'{value:.2f}' for value in values)}"
            row.append(Cell(strip(told, values, span, system.number) if values else "-"))
    if any(compared.differences.values()):
        bases = {base for name, base in compared.bases.items() if name != base}
        head += [f"minus {bases.pop()}" if len(bases) == 1 else "minus its baseline", "95% interval", "lower on seeds"]
        for row, system in zip(rows, systems, strict=True):
            found = compared.differences.get(system.name)
            is_base = system.name in (compared.base, compared.bases[system.name])
            texts = ["baseline", "", ""] if is_base else ["-"] * 3
            if found is not None:
                texts = [f"{found.mean:+.2f}", found.interval, f"{found.lower} of {len(found.differences)}"]
            row += [Cell(text) for text in texts]
    head += ["time of a run", "seeds"]
    for row, system in zip(rows, systems, strict=True):
        seconds = statistics.mean(run.result.training_seconds for run in system.runs)
        row += [Cell(duration(seconds)), Cell(_seeds(system))]
    note = "Mean ± standard deviation over seeds." if any(len(system.runs) > 1 for system in systems) else ""
    if any(pair is not None and pair.low is None for pair in compared.differences.values()):
        note += f" {FROM_FIVE.capitalize()}."
    return Table(_shared(group), head, rows, systems if len(systems) > 1 else (), "numbers", note.strip())


def _name(group: Group, system: System) -> str:
    return f"{system.name} (best)" if _is_best(group, system) else system.name


def _is_best(group: Group, system: System) -> bool:
    return system.name == group.compared.verdict.best


def _mean(group: Group, system: System) -> str:
    return spread([value_of(run.result, group.compared.measure) for run in system.runs])


def _shared(group: Group) -> str:
    """What all systems have in common, in a line."""
    facts = _facts(group.systems)
    return "; ".join(f"{name}: {values[0]}" for name, values in facts.items() if len(set(values)) == 1)


def _facts(systems: Sequence[System]) -> dict[str, list[str]]:
    """What systems were measured on, by name: one text each."""
    counts = {name: [f"{system.result[key]:,}" for system in systems] for name, key in COUNTS}
    others = {
        name: [str(system.result[name_in]) for system in systems]
        for name, name_in in (("data", "source"), ("model", "model"), ("profile", "profile"))
    }
    return others | counts


def _more(group: Group, one: bool) -> list[Block]:
    """Further measurements of several systems, folded away."""
    if one:
        return []
    facts = _facts(group.systems)
    differing = {name: values for name, values in facts.items() if len(set(values)) > 1}
    columns = _measured(group) | differing
    if not columns:
        return []
    rows = [[Cell(one.name), *(Cell(values[n]) for values in columns.values())] for n, one in enumerate(group.systems)]
    marks = group.systems if len(group.systems) > 1 else ()
    return [Table("More numbers", ["system", *columns], rows, marks, "numbers", folded=True)]


def _measured(group: Group) -> dict[str, list[str]]:
    """What else was measured, by name: one text per system, seeds folded. Only where some system has it."""
    systems = group.systems

    def folded(value: Value, form: str = "{:.2f}") -> list[str]:
        return [spread([value(run.result) for run in system.runs], form) for system in systems]

    def on_test(value: Value) -> list[str]:
        """Where systems are chosen among on validation rows, of the chosen one alone."""
        hidden = group.compared.measure == "validation_last"
        return [
            "" if hidden and not _is_best(group, one) else text
            for one, text in zip(systems, folded(value), strict=True)
        ]

    most = max(run.result.test_checkpoints for system in systems for run in system.runs)
    told = any(uneven(run.result) for system in systems for run in system.runs)
    measures = dict.fromkeys(name for system in systems for name in system.result.test_measures)
    metric = group.metric
    found = {
        **({f"test {metric}": on_test(lambda r: r.test_last)} if group.compared.measure != "test_last" else {}),
        **({f"median of the last {most} tests": on_test(lambda r: r.test_median)} if most > 1 else {}),
        **{f"test {name.replace('_', ' ')}": on_test(partial(_measure, name)) for name in measures},
        f"validation {metric}": folded(lambda r: r.validation_last),
        **({"balanced accuracy %": on_test(lambda r: r.balanced_accuracy)} if told else {}),
        "calibration error %": on_test(_ece),
    }
    return {name: values for name, values in found.items() if any(text not in ("-", "") for text in values)}


def _measure(name: str, result: Result) -> float | None:
    return result.test_measures.get(name, {}).get("last")


def _seeds(system: System) -> str:
    seeds = [str(run.result.seed) for run in system.runs]
    return ", ".join(seeds) if len(seeds) <= 3 else f"{len(seeds)} seeds"


def _ece(result: Result) -> float | None:
    return None if result.calibration is None else 100 * result.calibration["ece"]


def warnings(group: Group) -> Section | None:
    """What runs warned of while they trained."""
    found = [line for system in group.systems for line in warned(system.full_name, [run.result for run in system.runs])]
    return Section("warnings", "Warnings of the runs", [Words(found, "list")]) if found else None
