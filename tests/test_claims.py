"""The page of claims names tests that there are, and the page of costs the figures that were measured."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
CLAIMS, COSTS, PRECISION = (ROOT / f"docs/concepts/{name}.md" for name in ("claims", "costs", "precision"))


def rows(page: Path) -> list[list[str]]:
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_claim_names_tests_that_there_are() -> None:
    claims = [row for row in rows(CLAIMS) if row[0] != "claim"]
    assert len(claims) > 25
    for claim, condition, tests in claims:
        assert claim and condition
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", tests)
        assert named, claim
        for path, name in named:
            tree = ast.parse((ROOT / "tests" / path).read_text(encoding="utf-8"))
            assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (path, name)


def test_figures_of_precision_are_those_that_were_measured() -> None:
    measured = json.loads((ROOT / "benchmarks/results/precision.json").read_text())
    shown = {tuple(row[:3]): row[3:] for row in rows(PRECISION) if len(row) == 6 and row[0] != "model"}
    kinds = ("bfloat16", "float16", "float16, scaled")
    found = {(r["model"], str(r["steps"]), f"`{r['estimator']}`", r["precision"]): r for r in measured["rows"]}
    assert set(shown) == {key[:3] for key in found}
    for key, cells in shown.items():
        for kind, text in zip(kinds, cells, strict=True):
            row = found.get((*key, kind))
            assert text.split(" ")[0] == ("-" if row is None else f"{row['error']:.1e}"), (key, kind)


def test_figures_of_costs_are_those_that_were_measured() -> None:
    measured = json.loads((ROOT / "benchmarks/results/plan.json").read_text())
    shown = {row[0]: row[1:] for row in rows(COSTS) if row[0] in {one["model"] for one in measured["models"]}}
    assert len(shown) == len(measured["models"])
    for one in measured["models"]:
        held = one["footprint"]
        by_way = {(row["estimator"], row["memory"]): row for row in one["choices"]}
        ways = [("exact", "store"), ("exact", "recompute"), ("mixed", "store")]
        expected = [f"{one['parameters']:,}"]
        expected += [f"{held[name] / 2**20:.1f}" for name in ("graph", "first", "snapshot", "working")]
        expected += [f"{by_way[way]['cost']:.1f}, {by_way[way]['peak'] / 2**20:,.0f}" for way in ways]
        assert shown[one["model"]] == expected, one["model"]
