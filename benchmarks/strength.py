"""How long is the hypergradient of every L2I row of the paper's tables, beside the base gradient, in the ``sample`` profile?

    python benchmarks/strength.py [--steps 200]

Writes ``benchmarks/results/strength.json`` and prints a table: the median over measured steps of
|hypergradient| / |base gradient| (rows O), or the mean change of a label in one update (rows L), and what the look-ahead does to
the hold-out loss. Rows that differ in the number of labels alone are one system in the ``sample`` profile and stand in one line.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import click

from metaimpute.recipes import about_recipes
from metaimpute.recipes.profiles import choose
from metaimpute.training.session import Session

HERE = Path(__file__).parent
RELEASED = {("cifar10_mean_teacher_l2i", "exact"): 1.06}  # of the authors' code, where it is known


def systems(folder: Path) -> list[tuple[str, Path, tuple[str, ...], list[str]]]:
    """Name, recipe, settings and rows of every L2I system of the tables."""
    found = []
    for path, about in about_recipes(folder):
        groups: dict[tuple[str, ...], list[str]] = {}
        for row in about.paper:
            groups.setdefault(tuple(row.set), []).append(f"Table {row.table}, {row.row}")
        recipe, _ = choose(path, "sample")
        if recipe.problem.learns != "nothing":
            found += [(path.stem, path, sets, rows) for sets, rows in groups.items()]
    return found


def measure(path: Path, sets: tuple[str, ...], steps: int, seed: int) -> dict[str, Any]:
    recipe, _ = choose(
        path, "sample", (*sets, f"train.steps={steps}", f"train.eval_every={steps}", "train.log_every=5"), seed
    )
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        Session(recipe, run, say=lambda message: None).run()
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps_of = [row for row in rows if row.get("base_gradient_norm") and "hypergradient_norm" in row]
    ratios = [row["hypergradient_norm"] / row["base_gradient_norm"] for row in steps_of]
    found = {"ratio": statistics.median(ratios), "under_1e-3": sum(r < 1e-3 for r in ratios) / len(ratios)}
    if "label_change" in steps_of[0]:
        found["label_change"] = statistics.median(row["label_change"] for row in steps_of)
    found["holdout_change"] = statistics.median(
        row["holdout_after"] / max(row["holdout_before"], 1e-12) - 1 for row in steps_of if "holdout_after" in row
    )
    return found


@click.command()
@click.argument("only", nargs=-1)
@click.option("--steps", default=200, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(only: tuple[str, ...], steps: int, seed: int) -> None:
    """Measure the systems whose recipe's name holds one of ONLY (default: all)."""
    found = []
    for name, path, sets, rows in systems(HERE.parent / "recipes"):
        if only and not any(part in name for part in only):
            continue
        found.append({"recipe": name, "set": list(sets), "rows": rows, "steps": steps, "seed": seed}
                     | measure(path, sets, steps, seed))  # fmt: skip
        last = found[-1]
        shown = f"label change {last['label_change']:.2g}" if "label_change" in last else f"|h|/|g| {last['ratio']:.2g}"
        click.echo(f"{name} {' '.join(sets)}: {shown}, hold-out {last['holdout_change']:+.0%}  ({'; '.join(rows)})")
    if not only:
        (HERE / "results" / "strength.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
