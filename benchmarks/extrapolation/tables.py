"""The tables of ``docs/concepts/extrapolation.md``, from ``results/extrapolation.json`` and ``extrapolation_card.json``.

python -m benchmarks.extrapolation.tables        # writes them into the page, between its marks
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from .steps import RESULTS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "concepts" / "extrapolation.md"
TITLES = {"2": "Table 2, CIFAR-10 and CIFAR-100", "3": "Table 3, ImageNet-72", "4": "Table 4, IMDb"}


def span(pair: list[float], unit: str = "") -> str:
    """A range in two digits."""
    low, high = (_two(one) for one in sorted(pair))
    return f"{low}{unit}" if low == high else f"{low} to {high}{unit}"


def _two(value: float) -> str:
    if value >= 10:
        digits = len(str(int(value))) - 2
        return f"{round(value / 10**digits) * 10**digits:,}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def table(head: list[str], rows: list[list[str]]) -> str:
    line = "|" + "|".join(["---"] + ["---:"] * (len(head) - 1)) + "|"
    return "\n".join(["| " + " | ".join(head) + " |", line, *("| " + " | ".join(row) + " |" for row in rows)])


def totals(found: dict[str, Any]) -> str:
    rows = []
    for name, of in found["tables"].items():
        for card in ("H100", "A100"):
            one = of[card]
            rows.append([TITLES[name], card, str(one["runs"]), span(one["one_hours"]), span(one["eight_hours"]),
                         span(one["memory_gib"]), span(one["dollars"]) if card == "H100" else ""])  # fmt: skip
    head = ["extrapolated", "card", "runs", "hours, one card", "hours, eight", "GiB a run", "USD"]
    return table(head, rows)


def single(found: dict[str, Any]) -> str:
    rows = [[f"{one['table']}: {one['row']}, {one['data']}", one["network"], f"{one['steps']:,}", f"{one['ratio']:.2f}",
             f"{one['step_flops'] / 1e12:.2g}", span(one["H100"]["hours"]), span(one["H100"]["memory_gib"])]
            for one in found["rows"]]  # fmt: skip
    return table(["extrapolated, one run", "network", "steps", "x base", "TFLOP a step", "hours, H100", "GiB"], rows)


def seven(found: dict[str, Any]) -> str:
    rows = [[one["estimator"], str(one["k"]), str(one["plain_steps"]), span(one["seconds"]), span(one["memory_gib"]),
             {(True, True): "yes", (False, False): "no"}.get(tuple(one["fits"]), "perhaps")]
            for one in found["lora"]["choices"]]  # fmt: skip
    return table(["extrapolated", "k", "plain steps", "seconds, H100", "GiB", "in 80 GB"], rows)


def checks(found: dict[str, Any]) -> str:
    rows = [[f"{one['network']}, {one['rows']} images, one CPU core", f"{one['predicted']:.3f}", f"{one['measured']:.3f}",
             f"model {100 * one['error']:+.0f}%"] for one in found["held_against"]["cpu"]["checks"]]  # fmt: skip
    for one in found["held_against"]["h200"]:
        low, high = sorted(one["times"])
        rows.append([f"small conv net, {one['method'].replace('_', ' ')}, {one['problem']}, H200", span(one["card"]),
                     f"{one['measured']:.3f}", f"{low:.0f} to {high:.0f} times"])  # fmt: skip
    return table(["a step", "model, s", "measured, s", "measured against the model"], rows)


def assumptions(found: dict[str, Any]) -> str:
    rows = []
    for name, one in found["assumed"].items():
        value = one["value"]
        said = " to ".join(f"{part:g}" for part in value) if isinstance(value, list) else f"{value:g}"
        rows.append([f"`{name}`", f"{said} {one['unit']}".strip(), one["what"], one["source"]])
    for one in found["cards"].values():
        what = f"float32 {one['float32'] / 1e12:g}, TF32 {one['tf32'] / 1e12:g}, bfloat16 {one['bfloat16'] / 1e12:g} TFLOP/s"
        rows.append([one["name"], f"{one['bandwidth'] / 1e12:g} TB/s", what, one["source"]])
    return "| assumption | value | what | source |\n|---|---|---|---|\n" + "\n".join(
        "| " + " | ".join(row) + " |" for row in rows
    )


def taken(found: dict[str, Any]) -> str:
    """Steps that were taken on the card, beside the model's of the same card."""
    of = {row["recipe"]: row for row in reversed(found["rows"])}
    rows = []
    for one in found["card"]["steps"]:
        model = of[one["recipe"]]
        low, high = model["H200"]["step_ms"]
        low_gib, high_gib = model["H200"]["memory_gib"]
        hours = model["steps"] * one["with_data_ms"] / 3.6e6
        within = "yes" if low <= one["step_ms"] <= high else f"{one['step_ms'] / high:.1f} x the upper end"
        rows.append([f"{one['table']}: {one['row']}, {one['data']}", span([low, high]), _two(one["step_ms"]), within,
                     _two(one["with_data_ms"]), _two(hours), span([low_gib, high_gib]), _two(one["reserved_gib"])])  # fmt: skip
    head = ["measured, a step", "model, ms", "card alone, ms", "in the range", "with its batches, ms",
            "a run at that rate, hours", "model, GiB", "GiB"]  # fmt: skip
    return table(head, rows)


def loops(found: dict[str, Any]) -> str:
    """Inner loops on seven billion parameters that were run on the card, beside the model's."""
    of = {(one["estimator"], one["k"]): one for one in found["lora_h200"]["choices"]}
    rows = []
    for one in found["card"]["loops"]:
        if "k" not in one:
            continue
        model = of[one["estimator"], one["k"]]
        stopped = "out_of_memory" in one
        rows.append([one["estimator"], str(one["k"]), span(model["seconds"]),
                     "does not fit 139 GiB" if stopped else _two(min(one["seconds"])), span(model["memory_gib"]),
                     "" if stopped else _two(one["reserved_gib"]),
                     "" if stopped or "relative_error" not in one else f"{one['cosine']:.4f}"])  # fmt: skip
    head = ["measured", "k", "model, s", "s", "model, GiB", "GiB", "cosine with `exact`"]
    return table(head, rows)


PARTS = {
    "taken": taken, "loops": loops,
    "totals": totals, "single": single, "seven": seven, "checks": checks, "assumptions": assumptions,
}  # fmt: skip


def filled(page: str, found: dict[str, Any]) -> str:
    """A page with its tables as the measurements give them."""
    for name, make in PARTS.items():
        mark = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        page, count = re.subn(mark, lambda match: f"{match[1]}\n{make(found)}\n\n{match[2]}", page, flags=re.DOTALL)  # noqa: B023
        if count != 1:
            raise SystemExit(f"{PAGE.name} has no place, or several, for the table '{name}'")
    return page


def everything() -> dict[str, Any]:
    """What is extrapolated, and under ``card`` what was measured of it."""
    found: dict[str, Any] = json.loads((RESULTS / "extrapolation.json").read_text())
    return found | {"card": json.loads((RESULTS / "extrapolation_card.json").read_text())}


def main() -> None:
    found = everything()
    PAGE.write_text(filled(PAGE.read_text(), found))
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
