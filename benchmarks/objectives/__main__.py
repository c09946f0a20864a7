"""Measures the claims of the bilevel objectives.

    python -m benchmarks.objectives [NAME ...] --seeds 5

Writes ``benchmarks/results/objectives/NAME.json`` after every seed, and prints a table: the objective, its controls, and whether
the claim holds. Seeds that are there already, of the same recipe and claim, are not measured again. Seeds are those from 0;
what had to be chosen was chosen on others, and each row says on which.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import pkgutil
from pathlib import Path
from typing import Any

import click

from . import __path__ as here
from .claim import ROOT, Claim, measure

RESULTS = ROOT / "benchmarks" / "results" / "objectives"
HELPERS = ("__main__", "claim")


def names() -> list[str]:
    """Objectives that have a claim: the modules of this package that are no helpers."""
    return sorted(found.name for found in pkgutil.iter_modules(here) if found.name not in HELPERS)


def digest(name: str) -> str:
    """Of the claim's module and the recipes that it names: what a result is of."""
    text = (Path(here[0]) / f"{name}.py").read_text()
    recipes = [
        path for path in sorted((ROOT / "recipes").glob("*.yaml")) if path.stem in text or path.stem == f"digits_{name}"
    ]
    return hashlib.sha256("".join([text, *(path.read_text() for path in recipes)]).encode()).hexdigest()[:16]


def table(results: Path) -> str:
    """Markdown, a line for each arm of each objective."""
    lines = ["| objective | claim | system | measured | holds |", "| --- | --- | --- | --- | --- |"]
    for path in sorted(results.glob("*.json")):
        row: dict[str, Any] = json.loads(path.read_text())
        for place, arm in enumerate(row["mean"]):
            spread = row["std"][arm]
            shown = ", ".join(f"{name} {mean:.3g} ± {spread[name]:.2g}" for name, mean in row["mean"][arm].items())
            first = (f"`{path.stem}`", row["claim"]) if place == 0 else ("", "")
            holds = ("yes" if row["holds"] else "no") if place == 0 else ""
            lines.append(f"| {first[0]} | {first[1]} | {arm} | {shown} | {holds} |")
    return "\n".join(lines)


@click.command()
@click.argument("only", nargs=-1)
@click.option("--seeds", default=5, show_default=True, help="How many, from --first on.")
@click.option("--first", default=0, show_default=True)
@click.option("--again", is_flag=True, help="Measure anew what has been measured.")
@click.option("--dry", is_flag=True, help="Write nothing, as for choosing settings on other seeds.")
def main(only: tuple[str, ...], seeds: int, first: int, again: bool, dry: bool) -> None:
    """Measure the claims of the objectives ONLY (default: all)."""
    unknown = [name for name in only if name not in names()]
    if unknown:
        raise click.BadParameter(f"no claim '{unknown[0]}'; there are: {', '.join(names())}")
    for name in only or names():
        claim: Claim = importlib.import_module(f"{__package__}.{name}").CLAIM
        click.echo(f"{name}: {claim.claim} ({claim.paper})")
        path = RESULTS / f"{name}.json"
        known = json.loads(path.read_text()) if path.is_file() and not (again or dry) else {}
        row = known = known if known.get("of") == digest(name) else {}
        for row in measure(claim, list(range(first, first + seeds)), click.echo, known):
            row["of"] = digest(name)
            begin = row["seeds"][0]
            later = f" --first {begin}" if begin else ""
            row["command"] = f"python -m benchmarks.objectives {name} --seeds {len(row['seeds'])}{later}"
            if not dry:
                RESULTS.mkdir(exist_ok=True)
                path.write_text(json.dumps(row, indent=1) + "\n")
        if row:
            click.echo("  the claim " + ("holds" if row["holds"] else "does not hold"))
    if not dry:
        click.echo(table(RESULTS))


if __name__ == "__main__":
    main()
