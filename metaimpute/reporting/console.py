"""Progress and result tables in the terminal."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence

from rich.console import Console
from rich.table import Table

from ..rundir.measure import FEW, PERCENT, interval_of
from ..rundir.result import Estimated, Result
from ..showing import Shown
from ..terminal import cell
from ..training.session import TRAINING

NAMES, FEWEST = 31, 23  # cells of the names of a result table, and of a system beside them at least
LINE = 79  # cells of a line of progress
TELLING = 2.0  # points between accuracy and balanced accuracy
SHOWN = {
    "loss": ("loss", "{:.3f}"),
    "mask_rate": ("mask", "{:.0%}"),
    "imputed_accuracy": ("imputed right", "{:.0%}"),
    "holdout_before": ("hold-out", "{:.3f}"),
    "holdout_after": ("->", "{:.3f}"),
    "cosine": ("cos", "{:+.2f}"),
}


class TrainingProgress(Shown):
    """Phases of a run, and what is measured in its training: a line of its own below the bar, and one for each evaluation.

    Pass :meth:`report` to a session.
    """

    def __init__(self, console: Console, metric: str, hidden: bool = False) -> None:
        super().__init__(console, hidden)
        self.metric = metric
        self.latest: dict[str, float] = {}

    def say(self, message: object, style: str = "", always: bool = False) -> None:
        """As other progress does; a warning is seen in any case."""
        warning = str(message).startswith("warning: ")
        super().say(message, style or ("yellow" if warning else ""), always or warning)

    def report(self, step: int, values: dict[str, float]) -> None:
        """Receives metrics after ``step`` steps; evaluations are printed, the rest stands below the bar."""
        self.latest.update(values)
        self.note = self.describe()
        found = [
            f"{name.removesuffix('_error')} {value:.2f}" for name, value in values.items() if name.endswith("_error")
        ]
        if found:
            self.say(within(f"step {step}: {self.metric}: {', '.join(found)}", self.described(), LINE))

    def moved(self) -> None:
        if self.note and not any(phase.name == TRAINING for phase in self.phases):
            self.note = ""
        super().moved()

    def describe(self) -> str:
        return ", ".join(self.described())

    def described(self) -> list[str]:
        """What was measured last, a few words each."""
        shown = [f"{label} {form.format(self.latest[k])}" for k, (label, form) in SHOWN.items() if k in self.latest]
        return ", ".join(shown).replace(", ->", " ->").split(", ") if shown else []


def within(line: str, parts: Sequence[str], width: int) -> str:
    """A line, and behind it as many of the parts, in their order, as leave it no longer than ``width``."""
    for number, part in enumerate(parts):
        longer = f"{line}{', ' if number else '; '}{part}"
        if len(longer) > width:
            break
        line = longer
    return line


def system_name(result: Result) -> str:
    """E.g. ``uda + l2i (approx)``, or how many systems are combined."""
    if result.candidates is not None:
        used = [one for one in result.candidates if one["weight"] > 0]
        return used[0]["name"] if len(used) == 1 else f"{len(used)} systems combined"
    if result.problem == "none":
        return result.method
    estimator = f" ({result.estimator})" if result.estimator else ""
    return f"{result.method} + {result.problem}{estimator}"


def error_shown(one: Estimated, unit: str, level: bool = True) -> str:
    """An error with its interval, e.g. ``12.0% (8 to 17)``."""
    if one["error"] is None:
        return "unknown: nothing could be held out"
    low, high = (f"{value:.3g}" for value in (one["low"] or 0.0, one["high"] or 0.0))
    return f"{one['error']:.3g}{unit} ({'90%: ' if level else ''}{low} to {high})"


def unit_of(result: Result) -> str:
    """What stands behind its errors."""
    return "%" if result.metric.endswith("%") else ""


def by_weight(systems: Iterable[Estimated]) -> list[Estimated]:
    """Systems, the heaviest first."""
    return sorted(systems, key=lambda one: (-one["weight"], one["name"]))


def candidates_table(result: Result) -> Table:
    """The systems of a run with ``choose``."""
    return systems_table(result.candidates or (), unit_of(result))


def systems_table(systems: Iterable[Estimated], unit: str, most: int = 20) -> Table:
    """Systems, the heaviest first: error on rows held out, its 90% interval, weight."""
    candidates = by_weight(systems)
    table = Table(title="systems, each on labels held out", title_justify="left")
    table.add_column("system", overflow="fold")
    for name in ("error (90% interval)", "weight", "s"):
        table.add_column(name, justify="right")
    for one in candidates[:most]:
        table.add_row(
            cell(one["name"]), error_shown(one, unit, level=False), f"{one['weight']:.2f}", f"{one['seconds']:.1f}"
        )
    return table


def expectation(result: Result) -> list[str]:
    """A sentence: how many imputed labels are to be expected wrong, or how far values are off."""
    return [] if result.expected is None else [expected_said(result.expected, unit_of(result))]


def expected_said(expected: Estimated, unit: str) -> str:
    """The same of an error in percent, or in the unit of values, which has no sign."""
    if expected["error"] is None:
        return "no class has two labels: nothing could be held out, so nothing is known of the labels' error"
    if unit:
        said = f"expected error of the imputed labels: {error_shown(expected, unit)}"
    else:
        said = f"expected error of the imputed values, root mean squared: {error_shown(expected, '')}"
    return f"{said}, from labels held out"


def in_short(count: int, things: str, given: int, expected: str) -> str:
    """What was labelled, and how well, in a sentence."""
    return f"{count:,} {things}, {given:,} of them labelled; {expected or 'nothing is known of their error'}"


def title_of(result: Result) -> str | None:
    """The recipe's title, with what ``--set`` changed of its system and its profile unless it is the paper's."""
    if not result.title:
        return None
    changed = f", with {', '.join(result.overrides)}" if result.overrides else ""
    profile = "" if result.profile == "paper" else f": {result.profile} profile"
    return f"{result.title}{changed}{profile}"


def uneven(result: Result) -> bool:
    """Whether classes are so uneven in the test set that its error flatters: the mean over classes tells another story."""
    balanced, error = result.balanced_accuracy, result.test_last
    return balanced is not None and error is not None and abs(100 - error - balanced) > TELLING


def spread(values: Sequence[float | None], form: str = "{:.2f}") -> str:
    """``mean ± standard deviation`` of one value per seed; the value itself of a single one; a dash where one is missing."""
    found = [value for value in values if value is not None]
    if not found or len(found) < len(values):
        return "-"
    mean = form.format(statistics.mean(found))
    return mean if len(found) == 1 else f"{mean} ± {form.format(statistics.stdev(found))}"


def tested_of_few(result: Result) -> str:
    """A test error from few rows with their number and its 95% interval, e.g. ``0.00 (0 of 6; 0 to 39%)``; else empty."""
    found, rows = interval_of(result), result.test_examples
    if found is None or result.test_last is None or rows >= FEW:
        return ""
    of = f"{round(result.test_last * rows / 100)} of {rows}" if result.metric == PERCENT else f"{rows} rows"
    return f"{result.test_last:.2f} ({of}; {found[0]:.3g} to {found[1]:.3g}{unit_of(result)})"


def _seeds(results: Sequence[Result]) -> str:
    return str(results[0].seed) if len(results) == 1 else f"{len(results)} seeds"


def _last_of(measure: str) -> Callable[[Result], float | None]:
    return lambda result: result.test_measures.get(measure, {}).get("last")


def result_tables(systems: Sequence[list[Result]], console: Console, names: Sequence[str] | None = None) -> list[Table]:
    """:func:`result_table`, in several tables where the terminal would leave a system too few cells in one."""
    found, unbound = [], console.options.update(max_width=10_000)
    named: Sequence[str | None] = names or [None] * len(systems)
    left = list(zip(systems, named, strict=True))
    fitting = max(1, (console.width - NAMES) // FEWEST)
    while left:
        whole = console.measure(_tabled(left), options=unbound).maximum <= console.width
        count = len(left) if whole else fitting
        found.append(_tabled(left[:count]))
        left = left[count:]
    return found


def _tabled(named: Sequence[tuple[list[Result], str | None]]) -> Table:
    names = [name for _, name in named if name is not None]
    return result_table([seeds for seeds, _ in named], names or None)


def result_table(systems: Sequence[list[Result]], names: Sequence[str] | None = None) -> Table:
    """One column per system, all of one metric; the profile stands with every number.

    Args:
        systems: the results of each system, one per seed; of several the table shows mean and standard deviation.
        names: of the systems; None: what they are made of.
    """
    firsts = [seeds[0] for seeds in systems]
    title = title_of(firsts[0]) if len(systems) == 1 and names is None else None
    names = names or [system_name(first) for first in firsts]
    table = Table(title=cell(title) if title else None, title_justify="left", show_header=False)
    table.add_column("")
    for name in names:
        table.add_column(cell(name), justify="right", overflow="fold")

    def numbers(value: Callable[[Result], float | None], form: str = "{:.2f}") -> list[str]:
        return [spread([value(result) for result in seeds], form) for seeds in systems]

    tested = f"test {firsts[0].metric}"
    rows: list[tuple[str, list[str]]] = [
        ("system", list(names)),
        ("data", [r.source for r in firsts]),
        (
            "labels / unlabelled / test",
            [f"{r.labels:,} / {r.unlabelled:,} / {r.test_examples:,}" for r in firsts],
        ),
        ("model", [r.model for r in firsts]),
        ("profile, seed, steps", [f"{s[0].profile}, {_seeds(s)}, {s[0].steps:,}" for s in systems]),
        (
            tested,
            [
                (tested_of_few(s[0]) if len(s) == 1 else "") or value
                for s, value in zip(systems, numbers(lambda r: r.test_last), strict=True)
            ],
        ),
    ]
    if any(r.test_checkpoints > 1 for r in firsts):
        count = max(r.test_checkpoints for r in firsts)
        rows.append((f"median of the last {count}", numbers(lambda r: r.test_median)))
    for measure in dict.fromkeys(name for r in firsts for name in r.test_measures):
        last = numbers(_last_of(measure))
        rows.append((f"test {measure.replace('_', ' ')}", last))
    if any(uneven(r) for r in firsts):
        rows.append(("balanced accuracy %", numbers(lambda r: r.balanced_accuracy)))
    if any(r.expected for r in firsts):
        unit = "%" if firsts[0].metric.endswith("%") else ""
        shown = [
            error_shown(r.expected, unit) if r.expected and len(s) == 1 else ""
            for r, s in zip(firsts, systems, strict=True)
        ]
        rows.append(("expected error", shown))
    if any(r.calibration for r in firsts):
        ece = numbers(lambda r: 100 * r.calibration["ece"] if r.calibration else None)
        rows.append(("calibration error % (ECE)", ece))
    if any(r.validation_last is not None for r in firsts):
        rows.append((f"validation {firsts[0].metric}", numbers(lambda r: r.validation_last)))
    rows.append(("training seconds", numbers(lambda r: r.training_seconds, "{:.0f}")))
    for name, values in rows:
        table.add_row(cell(name), *(cell(value, "bold" if name == tested else "") for value in values))
    return table
