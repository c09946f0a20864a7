"""Where does L2I help, and is it the hypergradient? Every task of ``methods.yaml`` under every control, tuned alike.

    python -m benchmarks.evidence methods                                  # all tasks: hours on two cores
    python -m benchmarks.evidence methods "digits, Mean Teacher" --jobs 2  # one of them
    python -m benchmarks.evidence methods --table                          # the tables again, from what has been measured

The weight of the unlabelled loss and the learning rate are chosen for the base method, and of every arm one setting among
three values, on validation rows with seeds that are not reported. Then every arm runs on the same fresh seeds: each draws
labels, weights, batches and noise anew, and every arm sees the same draw. Writes ``benchmarks/results/evidence/TASK.json``
(arms with their settings, every seed's test error, what the look-ahead did) and ``benchmarks/results/evidence.md``. The same
command goes on after an interruption.
"""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

import click
import yaml

from metaimpute.plugins import import_module
from metaimpute.recipes.profiles import choose
from metaimpute.recipes.shipped import locate
from metaimpute.recipes.source import Source
from metaimpute.reporting.statistics import Paired, paired
from metaimpute.rundir.files import write_text
from metaimpute.study.plan import Study, plan
from metaimpute.study.progress import Progress, carry_out, prepare
from metaimpute.study.rows import flow
from metaimpute.study.runs import Job, Outcome
from metaimpute.study.workers import here

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "evidence"
SEEDS = 10
CONTROLS = ("none", "zero_hypergradient", "random_direction", "holdout_supervision", "lookahead_supervision")
LOOKED_AT = ("holdout_before", "holdout_after", "holdout_linear", "cosine", "cosine_holdout", "label_alignment",
             "label_change", "inner_lr")  # fmt: skip


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def scaled(own: float, factors: list[float]) -> list[float]:
    return [float(f"{factor * own:.4g}") for factor in factors]


def with_tuned_base(asked: dict[str, Any], task: dict[str, Any], recipe: Path, work: Path, jobs: int) -> dict[str, Any]:
    """The task with the weight and the learning rate with which the base method has the lowest validation error.

    Every arm starts from them: an arm whose learning rate was never looked for would lose by that alone.
    """
    found, _ = choose(recipe, "sample", tuple(f"{key}={flow(value)}" for key, value in task["set"].items()))
    grid = {"method.weight": scaled(found.method.weight, task.get("weights", asked["weights"])),
            "train.optimizer.lr": scaled(found.train.optimizer.lr, asked["lr_factors"])}  # fmt: skip
    arms = {"none": {"problem.name": "none", "grid": grid}}
    study = study_of(task, recipe, arms, task.get("tune", asked["tune"]), "validation_last")
    chosen = tuned(study, carried_out(study, work / "base", jobs))
    return {**task, "set": {**task["set"], **chosen["none"]["point"]}}


