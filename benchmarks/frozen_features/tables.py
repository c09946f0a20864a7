"""Tables of ``benchmarks/frozen_features``, from its JSON files."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from metaimpute.reporting.statistics import signed_rank

from .arms import BASE, BILEVEL, CONTROLS, SEARCHED, SIMPLE, STARTS

HEAD = """# Heads on frozen features

Written by `python -m benchmarks.frozen_features`, which says what is measured. Errors in percent of the unlabelled rows. A
difference is that of means over draws, then over tasks, with a 95% t interval over tasks (over draws where it is one task's);
below zero the arm is better. "Tasks" and "draws": on how many the arm is better, ties not counted. p: Wilcoxon's signed-rank
test over tasks, by Holm's method for all arms of a table. The best simple rival of the design tasks is chosen on them alone;
the best on these very draws is chosen anew in every task, which favours it.
"""
Found = dict[str, Any]


def t_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95% interval by Student's t."""
    mean, count = statistics.mean(values), len(values)
    half = float(stats.t.ppf(0.975, count - 1)) * statistics.stdev(values) / count**0.5 if count > 1 else float("inf")
    return mean, mean - half, mean + half


def holm(chances: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p values (1979); None stays None and counts as a test."""
    order = sorted(range(len(chances)), key=lambda i: 1.0 if chances[i] is None else float(chances[i] or 0.0))
    adjusted: list[float | None] = [None] * len(chances)
    highest = 0.0
    for place, number in enumerate(order):
        chance = chances[number]
        if chance is not None:
            highest = max(highest, min(1.0, (len(chances) - place) * chance))
            adjusted[number] = highest
    return adjusted


def errors(task: Found, arm: str) -> np.ndarray:
    return np.array(task["arms"][arm]["error"])


def best_simple(tasks: list[Found]) -> str:
    """The simple arm with the lowest mean error over tasks."""
    return min(SIMPLE, key=lambda arm: np.mean([errors(task, arm).mean() for task in tasks]))


def difference(tasks: list[Found], arm: str, rivals: list[str]) -> tuple[list[float], int, int]:
    """Of every task the mean difference to its rival; draws on which the arm is better, and all draws."""
    pairs = [errors(task, arm) - errors(task, rival) for task, rival in zip(tasks, rivals, strict=True)]
    better = sum(int((pair < 0).sum()) for pair in pairs)
    return [float(pair.mean()) for pair in pairs], better, sum(map(len, pairs))


def interval(values: Sequence[float]) -> str:
    mean, low, high = t_interval(values)
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def compared(tasks: list[Found], rivals: dict[str, list[str]]) -> str:
    """Markdown: every arm against its rivals, one in each task."""
    found = {arm: difference(tasks, arm, names) for arm, names in rivals.items()}
    adjusted = holm([signed_rank(values) for values, _, _ in found.values()])
    lines = ["| arm | rival | difference | tasks | draws | p |", "| --- | --- | --- | ---: | ---: | ---: |"]
    for (arm, (values, better, draws)), chance in zip(found.items(), adjusted, strict=True):
        names = set(rivals[arm])
        cells = [
            arm, names.pop() if len(names) == 1 else "the best in each task", interval(values),
            f"{sum(value < 0 for value in values)} of {len(tasks)}", f"{better} of {draws}",
            "-" if chance is None else f"{chance:.3f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def summary(tasks: list[Found], design: list[Found]) -> str:
    """Every bilevel arm against its rivals."""
    best = best_simple(design)
    each = [min(SIMPLE, key=lambda arm: errors(task, arm).mean()) for task in tasks]

    def always(rivals: dict[str, str]) -> str:
        return compared(tasks, {arm: [rival] * len(tasks) for arm, rival in rivals.items()})

    parts = [
        f"Against the simple rival, {BASE}:", always(dict.fromkeys(BILEVEL, BASE)),
        "Against what each starts from, which the same loop gives with its hypergradient replaced by 0:", always(STARTS),
        "Against a search for the same numbers with the same budget:", always(SEARCHED),
        "Against the best simple rival of the design tasks:", always(dict.fromkeys(BILEVEL, best)),
        "Against the best simple rival on these very draws:", compared(tasks, dict.fromkeys(BILEVEL, each)),
    ]  # fmt: skip
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def all_arms(tasks: list[Found]) -> str:
    """Every arm: error, difference to the base, both losses, seconds."""
    lines = [
        f"| arm | error | minus {BASE} | tasks | draws | cross-fitted loss | real loss | seconds a draw |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for kind, arms in (("", SIMPLE), ("bilevel: ", BILEVEL), ("control: ", CONTROLS)):
        for arm in arms:
            values, better, draws = difference(tasks, arm, [BASE] * len(tasks))
            found = [task["arms"][arm] for task in tasks]
            held = [np.mean(one["held_out"]) for one in found if "held_out" in one]
            cells = [
                kind + arm, f"{np.mean([np.mean(one['error']) for one in found]):.2f}",
                "-" if arm == BASE else interval(values), f"{sum(v < 0 for v in values)} of {len(tasks)}",
                f"{better} of {draws}", f"{np.mean(held):.3f}" if held else "-",
                f"{np.mean([np.mean(one['loss']) for one in found]):.3f}",
                f"{statistics.median(one['seconds'] for one in found):.2f}",
            ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
    shared = statistics.median(task["prepared_seconds"] for task in tasks)
    return "\n".join(lines) + (
        f"\n\nSeconds are medians over tasks. The grid of penalties, from which all heads but those of `choose` begin, takes "
        f"{shared:.2f} s a draw more.\n"
    )


def by_task(tasks: list[Found]) -> str:
    """Mean errors, a column a task; the lowest in bold."""
    lines = ["| arm | " + " | ".join(task["task"] for task in tasks) + " |", "| --- |" + " ---: |" * len(tasks)]
    arms = [*SIMPLE, *BILEVEL, *CONTROLS]
    means = np.array([[errors(task, arm).mean() for task in tasks] for arm in arms])
    for arm, row in zip(arms, means, strict=True):
        cells = [f"**{v:.1f}**" if v == low else f"{v:.1f}" for v, low in zip(row, means.min(0), strict=True)]
        lines.append("| " + " | ".join([arm, *cells]) + " |")
    return "\n".join(lines) + "\n"


def differences_by_task(tasks: list[Found]) -> str:
    """Each bilevel arm minus the base, paired over draws."""
    lines = ["| task | " + " | ".join(BILEVEL) + " |", "| --- |" + " --- |" * len(BILEVEL)]
    for task in tasks:
        cells = []
        for arm in BILEVEL:
            pair = errors(task, arm) - errors(task, BASE)
            cells.append(f"{interval(pair.tolist())}, {int((pair < 0).sum())} of {len(pair)}")
        lines.append("| " + " | ".join([task["task"], *cells]) + " |")
    return "\n".join(lines) + "\n"


def tasks_table(tasks: list[Found]) -> str:
    lines = [
        "| task | features | classes | labels | unlabelled rows | draws |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for task in tasks:
        cells = [task["task"], ", ".join(task["features"]), *(str(task[key]) for key in ("classes", "labels", "unlabelled")),
                 str(len(task["seeds"]))]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def complete(task: Found) -> bool:
    return all(arm in task["arms"] for arm in (*SIMPLE, *BILEVEL, *CONTROLS))


def report(found: list[Found]) -> str:
    """The whole page, of the tasks that have every arm."""
    reported, design = ([t for t in found if t["split"] == split and complete(t)] for split in ("reported", "design"))
    parts = [HEAD]
    if reported and design:
        parts.append(f"## Reported tasks: bilevel objectives against their rivals\n\n{summary(reported, design)}")
    for title, tasks in (("Reported tasks", reported), ("Design tasks: settings were chosen on them", design)):
        if tasks:
            parts += [f"## {title}\n\n{tasks_table(tasks)}", all_arms(tasks), by_task(tasks)]
            parts.append(f"Minus {BASE}:\n\n{differences_by_task(tasks)}")
    return "\n".join(parts)
