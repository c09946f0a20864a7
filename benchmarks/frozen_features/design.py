"""How the settings of ``benchmarks/frozen_features`` were chosen: on the design tasks and draws of ``benchmarks/own_data`` alone.

    python -m benchmarks.frozen_features.design

Settings are gone through one family after another; of each family's values those are kept with the lowest error in the mean
over tasks, of all others what was kept before. Writes ``benchmarks/results/frozen_features_design.json``.
"""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..own_data.sets import DATA_SETS, DESIGN
from .arms import ARMS
from .bench import Bench, Settings
from .data import draws_of

OUT = Path(__file__).parents[1] / "results" / "frozen_features_design.json"
FIRST, DRAWS = 100, 3
FAMILIES: tuple[tuple[str, dict[str, tuple[float, ...]]], ...] = (
    (
        "entropy and balance, fixed",
        {"weight": (0.3, 1.0, 3.0), "balance": (1.0, 3.0), "temperature": (0.5, 1.0)},
    ),
    ("labels, zero hypergradient", {"imputed": (1.0, 3.0), "sharpness": (1.0, 2.0)}),
    ("spreading, fixed", {"width": (0.35, 0.7, 1.4), "alpha": (1.0, 2.0, 4.0)}),
    ("penalties of blocks, search", {"tried_blocks": (0.3, 1.0, 3.0)}),
    ("penalties of blocks, learned", {"near_blocks": (0.3, 1.0, 3.0)}),
    ("penalties of directions, learned", {"near_directions": (0.1, 0.3)}),
    ("entropy and balance, search", {"tried_scalars": (0.1, 0.3, 1.0)}),
    ("entropy and balance, learned", {"near_scalars": (0.1, 0.3)}),
    ("labels, each learned", {"near_rows": (1.0, 10.0)}),
    ("labels, a function learned", {"near_map": (0.01, 0.03)}),
    ("spreading, search", {"tried_graph": (0.3, 1.0)}),
    ("spreading, learned", {"near_graph": (0.3, 1.0)}),
)


def error(arm: str, settings: Settings, tasks: list[Bench]) -> float:
    """Percent of wrong labels, the mean over tasks and draws."""
    each = []
    for bench in tasks:
        shares = ARMS[arm](bench.altered(settings=settings)).shares
        each.append(float(100 * (shares.argmax(-1) != bench.draws.truth).double().mean()))
    return float(np.mean(each))


def main() -> None:
    seeds, chosen = (
        list(range(FIRST, FIRST + DRAWS)),
        [one for one in DATA_SETS if one.split == DESIGN and not one.values],
    )
    tasks = [Bench(draws_of(one, seeds)) for one in chosen]
    settings, found = Settings(), []
    for arm, values in FAMILIES:
        started, errors = time.perf_counter(), {}
        for point in itertools.product(*values.values()):
            errors[point] = error(arm, replace(settings, **dict(zip(values, point, strict=True))), tasks)
        best = min(errors, key=errors.__getitem__)
        settings = replace(settings, **dict(zip(values, best, strict=True)))
        tried = [{**dict(zip(values, point, strict=True)), "error": round(value, 2)} for point, value in errors.items()]
        found.append({"arm": arm, "tried": tried, "seconds": round(time.perf_counter() - started)})
        print(f"{arm}: {dict(zip(values, best, strict=True))}, of {tried}", flush=True)
        record = {"draws": DRAWS, "tasks": len(tasks), "families": found, "kept": vars(settings)}
        OUT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
