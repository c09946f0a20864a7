"""Where it would go: hours, memory and cost of the paper's Tables 2, 3 and 4 on one and eight GPUs, and a 7B inner loop.

    python -m benchmarks.extrapolation              # counts, and what it was checked against before
    python -m benchmarks.extrapolation --measure    # checks it again on this CPU, for a minute

None of the runs was made; their steps were taken on one card (``card.py``). Passes are counted on the networks themselves
(``counts.py``), what an estimator adds is as ``results/step.json``, ``hypergradient-wrn.json`` and
``hypergradient-transformer.json`` have measured it, and the rest are the assumptions below, each with its source. Writes
``results/extrapolation.json``; ``tables.py`` makes the tables of ``docs/concepts/extrapolation.md`` from that. On a CPU of this
project it is held against real steps, and on an H200 against the runs that ``results/evidence/fashion-mnist-*.json`` holds.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from metaimpute.rundir.files import write_text

from .assumed import ASSUMED, CARDS, HIGH, LOW
from .checks import held_against_the_cpu, held_against_the_h200
from .counts import Network, bert, resnet26, wrn
from .lora import lora
from .steps import RESULTS, added_passes, memory_of, method_passes, overhead, peaks, seconds_of, units

ROOT = Path(__file__).parents[2]
# label counts in the tables, and test and validation rows of an evaluation
DATA = {"CIFAR-10": (3, 15_000), "CIFAR-100": (3, 15_000), "ImageNet-72": (1, 50_000), "IMDb": (1, 25_000)}
NETWORKS = {"wrn": lambda: wrn(28, 2), "resnet26": resnet26, "bert-base-uncased": lambda: bert(128)}


def runs() -> list[dict[str, Any]]:
    """The rows of Tables 2, 3 and 4 that a recipe's ``about`` names, under its ``paper`` profile."""
    found = []
    for path in sorted((ROOT / "recipes").glob("*.yaml")):
        recipe = yaml.safe_load(path.read_text())
        for row in recipe.get("about", {}).get("paper", []):
            if row["table"] in (2, 3, 4):
                train = dict(recipe["train"])
                for key, _, value in (one.partition("=") for one in row.get("set", [])):
                    if key.startswith("train."):
                        train[key.removeprefix("train.")] = yaml.safe_load(value)
                found.append(
                    {
                        "table": row["table"],
                        "row": row["row"],
                        "data": row["data"],
                        "recipe": path.stem,
                        "of": recipe | {"train": train},
                    }
                )
    return found


def extrapolated(run: dict[str, Any], network: Network, host: float) -> dict[str, Any]:
    """Hours and memory of one training run of a row, on each card; ranges from the most to the least favourable assumption."""
    recipe, train = run["of"], run["of"]["train"]
    method, estimator = recipe["method"]["name"], recipe["problem"].get("estimator")
    labelled, unlabelled = train["batch"], train.get("unlabelled_batch") or train["batch"]
    holdout = recipe["problem"].get("holdout_batch") or labelled
    base = method_passes(method, labelled, unlabelled)
    l2i = recipe["problem"]["name"] == "l2i"
    passes = base + (added_passes(estimator, 2 if method == "mixmatch" else 1, unlabelled, holdout) if l2i else [])
    rows = labelled + (0 if method == "supervised" else unlabelled) + (holdout if l2i else 0)
    counts, evaluated = DATA[run["data"]]
    evaluations = train["steps"] // train["eval_every"]
    adam = train["optimizer"]["name"] in ("adam", "adamw")
    found: dict[str, Any] = {key: run[key] for key in ("table", "row", "data", "recipe")} | {
        "network": network.name,
        "parameters": network.parameters,
        "steps": train["steps"],
        "runs": counts * ASSUMED["seeds"]["value"],
        "ratio": units(passes) / units(base),
        "step_flops": sum(network.run(n, kind == "train").flops for kind, n in passes),
    }
    for name in ("H100", "A100", "H200"):
        hours, memory, steps = [], [], []
        for end in (LOW, HIGH):
            step = seconds_of(network, passes, CARDS[name], end) * (overhead()[estimator][end] if l2i else 1)
            if end == HIGH and network.name != "BERT-base":  # images are augmented while the card computes
                step = max(step, rows * host / ASSUMED["host_cores"]["value"])
            pass_of = network.run(200, False)
            share = ASSUMED["share"]["value"][end]
            peak = share * (CARDS[name].tf32 if network.tf32 else CARDS[name].float32)
            evaluation = (
                evaluations
                * evaluated
                / 200
                * pass_of.seconds(ASSUMED["launch"]["value"][end], peak, share * CARDS[name].bandwidth)
            )
            hours.append((train["steps"] * step + evaluation) / 3600)
            steps.append(1e3 * step)
            memory.append(memory_of(network, passes, peaks()[estimator] if l2i else 1.0, adam, end) / 2**30)
        found[name] = {"hours": hours, "memory_gib": memory, "step_ms": steps}
    return found


def totals(rows: list[dict[str, Any]], card: str) -> dict[str, Any]:
    """Of a table: hours on one card, on eight that take one run after another, and what they cost."""
    hours = [sum(row["runs"] * row[card]["hours"][end] for row in rows) for end in (LOW, HIGH)]
    eight = []
    for end in (LOW, HIGH):
        busy = [0.0] * 8
        for one in sorted((row[card]["hours"][end] for row in rows for _ in range(row["runs"])), reverse=True):
            busy[busy.index(min(busy))] += one
        eight.append(max(busy))
    price = ASSUMED["price"]["value"]
    return {
        "runs": sum(row["runs"] for row in rows),
        "one_hours": hours,
        "eight_hours": eight,
        "dollars": [hours[LOW] * price[LOW], hours[HIGH] * price[HIGH]],
        "memory_gib": [max(row[card]["memory_gib"][end] for row in rows) for end in (LOW, HIGH)],
    }


def all_of_it(checks: dict[str, Any]) -> dict[str, Any]:
    card = held_against_the_h200()
    host = max(one["measured"] / one["rows"] for one in card)  # as if all of a step were augmentation on one core
    networks = {name: make() for name, make in NETWORKS.items()}
    rows = [extrapolated(run, networks[run["of"]["model"]["name"]], host) for run in runs()]
    rows.sort(key=lambda row: (row["table"], row["data"], row["H100"]["hours"][HIGH]))
    tables = {
        str(table): {card: totals([row for row in rows if row["table"] == table], card) for card in ("H100", "A100")}
        for table in (2, 3, 4)
    }
    return {
        "benchmark": "extrapolation",
        "assumed": ASSUMED,
        "cards": {name: asdict(one) for name, one in CARDS.items()},
        "host_seconds_an_image": host,
        "overhead": overhead(),
        "peaks": peaks(),
        "rows": rows,
        "tables": tables,
        "lora": lora("H100"),
        "lora_h200": lora("H200"),
        "held_against": {"cpu": checks, "h200": card},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="hold the model against this CPU again")
    path = RESULTS / "extrapolation.json"
    if parser.parse_args().measure or not path.is_file():
        checks = held_against_the_cpu()
    else:
        checks = json.loads(path.read_text())["held_against"]["cpu"]
    write_text(path, json.dumps(_short(all_of_it(checks)), indent=1) + "\n")
    for one in checks["checks"]:
        said = f"predicted {one['predicted']:.3f} s, measured {one['measured']:.3f} s, {one['error']:+.0%}"
        print(f"{one['network']}, {one['rows']} rows: {said}")
    print(f"wrote {path}")


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _short(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_short(one) for one in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
