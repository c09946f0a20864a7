"""Tables and picture of the families: the objective chosen on validation rows against every arm it has to beat."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metaimpute.reporting.statistics import FEWEST, Paired, holm, paired
from metaimpute.rundir.files import write_text

from .methods import draw, slug

Found = dict[str, Any]
COLORS = {"base": "black", "control": "0.55", "rival": "C1", "objective": "C0"}
LEVEL = 0.05
ZERO = "zero hypergradient"
BEGIN, END = "<!-- families -->", "<!-- /families -->"


@dataclass(frozen=True)
class Comparison:
    """The chosen objective minus one arm on the same seeds. ``p``: Wilcoxon's; ``corrected``: by Holm over the family."""

    task: str
    arm: str
    pairs: Paired
    p: float
    corrected: float = 1.0

    @property
    def won(self) -> bool:
        return self.pairs.mean < 0 and self.corrected < LEVEL


def by_seed(arm: Found) -> dict[int, float]:
    return {int(seed): value for seed, value in arm["test"].items()}


def mean(arm: Found) -> float:
    return statistics.fmean(arm["test"].values())


def kind(arm: Found) -> str:
    return str(arm["asked"]["kind"])


def ranked(found: Found, *kinds: str) -> list[str]:
    """Arms of these kinds, the one of the lowest validation error first."""
    names = [name for name, arm in found["arms"].items() if kind(arm) in kinds and arm["chosen"] and arm["test"]]
    return sorted(names, key=lambda name: float(found["arms"][name]["chosen"]["validation"]))


def compared(tasks: list[Found]) -> list[Comparison]:
    """Of every task the objective chosen on validation rows against every other arm; p corrected over all of them."""
    raw = []
    for found in tasks:
        ours = ranked(found, "objective")
        for name, arm in found["arms"].items():
            pairs = paired(by_seed(arm), by_seed(found["arms"][ours[0]])) if ours and kind(arm) != "objective" else None
            if pairs is not None:
                raw.append(Comparison(found["task"], name, pairs, 1.0 if pairs.p is None else pairs.p))
    corrected = holm([one.p for one in raw])
    return [Comparison(one.task, one.arm, one.pairs, one.p, p) for one, p in zip(raw, corrected, strict=True)]


def over_tasks(tasks: list[Found]) -> list[Comparison]:
    """The objectives chosen on each task's validation rows against every arm that all tasks have, in the mean over the tasks.

    A pair is a seed, with the mean over tasks on each side; p corrected over the arms.
    """
    common = [name for name, arm in tasks[0]["arms"].items() if all(name in task["arms"] for task in tasks)]
    names = [name for name in common if kind(tasks[0]["arms"][name]) != "objective"]
    ours = mean_over([task["arms"][ranked(task, "objective")[0]] for task in tasks])
    raw = []
    for name in names:
        pairs = paired(mean_over([task["arms"][name] for task in tasks]), ours)
        if pairs is not None:
            raw.append(Comparison("all", name, pairs, 1.0 if pairs.p is None else pairs.p))
    corrected = holm([one.p for one in raw])
    return [Comparison(one.task, one.arm, one.pairs, one.p, p) for one, p in zip(raw, corrected, strict=True)]


def mean_over(arms: list[Found]) -> dict[int, float]:
    """By seed, of those that all have."""
    found = [by_seed(arm) for arm in arms]
    shared = set(found[0]).intersection(*found)
    return {seed: statistics.fmean(one[seed] for one in found) for seed in sorted(shared)}


def over_tasks_line(tasks: list[Found]) -> str:
    """What the mean over a family's tasks says; empty for one task."""
    if len(tasks) < 2 or len({tuple(sorted(by_seed(next(iter(task["arms"].values()))))) for task in tasks}) > 1:
        return ""
    found = over_tasks(tasks)
    if not found:
        return ""
    nearest = max(found, key=lambda one: one.pairs.mean)
    chosen = statistics.fmean(mean(task["arms"][ranked(task, "objective")[0]]) for task in tasks)
    each = likewise(tasks)
    against = "-" if each is None or each.p is None else f"{difference(each)}, p {each.p:.3g}"
    return (
        f"\nIn the mean over these tasks the chosen objectives are at {chosen:.2f} and beat {sum(one.won for one in found)} of "
        f"{len(found)} arms; minus the nearest, {nearest.arm}: {difference(nearest.pairs)}, Holm p {nearest.corrected:.3g}. "
        f"Minus the arm of each task that would be chosen among all others on the same validation rows: {against}.\n"
    )


