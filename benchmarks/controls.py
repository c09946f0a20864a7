"""Is a gain of L2I the hypergradient's? One recipe under every control, paired over seeds.

    python benchmarks/controls.py recipes/digits_mean_teacher.yaml --seeds 8

Each seed draws labels, weights, batches and noise anew and every system sees the same draw. Writes
``benchmarks/results/controls-RECIPE.json`` and ``.png`` and prints a study's table: mean error over seeds, and the paired
difference to the base method. ``supervised`` is the labels alone; ``none x2`` is the base method with twice the optimiser
steps, which is what ``algorithm1`` takes; a ``fused`` recipe takes as many as the base method. To choose the systems freely,
and to go on after an interruption, write a study: ``benchmarks/studies/digits_controls.yaml``.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console

from metaimpute.recipes.profiles import choose
from metaimpute.recipes.source import Source
from metaimpute.rundir.files import write_text
from metaimpute.study.plan import plan
from metaimpute.study.progress import carry_out, prepare
from metaimpute.study.runs import Job, Outcome
from metaimpute.study.tables import console_table, summarize
from metaimpute.study.workers import here

RESULTS = Path(__file__).parent / "results"
SYSTEMS = (
    "supervised",
    "none",
    "none x2",
    "l2i",
    "l2i_learnable",
    "zero_hypergradient",
    "random_direction",
    "holdout_supervision",
    "lookahead_supervision",
)


def settings_of(system: str, steps: int, fused: bool) -> tuple[str, ...] | None:
    """``--set`` values of a system, or None where it does not apply."""
    if system == "supervised":
        return ("method.name=supervised", "problem.name=none")
    name = system.split()[0]
    sets: tuple[str, ...] = (f"problem.name={name}",)
    if system == "none x2":
        return None if fused else (*sets, f"train.steps={2 * steps}")
    if name == "l2i_learnable" and fused:
        sets += ("problem.schedule=algorithm1", "problem.scale=raw")
    return sets


def plot(results: list[dict[str, Any]], systems: list[str], target: Path, title: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.2, 3.4), layout="constrained")
    whole = {seed: sum(r["seed"] == seed for r in results) == len(systems) for seed in (r["seed"] for r in results)}
    seeds = sorted(seed for seed, all_finished in whole.items() if all_finished)
    if not seeds:
        return
    table = np.array(
        [[next(r["test_last"] for r in results if (r["system"], r["seed"]) == (s, k)) for s in systems] for k in seeds]
    )
    for row in table:
        axes.plot(range(len(systems)), row, color="0.8", linewidth=0.8, zorder=1)
    for column in range(len(systems)):
        axes.scatter(
            [column] * len(seeds),
            table[:, column],
            s=14,
            color="C0" if systems[column].startswith("l2i") else "0.45",
            zorder=2,
        )
        axes.hlines(table[:, column].mean(), column - 0.25, column + 0.25, color="black", linewidth=2, zorder=3)
    axes.set_xticks(range(len(systems)), [s.replace("_", "\n") for s in systems], fontsize=8)
    axes.set_ylabel("test error %")
    axes.set_title(title, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(target, dpi=150)


def described(results: list[dict[str, Any]]) -> str:
    """What was run, and on which data: a recipe may fall back on a stand-in."""
    seeds = len({r["seed"] for r in results})
    return f"{results[0]['title']}; data: {results[0]['source']} ({results[0]['profile']} profile, {seeds} seeds)"


@click.command()
@click.argument("recipe", type=click.Path(exists=True, path_type=Path))
@click.option("--seeds", default=8, show_default=True, help="Seeds 0 .. N-1.")
@click.option("--systems", default=",".join(SYSTEMS), show_default=True)
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override a value in every system.")
@click.option("--out", type=click.Path(path_type=Path), help="Where to write; default benchmarks/results.")
def main(recipe: Path, seeds: int, systems: str, sets: tuple[str, ...], out: Path | None) -> None:
    """Run RECIPE under every control."""
    folder = out or RESULTS
    target = folder / f"controls-{recipe.stem}.json"
    chosen, _ = choose(recipe, "auto", sets)
    fused = chosen.problem_spec.schedule == "fused"
    wanted = {s: settings_of(s, chosen.train.steps, fused) for s in systems.split(",")}
    active = {s: list(own) for s, own in wanted.items() if own is not None}
    asked = {"recipe": str(recipe.resolve()), "systems": active, "set": list(sets), "seeds": seeds,
             "against": "none", "metric": "test_last"}  # fmt: skip
    study = plan(Source(asked, name="controls"), recipe)
    results: list[dict[str, Any]] = []

    def report(job: Job, outcome: Outcome) -> None:
        if outcome.result is None:
            click.echo(f"seed {job.seed} {job.row}: {outcome.reason or 'stopped'}")
            return
        results.append({"system": job.row, **outcome.result, "recipe": str(recipe)})
        click.echo(
            f"seed {job.seed} {job.row}: {results[-1]['test_last']:.2f} ({results[-1]['training_seconds']:.0f} s)"
        )
        write_text(target, json.dumps(results, indent=1) + "\n")

    with tempfile.TemporaryDirectory() as scratch:
        progress = prepare(study, Path(scratch))
        carry_out(progress, here(0), report)
    if not results:
        raise click.ClickException("no run was finished")
    Console(width=130).print(console_table(study, summarize(study, progress.outcomes), described(results)))
    plot(results, list(active), target.with_suffix(".png"), described(results))


if __name__ == "__main__":
    main()
