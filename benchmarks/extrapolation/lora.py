"""An inner loop on the adapters of seven billion parameters: its memory and its time, by estimator and number of steps."""

from __future__ import annotations

import json
from typing import Any

from .assumed import ASSUMED, CARDS, HIGH, LOW
from .counts import Decoder, Pass, decoder_layer
from .steps import RESULTS

RANK, LENGTH, ROWS = 16, 512, 4
INNER_STEPS = (1, 8, 32)


def peaks_of_steps() -> dict[str, Any]:
    """Of a small transformer, measured: peaks over a plain step's, and what each further stored step adds."""
    rows = json.loads((RESULTS / "hypergradient-transformer.json").read_text())["rows"]
    of = {(row["system"], row["steps"]): row["peak_ratio"] for row in rows}
    return {
        "exact": of["exact", 1],
        "a stored step": (of["exact", 16] - of["exact", 4]) / 12,
        "mixed": of["mixed", 1],
        "first_order": of["first_order", 1],
        "finite_difference": of["finite_difference", 1],
    }


def lora(name: str) -> dict[str, Any]:
    """Memory and time of k inner steps on the adapters of a 7B decoder on a card, by estimator."""
    layer, card, measured = decoder_layer(RANK, LENGTH), CARDS[name], peaks_of_steps()
    one: Pass = layer.run(ROWS, True)
    adapters = sum(p.numel() for p in layer.module.parameters() if p.requires_grad) * Decoder.LAYERS
    frozen = (layer.parameters * Decoder.LAYERS - adapters) + 2 * Decoder.WORDS * Decoder.WIDTH
    kept = one.kept * Decoder.LAYERS + 4 * ROWS * LENGTH * Decoder.WORDS  # the class scores, in float32
    snapshot = 4 * adapters * 2  # float32, with momentum
    base = 2 * frozen + 4 * adapters * 3
    plain = []
    for end in (LOW, HIGH):
        share = ASSUMED["share"]["value"][end]
        plain.append(
            Decoder.LAYERS * one.seconds(ASSUMED["launch"]["value"][end], share * card.bfloat16, share * card.bandwidth)
        )
    found = []
    for k in INNER_STEPS:
        stored = measured["exact"] + (k - 1) * measured["a stored step"]
        choices = {
            "first_order": (measured["first_order"] * kept, k + 1),
            "finite_difference": (measured["finite_difference"] * kept, k + 2),
            "mixed": (measured["mixed"] * kept + k * snapshot, 4 * k),
            "exact, store": (stored * kept, 3 * k),
            "exact, recompute": (measured["exact"] * kept + k * snapshot, 4 * k),
        }
        for name, (graph, steps) in choices.items():
            gib = [
                (base + ASSUMED["memory"]["value"][end] * graph + ASSUMED["context"]["value"]) / 2**30
                for end in (LOW, HIGH)
            ]
            found.append(
                {
                    "estimator": name,
                    "k": k,
                    "memory_gib": gib,
                    "plain_steps": steps,
                    "seconds": [steps * plain[end] for end in (LOW, HIGH)],
                    "fits": [gib[LOW] * 2**30 <= card.memory, gib[HIGH] * 2**30 <= card.memory],
                }
            )
    return {
        "parameters": frozen + adapters,
        "adapters": adapters,
        "rank": RANK,
        "rows": ROWS,
        "length": LENGTH,
        "card": card.name,
        "weights_gib": 2 * frozen / 2**30,
        "kept_gib": kept / 2**30,
        "plain_seconds": plain,
        "measured_peaks": measured,
        "choices": found,
    }
