"""Tables and picture of ``benchmarks/own_data``, from its JSON files."""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from metaimpute.reporting.statistics import Paired, paired

from .asked import SETS
from .ours import OURS

IMBALANCED = 0.5  # of its share among equals: where the rarest class has less, the mean over classes is shown too
FORMS = (("tables", "table", False), ("values", "table", True), ("texts", "texts", False), ("images", "images", False))
HEAD = """# Own data

Written by `python -m benchmarks.own_data`, which says what is measured. Errors in percent; of values the RMSE in percent
of the target's standard deviation; "balanced": the mean over classes. Differences are paired over draws of labels, with a 95%
bootstrap interval of the mean and the number of draws on which metaimpute is better; the best rival is the one that is best
on these very draws, so that the comparison favours it. "constant" always says the most frequent label, or the mean. The mean
rank is over tasks and draws, by the error of the labels (of values, RMSE), which is what the benchmark measures; where a table
has columns of the mean over classes, "with balanced" is the mean rank over all its columns.
"""
Found = dict[str, Any]


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def by_draw(task: Found, system: str, measure: str = "error") -> dict[int, float]:
    """Measurements of the draws that did not fail."""
    return {int(seed): one[measure] for seed, one in task["systems"].get(system, {}).items() if measure in one}


def mean(task: Found, system: str, measure: str = "error") -> float | None:
    values = by_draw(task, system, measure)
    return statistics.mean(values.values()) if values else None


def complete(task: Found, measure: str = "error") -> list[str]:
    """Systems that have a result of every draw."""
    return [name for name in task["systems"] if len(by_draw(task, name, measure)) == len(task["seeds"])]


def best_rival(task: Found, measure: str = "error") -> str | None:
    """The rival with the lowest mean error on the very draws that are compared, which favours the rival."""
    rivals = [name for name in complete(task, measure) if not name.startswith("metaimpute")]
    return min(rivals, key=lambda name: statistics.mean(by_draw(task, name, measure).values())) if rivals else None


def columns_of(tasks: list[Found]) -> list[tuple[Found, str]]:
    """Tasks and measures, a column each; an imbalanced task has two."""
    found = []
    for task in tasks:
        found.append((task, "error"))
        if task["classes"] and task["rarest"] < IMBALANCED * 100 / task["classes"]:
            found.append((task, "balanced_error"))
    return found


def title(task: Found, measure: str) -> str:
    return task["task"] + (", balanced" if measure == "balanced_error" else "")


def mean_ranks(columns: list[tuple[Found, str]]) -> dict[str, float]:
    """Mean rank over columns and draws, 1 is best, ties shared; of the systems that every column has."""
    from scipy.stats import rankdata

    shared = [
        name
        for name in complete(*columns[0])
        if (name == OURS or not name.startswith("metaimpute"))
        and all(name in complete(task, measure) for task, measure in columns)
    ]
    if not shared:
        return {}
    ranks = [
        rankdata([by_draw(task, name, measure)[seed] for name in shared])
        for task, measure in columns
        for seed in task["seeds"]
    ]
    return dict(zip(shared, np.mean(ranks, axis=0).tolist(), strict=True))


def both_ranks(columns: list[tuple[Found, str]]) -> dict[str, dict[str, float]]:
    """Mean ranks by what they are called: over the errors of labels alone, and over all columns where there are others."""
    errors = [column for column in columns if column[1] == "error"]
    found = {"mean rank": mean_ranks(errors)}
    return found if len(errors) == len(columns) else found | {"with balanced": mean_ranks(columns)}


def results_table(tasks: list[Found]) -> str:
    """Markdown: a line for each system, a column for each task; the lowest error of a column in bold."""
    columns = columns_of(tasks)
    every = both_ranks(columns)
    ranks = every["mean rank"]
    names = sorted({name for task in tasks for name in task["systems"]}, key=lambda name: (ranks.get(name, 99), name))
    lowest = [
        min((value for name in names if (value := mean(task, name, measure)) is not None), default=None)
        for task, measure in columns
    ]
    lines = [
        "| " + " | ".join(["system", *every, *(title(*column) for column in columns)]) + " |",
        "| --- |" + " ---: |" * (len(every) + len(columns)),
    ]
    for name in names:
        cells = [f"**{name}**" if name == OURS else name]
        cells += [f"{ranked[name]:.1f}" if name in ranked else "-" for ranked in every.values()]
        for (task, measure), low in zip(columns, lowest, strict=True):
            value, ran = mean(task, name, measure), len(by_draw(task, name, measure))
            failed = len(task["systems"].get(name, {})) - ran
            lacking = len(task["seeds"]) - ran - failed if value is not None else 0
            shown = "-" if value is None else f"**{value:.1f}**" if value == low else f"{value:.1f}"
            parts = [f"{failed} failed"] * bool(failed) + [f"{ran} of {ran + lacking} draws"] * bool(lacking)
            cells.append(shown + (f" ({', '.join(parts)})" if parts else ""))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def shown(pairs: Paired | None) -> str:
    if pairs is None:
        return "-"
    interval = "" if pairs.low is None else f" [{pairs.low:+.1f}, {pairs.high:+.1f}]"
    return f"{pairs.mean:+.1f}{interval}, {pairs.lower} of {len(pairs.differences)}"


