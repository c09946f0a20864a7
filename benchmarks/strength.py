"""How long is the hypergradient of every L2I recipe, beside the base gradient, in the ``sample`` profile?

    python benchmarks/strength.py [PART OF A RECIPE'S NAME ...]

Writes ``benchmarks/results/strength.json``, with the settings that were measured: a test holds them equal to the recipes'.
For each row of the paper's tables, and each other L2I recipe: the median over measured steps of |hypergradient| /
|base gradient| (labels as output), or the mean change of a label in one update (learnable labels), and what the look-ahead
does to the hold-out loss. Steps in which no imputed label counts (a mask that is not yet open) are left out. Rows that differ
in the number of labels alone are one system in the ``sample`` profile.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import click

from metaimpute.batches.outputs import Classes
from metaimpute.recipes import Recipe, about_recipes
from metaimpute.recipes.profiles import choose
from metaimpute.training.session import Session

HERE = Path(__file__).parent
LONGEST = 400
RESULTS = HERE / "results" / "strength.json"


def systems(folder: Path) -> list[tuple[str, Path, tuple[str, ...], list[str]]]:
    """Name, recipe, settings and rows of every L2I system of the tables."""
    found = []
    for path, about in about_recipes(folder):
        groups: dict[tuple[str, ...], list[str]] = {}
        for row in about.paper:
            groups.setdefault(tuple(row.set), []).append(f"Table {row.table}, {row.row}")
        recipe, _ = choose(path, "sample")
        if recipe.problem.name in ("l2i", "l2i_learnable"):
            found += [(path.stem, path, sets, rows) for sets, rows in (groups or {(): []}).items()]
    return found


def chosen(path: Path, sets: tuple[str, ...], seed: int = 0) -> Recipe:
    """The recipe as it is measured: its own length, up to 400 steps, on landmarks, which no mask leaves out, 100."""
    own = choose(path, "sample", sets, seed)[0]
    steps = min(own.train.steps, LONGEST if isinstance(own.task.output, Classes) else LONGEST // 4)
    return choose(
        path, "sample", (*sets, f"train.steps={steps}", f"train.eval_every={steps}", "train.log_every=5"), seed
    )[0]


def settings(path: Path, sets: tuple[str, ...]) -> dict[str, Any]:
    """What the measurement depends on."""
    resolved = chosen(path, sets).resolved
    return {section: resolved[section] for section in ("task", "model", "method", "problem", "train")}


def measure(path: Path, sets: tuple[str, ...], seed: int) -> dict[str, Any]:
    recipe = chosen(path, sets, seed)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        result = Session(recipe, run, say=lambda message: None).run()
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    counted = [
        row for row in rows if row.get("base_gradient_norm") and row.get("mask_rate") and "hypergradient_norm" in row
    ]
    ratios = [row["hypergradient_norm"] / row["base_gradient_norm"] for row in counted]
    found = {
        "source": result["source"],
        "steps": recipe.train.steps,
        "measured": len(ratios),
        "ratio": statistics.median(ratios),
    }
    if "label_change" in counted[0]:
        found["label_change"] = statistics.median(row["label_change"] for row in counted)
    found["holdout_change"] = statistics.median(
        row["holdout_after"] / max(row["holdout_before"], 1e-12) - 1 for row in counted if "holdout_after" in row
    )
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, a line for each system."""
    lines = ["| recipe | rows of the paper | strength | hold-out loss |", "| --- | --- | ---: | ---: |"]
    for row in rows:
        moved = f"labels {row['label_change']:.1e}" if "label_change" in row else f"{row['ratio']:.2g}"
        name = " ".join([f"`{row['recipe']}`", *(f"`{one}`" for one in row["set"])])
        lines.append(f"| {name} | {'; '.join(row['rows']) or '-'} | {moved} | {row['holdout_change']:+.0%} |")
    return "\n".join(lines) + "\n"


@click.command()
@click.argument("only", nargs=-1)
@click.option("--seed", default=0, show_default=True)
def main(only: tuple[str, ...], seed: int) -> None:
    """Measure the recipes whose name holds one of ONLY (default: all) again."""
    known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else []
    kept = {(row["recipe"], tuple(row["set"])): row for row in known}
    names = systems(HERE.parent / "recipes")
    for name, path, sets, rows in names:
        if only and not any(part in name for part in only):
            continue
        if chosen(path, sets).missing():
            click.echo(f"{name}: data missing")
            continue
        last = measure(path, sets, seed)
        kept[name, sets] = {
            "recipe": name,
            "set": list(sets),
            "rows": rows,
            "seed": seed,
            **last,
            "settings": settings(path, sets),
        }
        shown = f"label change {last['label_change']:.2g}" if "label_change" in last else f"|h|/|g| {last['ratio']:.2g}"
        click.echo(f"{name} {' '.join(sets)}: {shown}, hold-out {last['holdout_change']:+.0%}  ({'; '.join(rows)})")
        order = [kept[one, s] for one, _, s, _ in names if (one, s) in kept]
        RESULTS.write_text(json.dumps(order, indent=1) + "\n")
    if RESULTS.is_file():
        click.echo(table(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