def likewise(tasks: list[Found]) -> Paired | None:
    """The chosen objectives against what the same choice takes among all other arms, in the mean over the tasks."""
    ours, others = (
        mean_over([task["arms"][ranked(task, *kinds)[0]] for task in tasks])
        for kinds in (("objective",), ("base", "control", "rival"))
    )
    return paired(others, ours)


def difference(pairs: Paired | None) -> str:
    return "-" if pairs is None else f"{pairs.mean:+.2f} ({pairs.interval}), {pairs.lower} of {len(pairs.differences)}"


def on_shared_seeds(found: Found) -> Found:
    """The task's arms on the seeds on which every one of them has been measured, so that their means stand side by side."""
    shared = set[str].intersection(*(set(arm["test"]) for arm in found["arms"].values()))
    arms = {
        name: {**arm, "test": {seed: value for seed, value in arm["test"].items() if seed in shared}}
        for name, arm in found["arms"].items()
    }
    return {**found, "arms": arms, "runs": runs(found), "seeds": len(shared)}


def setting(arm: Found) -> str:
    return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in arm["chosen"]["set"].items()) or "-"


def task_table(found: Found, comparisons: list[Comparison]) -> str:
    arms = found["arms"]
    ours, simple = ranked(found, "objective"), ranked(found, "base", "control", "rival")
    base = ranked(found, "base")[0]
    against = {one.arm: one for one in comparisons if one.task == found["task"]}
    taken = f", settings chosen on {found['tuned_on']}" if found["tuned_on"] else ""
    lines = [
        f"### {found['task']}",
        "",
        f"{len(arms[ours[0]]['test'])} seeds, `{found['profile']}` profile, recipe `{found['recipe']}`, on "
        f"{found['environment']['device']}{taken}. On validation rows the best objective is **{ours[0]}**, the best other arm "
        f"**{simple[0]}**.",
        "",
        f"| arm | kind | chosen | wrong in % | minus base | {ours[0]} minus it | p | Holm | s |",
        "| --- | --- | --- | ---: | --- | --- | ---: | ---: | ---: |",
    ]
    for name, arm in arms.items():
        spread = statistics.stdev(arm["test"].values()) if len(arm["test"]) > 1 else 0.0
        one = against.get(name)
        versus = ["", "", ""] if one is None else [difference(one.pairs), f"{one.p:.3g}", f"{one.corrected:.3g}"]
        gain = "" if name == base else difference(paired(by_seed(arms[base]), by_seed(arm)))
        cells = [name, kind(arm), setting(arm), f"{mean(arm):.2f} ± {spread:.2f}", gain, *versus,
                 f"{statistics.median(arm['seconds'].values()):.1f}"]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def means_table(tasks: list[Found]) -> str:
    """Every arm in the mean over a family's tasks: less a hypergradient of zero, p of each pair by itself; and the objectives
    chosen on each task less it, with Holm's p. Empty for one task."""
    common = [name for name in tasks[0]["arms"] if all(name in task["arms"] for task in tasks)]
    if len(tasks) < 2 or ZERO not in common:
        return ""
    zero, chosen = mean_over([task["arms"][ZERO] for task in tasks]), {one.arm: one for one in over_tasks(tasks)}
    lines = [
        "### in the mean over these tasks",
        "",
        f"| arm | wrong in % | minus {ZERO} | p, uncorrected | chosen objectives minus it | Holm |",
        "| --- | ---: | --- | ---: | --- | ---: |",
    ]
    for name in common:
        own, one = mean_over([task["arms"][name] for task in tasks]), chosen.get(name)
        pairs = None if name == ZERO else paired(zero, own)
        cells = [name, f"{statistics.fmean(own.values()):.2f}", "" if pairs is None else difference(pairs)]
        cells += ["" if pairs is None or pairs.p is None else f"{pairs.p:.3g}"]
        cells += ["", ""] if one is None else [difference(one.pairs), f"{one.corrected:.3g}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def summary(tasks: list[Found], comparisons: list[Comparison]) -> str:
    """A line for each task: the chosen objective against the best of all others, and how many of them it beats."""
    lines = [
        "| task | base | best control | best rival | objective | minus best other arm | Holm p | beats |",
        "| --- | ---: | --- | --- | --- | --- | ---: | --- |",
    ]
    for found in tasks:
        arms = found["arms"]
        own = [one for one in comparisons if one.task == found["task"]]
        ours, simple = ranked(found, "objective")[0], ranked(found, "base", "control", "rival")[0]
        best = [f"{name} {mean(arms[name]):.2f}" for which in ("control", "rival") for name in ranked(found, which)[:1]]
        against = next(one for one in own if one.arm == simple)
        cells = [
            found["task"], f"{mean(arms[ranked(found, 'base')[0]]):.2f}", *best, f"{ours} {mean(arms[ours]):.2f}",
            difference(against.pairs), f"{against.corrected:.3g}", f"{sum(one.won for one in own)} of {len(own)}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def runs(found: Found) -> int:
    """How many runs a task's file holds, the search's too."""
    return sum(
        len(arm["test"]) + sum(len(one["validation"]) for one in arm["search"]) for arm in found["arms"].values()
    )


def plot(tasks: list[Found], target: Path) -> None:
    """Wrong in percent of every arm less the base's on the same seed, a panel for each task."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    columns = min(2, len(tasks))
    rows = -(-len(tasks) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(5.6 * columns, 3.7 * rows), layout="constrained", squeeze=False)
    for place, axis in enumerate(axes.flat):
        if place >= len(tasks):
            axis.axis("off")
            continue
        found = tasks[place]
        base = ranked(found, "base")[0]
        names = [name for name, arm in found["arms"].items() if name != base and arm["test"]]
        for height, name in enumerate(names):
            pairs = paired(by_seed(found["arms"][base]), by_seed(found["arms"][name]))
            if pairs is None:
                continue
            draw(axis, height, pairs, COLORS[kind(found["arms"][name])])
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_yticks(range(len(names)), names, fontsize=7)
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.tick_params(axis="x", labelsize=7)
        axis.set_title(f"{found['task']} ({base}: {mean(found['arms'][base]):.1f}% wrong)", fontsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    marks = [
        Line2D([], [], marker="o", linestyle="", color=COLORS[one], label=one)
        for one in ("control", "rival", "objective")
    ]
    figure.legend(handles=marks, loc="outside upper right", ncols=3, fontsize=8, frameon=False)
    figure.supxlabel(
        "points of error less the base's on the same seed; left is better; 95% interval of the mean", fontsize=8
    )
    figure.savefig(target, dpi=100)
    plt.close(figure)


def measured_tasks(families: dict[str, Any], results: Path) -> dict[str, list[Found]]:
    """What there is of each family on shared seeds; a task without five of them is left out."""
    found = {}
    for name, family in families.items():
        paths = [results / f"{slug(task)}.json" for task in family["tasks"]]
        tasks = [on_shared_seeds(json.loads(path.read_text())) for path in paths if path.is_file()]
        found[name] = [task for task in tasks if task["seeds"] >= FEWEST]
    return found


def summaries(found: dict[str, list[Found]]) -> str:
    """A table for each family, as the page has them."""
    parts = [
        f"**{name}**\n\n{summary(tasks, compared(tasks))}{over_tasks_line(tasks)}"
        for name, tasks in found.items()
        if tasks
    ]
    total = sum(task["runs"] for tasks in found.values() for task in tasks)
    return "\n".join([*parts, f"{total:,} runs, those of the search among them.\n"])


def between(text: str, inside: str) -> str:
    """The page's text with its tables replaced."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{inside}{END}{rest.split(END)[1]}"


def write_tables(families: dict[str, Any], results: Path, page: Path | None = None) -> None:
    """``families.md`` and ``families.png`` beside the folder of results, and the page's tables, from what has been measured."""
    found = measured_tasks(families, results)
    said = [
        "# Families\n\nWritten by `python -m benchmarks.evidence families`; what it means is in `docs/evidence.md`.\n"
    ]
    for name, tasks in found.items():
        if tasks:
            comparisons = compared(tasks)
            said += [f"## {name}\n", *(task_table(task, comparisons) for task in tasks), means_table(tasks)]
    short = summaries(found)
    said.append(short)
    write_text(results.with_suffix(".md"), "\n".join(said))
    if page is not None:
        write_text(page, between(page.read_text(), short))
    shown = [task for tasks in found.values() for task in tasks]
    if shown:
        plot(shown, results.with_suffix(".png"))