def tuned_elsewhere(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was chosen for the task ``name``: the settings of all arms, and each arm's own."""
    path = RESULTS / f"{slug(name)}.json"
    if not path.is_file():
        raise click.UsageError(f"{name!r} has to be measured first: its settings are taken")
    found = json.loads(path.read_text())
    keys = ("method.weight", "train.optimizer.lr")
    arms = {arm: {"point": own["set"], "validation": own["validation"]} for arm, own in found["arms"].items()}
    return {key: found["set"][key] for key in keys}, arms


def arms_of(asked: dict[str, Any], task: dict[str, Any], recipe: Path) -> dict[str, dict[str, Any]]:
    """Each arm's settings, with a grid of at most three points under ``grid``."""
    arms = {}
    for name, arm in asked["arms"].items():
        if name in task.get("without", ()):
            continue
        grid = {key: task["rates"] if values == "RATES" else values for key, values in arm.get("grid", {}).items()}
        for key, factors in arm.get("factors", {}).items():
            sets = tuple(f"{k}={flow(v)}" for k, v in {**task["set"], **arm["set"]}.items())
            found, _ = choose(recipe, "sample", sets)
            grid[key] = scaled(found.train.optimizer.lr, factors)
        arms[name] = {**arm["set"], **({"grid": grid} if grid else {})}
    return arms


def study_of(task: dict[str, Any], recipe: Path, arms: dict[str, Any], seeds: Any, metric: str) -> Study:
    asked = {"recipe": str(recipe), "systems": arms, "set": dict(task["set"]), "seeds": seeds, "metric": metric,
             "profile": "sample", **({"against": "none"} if metric == "test_last" else {})}  # fmt: skip
    return plan(Source(asked, name="evidence"), recipe)


def carried_out(study: Study, folder: Path, jobs: int) -> Progress:
    progress = prepare(study, folder, max(jobs, 1), 1)

    def report(job: Job, outcome: Outcome) -> None:
        said = outcome.reason if outcome.result is None else f"{outcome.result['test_last']:.2f}"
        click.echo(f"  seed {job.seed} {job.row}: {said}")

    carry_out(progress, here(jobs), report)
    return progress


def tuned(study: Study, progress: Progress) -> dict[str, dict[str, Any]]:
    """Each arm with its setting of the lowest mean validation error; one that diverged on a seed comes last."""
    best: dict[str, tuple[tuple[int, float], dict[str, Any]]] = {}
    for row in study.rows:
        results = [progress.outcomes[row.name, seed].result for seed in study.seeds]
        values = [float(r["validation_last"]) for r in results if r is not None]
        rank = (-len(values), statistics.mean(values) if values else float("inf"))
        if row.system not in best or rank < best[row.system][0]:
            best[row.system] = (rank, dict(row.point))
    return {name: {"point": point, "validation": rank[1]} for name, (rank, point) in best.items()}


def looked(folder: Path) -> dict[str, float]:
    """Medians over a run's measured steps."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = {key: [row[key] for row in rows if key in row] for key in LOOKED_AT}
    found["ratio"] = [
        row["hypergradient_norm"] / row["base_gradient_norm"]
        for row in rows
        if row.get("base_gradient_norm") and "hypergradient_norm" in row
    ]
    found["holdout_change"] = [
        row["holdout_after"] / max(row["holdout_before"], 1e-12) - 1 for row in rows if "holdout_after" in row
    ]
    return {key: statistics.median(values) for key, values in found.items() if values}


def measured(name: str, asked: dict[str, Any], work: Path, jobs: int, seeds: int | None) -> dict[str, Any]:
    task = asked["tasks"][name]
    if "imports" in task:
        import_module(str((HERE / task["imports"]).resolve()))
    beside = (HERE / task["recipe"]).resolve()
    recipe = beside if beside.is_file() else locate(Path(task["recipe"]))
    if "tuned_on" in task:
        shared, chosen = tuned_elsewhere(task["tuned_on"])
        task = {**task, "set": {**task["set"], **shared}}
        arms = arms_of(asked, task, recipe)
        tuning_seeds = []
    else:
        click.echo(f"{name}: choosing on validation rows")
        task = with_tuned_base(asked, task, recipe, work / slug(name), jobs)
        arms = arms_of(asked, task, recipe)
        first = study_of(task, recipe, arms, task.get("tune", asked["tune"]), "validation_last")
        chosen = tuned(first, carried_out(first, work / slug(name) / "tune", jobs))
        tuning_seeds = list(first.seeds)
    final = {arm: {k: v for k, v in own.items() if k != "grid"} | chosen[arm]["point"] for arm, own in arms.items()}
    click.echo(f"{name}: measuring")
    second = study_of(task, recipe, final, seeds or task.get("seeds", SEEDS), "test_last")
    folder = work / slug(name) / "test"
    progress = carried_out(second, folder, jobs)
    found: dict[str, Any] = {"task": name, "set": task["set"], "arms": {}, "tune": tuning_seeds}
    found |= {key: task[key] for key in ("tuned_on",) if key in task}
    for row in second.rows:
        results = {s: progress.outcomes[row.name, s].result for s in second.seeds}
        finished = {s: r for s, r in results.items() if r is not None}
        if not finished:
            continue
        any_result = next(iter(finished.values()))
        found |= {k: any_result[k] for k in ("source", "metric", "profile", "environment", "steps", "labels")}
        found["recipe"] = task["recipe"]
        found["environment"] = found["environment"] | {"command": f"python -m benchmarks.evidence methods {name!r}"}
        looks = [looked(folder / row.folder / f"seed{s}") for s in finished]
        found["arms"][row.name] = {
            "set": chosen[row.name]["point"], "validation": chosen[row.name]["validation"],
            "test": {s: r["test_last"] for s, r in finished.items()},
            "seconds": statistics.median(r["training_seconds"] for r in finished.values()),
            "failed": [s for s, r in results.items() if r is None],
            "look": {key: statistics.median(look[key] for look in looks if key in look)
                     for key in sorted({key for look in looks for key in look})},
        }  # fmt: skip
    return found


def table(found: dict[str, Any]) -> str:
    """Markdown: mean error, paired differences to the base method and to the best control, and what the look-ahead does.

    Of the look-ahead, medians over measured steps and seeds: the relative change of the hold-out loss (``C_H``) and what its
    gradient at the start predicts of that (``linear``; the rest is curvature); the cosine of the applied direction with that
    gradient (``cos``); that of the labels' descent direction with the way to the true labels (``align``).
    """
    arms = found["arms"]
    means = {name: statistics.mean(arm["test"].values()) for name, arm in arms.items()}
    controls = [name for name in CONTROLS if name in arms]
    best = min(controls, key=lambda name: arms[name]["validation"])  # chosen on validation rows, as everything is
    seeds = len(next(iter(arms.values()))["test"])
    lines = [
        f"### {found['task']}",
        "",
        f"{found['source']}, {found['labels']} labels, {found['steps']} steps, {seeds} seeds, {found['metric']}; recipe "
        f"`{found['recipe']}`, on {found['environment']['device']}. Best control on validation rows: `{best}`.",
        "",
        "| arm | chosen | error | minus `none` | minus best control | \\|h\\|/\\|g\\| | C_H | linear | cos | align | s |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, arm in arms.items():
        spread = statistics.stdev(arm["test"].values()) if len(arm["test"]) > 1 else 0.0
        look, chosen = arm["look"], ", ".join(f"{k.rpartition('.')[2]} {v}" for k, v in arm["set"].items())
        cells = [
            f"`{name}`", chosen or "-", f"{means[name]:.2f} ± {spread:.2f}",
            difference(arms["none"], arm) if name != "none" else "",
            difference(arms[best], arm) if name != best else "",
            f"{look['ratio']:.2g}" if "ratio" in look else "",
            f"{look['holdout_change']:+.0%}" if "holdout_change" in look else "",
            f"{look['holdout_linear'] / max(look['holdout_before'], 1e-12):+.0%}" if "holdout_linear" in look else "",
            f"{look['cosine_holdout']:+.2f}" if "cosine_holdout" in look else "",
            f"{look['label_alignment']:+.2f}" if "label_alignment" in look else "", f"{arm['seconds']:.0f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def summary(found: list[dict[str, Any]]) -> str:
    """Markdown: a line for each task; L2I is its variant with the lowest validation error."""
    lines = [
        "| task | seeds | labels alone | base | best control | L2I | minus base | minus best control |",
        "| --- | ---: | ---: | ---: | --- | --- | --- | --- |",
    ]
    for task in found:
        arms = task["arms"]
        best = min((name for name in CONTROLS if name in arms), key=lambda name: arms[name]["validation"])
        ours = min((name for name in arms if name.startswith("l2i")), key=lambda name: arms[name]["validation"])
        means = {name: f"{statistics.mean(arm['test'].values()):.2f}" for name, arm in arms.items()}
        cells = [
            task["task"], str(len(arms["none"]["test"])), means["supervised"], means["none"], f"`{best}` {means[best]}",
            f"`{ours}` {means[ours]}", difference(arms["none"], arms[ours]), difference(arms[best], arms[ours]),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\n"


def difference(base: dict[str, Any], other: dict[str, Any]) -> str:
    found = paired(by_seed(base), by_seed(other))
    if found is None:
        return "-"
    interval = "" if found.low is None else f" [{found.low:+.1f}, {found.high:+.1f}]"
    return f"{found.mean:+.2f}{interval}, {found.lower} of {len(found.differences)}"


SHOWN = {
    "supervised": ("labels alone", "0.6"), "zero_hypergradient": ("zero hypergradient", "0.6"),
    "random_direction": ("random direction", "0.6"), "holdout_supervision": ("hold-out supervision", "C1"),
    "lookahead_supervision": ("look-ahead supervision", "C1"), "l2i full path": ("L2I, start differentiated", "C0"),
    "l2i": ("L2I", "C3"), "l2i Eq. 6": ("L2I, Eq. 6", "C3"), "l2i learnable": ("L2I, learnable labels", "C3"),
    "l2i trust region": ("L2I, trust region", "C3"), "l2i learned rate": ("L2I, learned rate", "C3"),
    "l2i line search": ("L2I, line search", "C3"), "l2i rescaled": ("L2I, rescaled", "C3"),
}  # fmt: skip


def draw(axis: Any, height: int, pairs: Paired, color: str) -> None:
    """One arm's line: the difference on every seed, their mean, and its interval where there is one."""
    axis.scatter(pairs.differences, [height] * len(pairs.differences), s=8, color=color, alpha=0.35, linewidths=0)
    axis.scatter([pairs.mean], [height], s=28, color=color, zorder=3)
    if pairs.low is not None and pairs.high is not None:
        axis.hlines(height, pairs.low, pairs.high, color=color, linewidth=2)


def plot(found: list[dict[str, Any]], target: Path) -> None:
    """Paired differences to the base method, a panel for each task: every seed, the mean and its interval."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.1 * columns, 3.0 * rows), layout="constrained", sharey=True, squeeze=False
    )
    names = [name for name in SHOWN if any(name in task["arms"] for task in found)]
    for place in range(rows * columns):
        axis = axes[place // columns][place % columns]
        if place >= len(found):
            axis.axis("off")
            continue
        arms = found[place]["arms"]
        for height, name in enumerate(names):
            if name not in arms:
                continue
            pairs = paired(by_seed(arms["none"]), by_seed(arms[name]))
            if pairs is None:
                continue
            draw(axis, height, pairs, SHOWN[name][1])
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_yticks(range(len(names)), [SHOWN[name][0] for name in names], fontsize=7)
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.tick_params(axis="x", labelsize=7)
        means = statistics.mean(arms["none"]["test"].values())
        axis.set_title(f"{found[place]['task']} (base {means:.1f})", fontsize=8)
        low, high = axis.get_xlim()
        axis.set_xlim(max(low, -25), min(high, 25))
        axis.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(
        "error minus the base method's on the same seed; left is better; 95% interval of the mean", fontsize=8
    )
    figure.savefig(target, dpi=130)


def by_seed(arm: dict[str, Any]) -> dict[int, float]:
    return {int(seed): value for seed, value in arm["test"].items()}


def write_tables() -> None:
    asked = yaml.safe_load((HERE / "methods.yaml").read_text())
    files = [RESULTS / f"{slug(name)}.json" for name in asked["tasks"]]
    found = [json.loads(path.read_text()) for path in files if path.is_file()]
    head = "# Evidence\n\nWritten by `python -m benchmarks.evidence methods`; what it means is in `benchmarks/README.md`.\n\n"
    write_text(RESULTS.with_suffix(".md"), head + summary(found) + "\n".join(map(table, found)))
    if found:
        plot(found, RESULTS.with_suffix(".png"))


@click.command()
@click.argument("names", nargs=-1)
@click.option("--work", type=click.Path(path_type=Path), default=Path("runs/evidence"), show_default=True)
@click.option("--jobs", type=click.IntRange(0, 64), default=0, show_default=True, help="Worker processes; 0: this one.")
@click.option("--seeds", type=click.IntRange(1), help="In the place of the file's.")
@click.option("--table", "only_table", is_flag=True, help="Write the tables from what there is.")
def methods(names: tuple[str, ...], work: Path, jobs: int, seeds: int | None, only_table: bool) -> None:
    """Measure the tasks NAMES of methods.yaml (default: all)."""
    asked = yaml.safe_load((HERE / "methods.yaml").read_text())
    for name in () if only_table else names or tuple(asked["tasks"]):
        found = measured(name, asked, work, jobs, seeds)
        write_text(RESULTS / f"{slug(name)}.json", json.dumps(found, indent=1) + "\n")
        click.echo(table(found))
    write_tables()
