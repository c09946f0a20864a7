"""Progress and result tables in the terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

SHOWN = {
    "loss": ("loss", "{:.3f}"),
    "mask_rate": ("mask", "{:.0%}"),
    "imputed_accuracy": ("imputed right", "{:.0%}"),
    "holdout_before": ("hold-out", "{:.3f}"),
    "holdout_after": ("->", "{:.3f}"),
    "cosine": ("cos", "{:+.2f}"),
}


class TrainingProgress:
    """A live bar on a terminal; one line per evaluation elsewhere.

    Use as a context manager and pass :meth:`report` to a session.
    """

    def __init__(self, console: Console, steps: int, metric: str) -> None:
        self.console, self.metric = console, metric
        self.latest: dict[str, float] = {}
        self._bar = Progress(
            TextColumn("training"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.description}"), console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=steps)

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, message: str) -> None:
        self.console.print(message, markup=False, highlight=False)

    def report(self, step: int, values: dict[str, float]) -> None:
        """Receives metrics after ``step`` steps; evaluations are printed, the rest feeds the bar."""
        self.latest.update(values)
        self._bar.update(self._task, completed=step, description=self.describe())
        found = [
            f"{name.removesuffix('_error')} {value:.2f}" for name, value in values.items() if name.endswith("_error")
        ]
        if found:
            self.say(f"step {step}: {self.metric}: {', '.join(found)}; {self.describe()}")

    def describe(self) -> str:
        shown = [f"{label} {form.format(self.latest[k])}" for k, (label, form) in SHOWN.items() if k in self.latest]
        return ", ".join(shown).replace(", ->", " ->")


def system_name(result: dict[str, Any]) -> str:
    """E.g. ``uda + l2i (approx)``."""
    if result["problem"] == "none":
        return result["method"]
    estimator = f" ({result['estimator']})" if result["estimator"] else ""
    return f"{result['method']} + {result['problem']}{estimator}"


def title_of(results: list[dict[str, Any]]) -> str | None:
    """The recipe's title above a single run, with its profile unless it is the paper's; none above several runs."""
    first = results[0]
    if len(results) > 1 or not first["title"]:
        return None
    return first["title"] if first["profile"] == "paper" else f"{first['title']}: {first['profile']} profile"


def by_metric(results: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Results that can stand in one table: of one task and one metric, in their order."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault((result["task"], result["metric"]), []).append(result)
    return list(groups.values())


def result_table(results: list[dict[str, Any]]) -> Table:
    """One column per run, all of one metric; the profile stands with every number."""

    def number(value: float | None, form: str = "{:.2f}") -> str:
        return "-" if value is None else form.format(value)

    table = Table(title=title_of(results), title_justify="left", show_header=False)
    table.add_column("")
    for r in results:
        table.add_column(system_name(r), justify="right", overflow="fold")
    rows: list[tuple[str, list[str]]] = [
        ("system", [system_name(r) for r in results]),
        ("data", [r["source"] for r in results]),
        (
            "labels / unlabelled / test",
            [f"{r['labels']:,} / {r['unlabelled']:,} / {r['test_examples']:,}" for r in results],
        ),
        ("model", [r["model"] for r in results]),
        ("profile, seed, steps", [f"{r['profile']}, {r['seed']}, {r['steps']:,}" for r in results]),
        (f"test {results[0]['metric']}", [f"[bold]{number(r['test_last'])}[/bold]" for r in results]),
    ]
    if any(r["test_checkpoints"] > 1 for r in results):
        count = max(r["test_checkpoints"] for r in results)
        rows.append((f"median of the last {count}", [number(r["test_median"]) for r in results]))
    for measure in dict.fromkeys(name for r in results for name in r.get("test_measures", {})):
        found = [r.get("test_measures", {}).get(measure, {}).get("last") for r in results]
        rows.append((f"test {measure.replace('_', ' ')}", [number(value) for value in found]))
    if any(r["validation_last"] is not None for r in results):
        rows.append((f"validation {results[0]['metric']}", [number(r["validation_last"]) for r in results]))
    rows.append(("training seconds", [number(r["training_seconds"], "{:.0f}") for r in results]))
    for name, values in rows:
        table.add_row(name, *values)
    return table