def simple_rival(task: Found) -> str:
    """Logistic regression, or ridge, on the features that a user would take first."""
    if task["values"]:
        return "ridge"
    return "logistic regression" + {"table": "", "texts": ", MiniLM", "images": ", EfficientNet-Lite0"}[task["form"]]


def differences_table(tasks: list[Found]) -> str:
    """Markdown: error of metaimpute's defaults minus that of three rivals on the same draws."""
    lines = [
        "| task | defaults | minus the simple rival | minus mean of four | best rival | minus the best rival |",
        "| --- | ---: | --- | --- | --- | --- |",
    ]
    for task, measure in columns_of(tasks):
        value, best = mean(task, OURS, measure), best_rival(task, measure)
        if value is None or best is None:
            continue
        mine, simple = by_draw(task, OURS, measure), simple_rival(task)
        four = "mean of four" + simple.removeprefix("logistic regression").removeprefix("ridge")
        others = [shown(paired(by_draw(task, name, measure), mine)) for name in (simple, four, best)]
        cells = [
            title(task, measure),
            f"{value:.1f}",
            *others[:2],
            f"{best} {mean(task, best, measure):.1f}",
            others[2],
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def tasks_table(tasks: list[Found]) -> str:
    lines = [
        "| task | form | rows | columns | classes | rarest | labels | source |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for task in tasks:
        form = "values" if task["values"] else task["form"]
        rarest = "" if task["rarest"] is None else f"{task['rarest']:.0f}%"
        cells = [task["task"], form, f"{task['rows']:,}", str(task["columns"] or ""), str(task["classes"] or ""), rarest,
                 str(task["labels"]), task["source"]]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def costs(tasks: list[Found]) -> str:
    """Markdown: median CPU seconds and memory of each system by form, over tasks and draws."""
    lines = ["| form | system | CPU seconds | memory, MB |", "| --- | --- | ---: | ---: |"]
    for label, form, values in FORMS:
        chosen = [task for task in tasks if (task["form"], task["values"]) == (form, values)]
        for name in sorted({name for task in chosen for name in task["systems"]}):
            every = [one for task in chosen for one in task["systems"].get(name, {}).values() if "error" in one]
            runs = [one for one in every if "device" not in one]  # seconds of another machine say nothing here
            if runs:
                seconds, memory = (statistics.median(run[key] for run in runs) for key in ("cpu_seconds", "memory_mb"))
                lines.append(f"| {label} | {name} | {seconds:.1f} | {memory:.0f} |")
    return "\n".join(lines) + "\n"


def encoding(tasks: list[Found]) -> str:
    """A sentence: what it takes to encode a thousand rows."""
    taken: dict[str, list[float]] = {}
    for task in tasks:
        for name, seconds in task["encoding_seconds"].items():
            taken.setdefault(name, []).append(1000 * seconds / task["rows"])
    parts = [f"{name} {statistics.median(values):.1f}" for name, values in taken.items()]
    return f"Seconds to encode 1,000 rows, not in the table: {', '.join(parts)}.\n"


def own_errors(tasks: list[Found]) -> str:
    """What runs expect their own error to be, against what it is; how far confidences and intervals can be relied on."""
    lines = []
    for values, unit in ((False, "points"), (True, "percent of it")):
        runs = [
            one
            for task in tasks
            if task["values"] is values
            for one in task["systems"].get(OURS, {}).values()
            if "own_error" in one
        ]
        if not runs:
            continue
        real = [one["rmse" if values else "error"] for one in runs]
        guesses = [one["own_error"] for one in runs]
        scale = [100 / truth if values else 1.0 for truth in real]
        off = statistics.median(abs(g[0] - truth) * by for g, truth, by in zip(guesses, real, scale, strict=True))
        wide = statistics.median((g[2] - g[1]) * by for g, by in zip(guesses, scale, strict=True))
        inside = sum(low <= truth <= high for (_, low, high), truth in zip(guesses, real, strict=True))
        kind = "RMSE of values" if values else "error of classes"
        lines.append(
            f"The {kind} that a run expects was off the real one by {off:.1f} {unit} in the median of {len(runs)} runs; its 90% "
            f"interval, {wide:.0f} {unit} wide in the median, held the real one in {inside} of them "
            f"({100 * inside / len(runs):.0f}%)."
        )
        key, said = ("coverage", "{:.0f}% of single values lie in the interval given with them (90% are to)") if values else (
            "ece", "The expected calibration error of confidences is {:.1f}%")  # fmt: skip
        known = {task["task"]: list(by_draw(task, OURS, key).values()) for task in tasks if task["values"] is values}
        lines += _over_tasks(known, said)
        if not values:
            lines += _sets_and_checks(tasks)
    return "\n".join(lines or ["No run said how large its own error is."]) + "\n"


def _over_tasks(known: dict[str, list[float]], said: str) -> list[str]:
    means = {name: statistics.mean(found) for name, found in known.items() if found}
    if not means:
        return []
    each = ", ".join(f"{name} {value:.1f}" for name, value in means.items())
    return [f"{said.format(statistics.mean(means.values()))} in the mean over tasks ({each})."]


def _sets_and_checks(tasks: list[Found]) -> list[str]:
    """How often sets of classes hold the true one, and how many wrong labels lie where a run says that they do."""
    covered = {task["task"]: list(by_draw(task, OURS, "set_coverage").values()) for task in tasks}
    lines = _over_tasks(covered, f"Sets of classes that are to hold the true one in {100 * SETS:.0f}% do in {{:.0f}}%")
    sizes = [size for task in tasks for size in by_draw(task, OURS, "set_size").values()]
    if sizes:
        lines.append(f"They have {statistics.median(sizes):.1f} classes in the median.")
    checks = [one for task in tasks for one in by_draw(task, OURS, "least_sure").values()]
    if checks:
        share, promised, there = (statistics.mean(one[at] for one in checks) for at in range(3))  # type: ignore[index]
        lines.append(
            f"The rows that a run asks a person to check, {share:.0f}% of all in the mean, are said to hold {promised:.0f}% of "
            f"the wrong labels and hold {there:.0f}%."
        )
    return lines


def report(found: list[Found]) -> str:
    """The whole page."""
    parts = [HEAD]
    for split, said in (
        ("reported", "Reported tasks"),
        ("design", "Design tasks: settings may have been looked at on them"),
    ):
        tasks = [task for task in found if task["split"] == split]
        if not tasks:
            continue
        parts.append(f"## {said}\n\n{tasks_table(tasks)}")
        parts.append(differences_table(tasks))
        parts.append(own_errors(tasks))
        for label, form, values in FORMS:
            chosen = [task for task in tasks if (task["form"], task["values"]) == (form, values)]
            if chosen:
                parts.append(f"### {label.capitalize()}, {split}\n\n{results_table(chosen)}")
    parts.append(f"## What it costs\n\nMedians over tasks and draws, one thread.\n\n{costs(found)}\n{encoding(found)}")
    return "\n".join(parts)


def plot(found: list[Found], target: Path) -> None:
    """Error of every system minus that of the simple rival on the same draws, a line for each task."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = [
        column for split in ("reported", "design") for column in columns_of([t for t in found if t["split"] == split])
    ]
    figure, axis = plt.subplots(figsize=(8.5, 0.28 * len(columns) + 1.2), layout="constrained")
    for height, (task, measure) in enumerate(columns):
        base = by_draw(task, simple_rival(task), measure)
        for name in task["systems"]:
            pairs = paired(base, by_draw(task, name, measure))
            if pairs is None or name == simple_rival(task):
                continue
            four = name.startswith("mean of four")
            color, size = ("C3", 34) if name == OURS else ("C0", 22) if four else ("0.7", 12)
            axis.scatter([pairs.mean], [height], s=size, color=color, zorder=3 if name == OURS else 2, linewidths=0)
            if name == OURS and pairs.low is not None and pairs.high is not None:
                axis.hlines(height, pairs.low, pairs.high, color=color, linewidth=2)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(
        range(len(columns)),
        [title(*column) + ("" if column[0]["split"] == "reported" else " (design)") for column in columns],
        fontsize=7,
    )
    axis.set_ylim(len(columns) - 0.5, -0.5)
    axis.set_xlim(max(axis.get_xlim()[0], -30), min(axis.get_xlim()[1], 40))
    axis.tick_params(axis="x", labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    for label, color in ((f"{OURS}, 95% interval of the mean", "C3"), ("mean of four", "C0"), ("other rivals", "0.7")):
        axis.scatter([], [], color=color, s=22, label=label)
    axis.legend(fontsize=7, loc="lower right")
    axis.set_xlabel(
        "error minus that of logistic regression (values: ridge) on the same draw; left is better", fontsize=8
    )
    figure.savefig(target, dpi=130)
    plt.close(figure)
