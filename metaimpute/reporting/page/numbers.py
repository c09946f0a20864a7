"""Results, paired differences and warnings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from ...rundir.result import Result
from ..console import spread, uneven
from ..runs import comparable, errors_by_seed
from ..statistics import paired
from ..warned import warned
from .blocks import Block, Cell, Section, System, Table, Words
from .svg import strip

Value = Callable[[Result], float | None]
COUNTS = (("labels", "labels"), ("unlabelled", "unlabelled"), ("test examples", "test_examples"), ("steps", "steps"))


def results(systems: Sequence[System]) -> Section:
    """The table of results, a row per system, and the paired differences to the first."""
    facts = _facts(systems)
    differing = {name: values for name, values in facts.items() if len(set(values)) > 1}
    shared = [f"{name}: {values[0]}" for name, values in facts.items() if name not in differing]
    metric = f"test {systems[0].result.metric}"
    profiles = {"profile": [system.result.profile for system in systems]}
    columns = profiles | _measured(systems, metric) | {"seeds": [_seeds(system) for system in systems]} | differing
    head, rows = ["system", *columns], []
    for place, system in enumerate(systems):
        cells = [Cell(values[place], "best" if name == metric else "") for name, values in columns.items()]
        rows.append([Cell(system.name), *cells])
    tested = [list(errors_by_seed(system.runs).values()) for system in systems]
    every = [value for values in tested for value in values]
    if len(every) > 1:
        span, at = (min(every), max(every)), head.index(metric) + 1
        head.insert(at, f"each seed, {span[0]:.1f}\u00a0to\u00a0{span[1]:.1f}")
        for row, system, values in zip(rows, systems, tested, strict=True):
            said = f"{metric} of seeds: {', '.join(f'{value:.2f}' for value in values)}"
            row.insert(at, Cell(strip(said, values, span, system.number) if values else "-"))
    note = "Mean ± standard deviation over seeds." if any(len(system.runs) > 1 for system in systems) else ""
    marks = systems if len(systems) > 1 else ()
    blocks: list[Block] = [Table("; ".join(shared), head, rows, marks, "numbers", note)]
    differences = _differences(systems)
    return Section("results", "Results", [*blocks, differences] if differences else blocks)


def _facts(systems: Sequence[System]) -> dict[str, list[str]]:
    """What systems were measured on, by name: one text each."""
    counts = {name: [f"{system.result[key]:,}" for system in systems] for name, key in COUNTS}
    data, models = ([str(system.result[key]) for system in systems] for key in ("source", "model"))
    return {"data": data, "model": models, **counts}


def _measured(systems: Sequence[System], metric: str) -> dict[str, list[str]]:
    """What was measured, by name: one text per system, seeds folded. All but the test metric only where some system has it."""

    def folded(value: Value, form: str = "{:.2f}") -> list[str]:
        return [spread([value(run.result) for run in system.runs], form) for system in systems]

    most = max(system.result.test_checkpoints for system in systems)
    told = any(uneven(run.result) for system in systems for run in system.runs)
    measures = dict.fromkeys(name for system in systems for name in system.result.test_measures)
    found = {
        **({f"median of last {most}": folded(lambda r: r.test_median)} if most > 1 else {}),
        **{f"test {name.replace('_', ' ')}": folded(partial(_measure, name)) for name in measures},
        f"validation {systems[0].result.metric}": folded(lambda r: r.validation_last),
        **({"balanced accuracy %": folded(lambda r: r.balanced_accuracy)} if told else {}),
        "calibration error %": folded(_ece),
        "training seconds": folded(lambda r: r.training_seconds, "{:.0f}"),
    }
    known = {name: values for name, values in found.items() if any(text != "-" for text in values)}
    return {metric: folded(lambda r: r.test_last), **known}


def _measure(name: str, result: Result) -> float | None:
    return result.test_measures.get(name, {}).get("last")


def _differences(systems: Sequence[System]) -> Table | None:
    rows, marks = [], []
    for system in systems[1:]:
        if not comparable(systems[0].result, system.result):
            continue
        found = paired(errors_by_seed(systems[0].runs), errors_by_seed(system.runs))
        if found is not None:
            p, pairs = "-" if found.p is None else f"{found.p:.3f}", len(found.differences)
            texts = (system.name, f"{found.mean:+.2f}", found.interval, f"{found.lower} of {pairs}", p)
            rows.append([Cell(text) for text in texts])
            marks.append(system)
    if not rows:
        return None
    head = ("system", "mean difference", "95% interval", "lower on seeds", "signed-rank p")
    note = (
        "Test metric minus that of the first system on the same seed; from five seeds on a percentile bootstrap of the mean and "
        "Wilcoxon's test. Intervals of few seeds are too narrow."
    )
    return Table(f"Paired differences to {systems[0].full_name}", head, rows, marks, "numbers", note)


def _seeds(system: System) -> str:
    seeds = [str(run.result.seed) for run in system.runs]
    return ", ".join(seeds) if len(seeds) <= 3 else f"{len(seeds)} seeds"


def _ece(result: Result) -> float | None:
    return None if result.calibration is None else 100 * result.calibration["ece"]


def warnings(systems: Sequence[System]) -> Section | None:
    """What runs warned of while they trained."""
    found = [line for system in systems for line in warned(system.full_name, [run.result for run in system.runs])]
    if not found:
        return None
    return Section("warnings", "Warnings", [Words(found, "list")], "Raised by the runs themselves.")
