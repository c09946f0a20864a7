"""What a claim is, how a system of it is trained, and how it is measured over seeds."""

from __future__ import annotations

import platform
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from metaimpute.recipes.profiles import choose
from metaimpute.training.session import Session

ROOT = Path(__file__).parents[2]
Numbers = dict[str, float]


@dataclass(frozen=True)
class Claim:
    """One claim and the systems that it is about.

    Attributes:
        paper: the claim's source. claim: what is claimed, in this setting. arms: ``seed -> numbers`` by name, the objective
            first, then its controls. holds: from the means of the arms, by name, whether the claim holds.
        tuned: how settings were chosen, on which seeds; none of them is among those that are reported.
    """

    paper: str
    claim: str
    arms: dict[str, Callable[[int], Numbers]]
    holds: Callable[[dict[str, Numbers]], bool]
    tuned: str


def trained(recipe: str, seed: int, *sets: str) -> tuple[Session, Numbers]:
    """A recipe trained with overrides, and its test error in percent."""
    found, _ = choose(ROOT / "recipes" / f"{recipe}.yaml", "sample", sets, seed)
    with tempfile.TemporaryDirectory() as folder:
        session = Session(found, Path(folder) / "run", say=lambda message: None)
        result = session.run()
    return session, {"test_error": float(result["test_last"])}


def error_of(recipe: str, *sets: str) -> Callable[[int], Numbers]:
    """An arm that measures the test error alone."""
    return lambda seed: trained(recipe, seed, *sets)[1]


def cleaner(name: str) -> dict[str, Callable[[int], Numbers]]:
    """An objective on 900 labels, 40% of them wrong, and 100 trusted ones; then its controls."""
    alone = ("problem.name=none", "task.labels=100", "task.label_noise.trusted=0", "task.label_noise.rate=0")
    recipe = f"digits_{name}"
    return {
        name: error_of(recipe),
        "all labels": error_of(recipe, "problem.name=none"),
        "as many right labels as are trusted, alone": error_of(recipe, *alone),
        "no wrong label": error_of(recipe, "problem.name=none", "task.label_noise.rate=0"),
    }


def below_both(name: str) -> Callable[[dict[str, Numbers]], bool]:
    """Whether its error is below that of all labels, wrong ones among them, and that of the trusted ones alone."""
    controls = ("all labels", "as many right labels as are trusted, alone")
    return lambda mean: all(mean[name]["test_error"] < mean[control]["test_error"] for control in controls)


def measure(
    claim: Claim, seeds: list[int], say: Callable[[str], None], known: dict[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """The claim's row of results after every seed: every arm on it, paired, with means and standard deviations so far.

    Args:
        known: a row of the same claim that was measured before, whose seeds are not measured again.
    """
    found: dict[str, dict[str, list[float]]] = {arm: {} for arm in claim.arms}
    done: list[int] = []
    if known and list(known["values"]) == list(found):
        found, done = known["values"], list(known["seeds"])
    for seed in seeds:
        if seed in done:
            continue
        for arm, run in claim.arms.items():
            numbers = run(seed)
            for name, value in numbers.items():
                found[arm].setdefault(name, []).append(value)
            say(f"  seed {seed}, {arm}: " + ", ".join(f"{name} {value:.4g}" for name, value in numbers.items()))
        done.append(seed)
        yield _row(claim, done, found)


def _row(claim: Claim, seeds: list[int], found: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    means = {arm: {name: statistics.fmean(values) for name, values in row.items()} for arm, row in found.items()}
    return {
        "paper": claim.paper, "claim": claim.claim, "holds": claim.holds(means), "tuned": claim.tuned, "seeds": [*seeds],
        "machine": f"{platform.machine()} {platform.system()}, torch {torch.__version__}, {torch.get_num_threads()} thread(s)",
        "mean": means,
        "std": {arm: {n: statistics.stdev(v) if len(v) > 1 else 0.0 for n, v in row.items()} for arm, row in found.items()},
        "values": found,
    }  # fmt: skip
