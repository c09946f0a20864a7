"""What the extrapolation takes as given: cards by their data sheets, and everything that was not measured, with its source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

LOW, HIGH = 0, 1  # the most and the least favourable assumption


@dataclass(frozen=True)
class Card:
    """An accelerator by its maker's data sheet: dense FLOP/s, bytes/s, bytes."""

    name: str
    float32: float
    tf32: float
    bfloat16: float
    bandwidth: float
    memory: float
    source: str


CARDS = {
    "H100": Card("H100 SXM 80 GB", 67e12, 494e12, 989e12, 3.35e12, 80e9, "NVIDIA H100 data sheet, without sparsity"),
    "A100": Card("A100 SXM 80 GB", 19.5e12, 156e12, 312e12, 2.04e12, 80e9, "NVIDIA A100 data sheet, without sparsity"),
    "H200": Card("H200 SXM 141 GB", 67e12, 494e12, 989e12, 4.8e12, 141e9, "NVIDIA H200 data sheet, without sparsity"),
}


def assumed(value: Any, unit: str, what: str, source: str = "assumed") -> dict[str, Any]:
    """An assumption: a number, or the most and the least favourable one."""
    return {"value": value, "unit": unit, "what": what, "source": source}


ASSUMED = {
    "launch": assumed([5e-6, 15e-6], "s", "time that eager torch needs to start an operation"),
    "share": assumed([0.7, 0.2], "", "share of a card's FLOP/s and bytes/s that an operation reaches"),
    "host_cores": assumed(8, "", "cores that load and augment images for a GPU"),
    "seeds": assumed(3, "", "draws of labels for each cell", "assumed; the paper prints deviations, not their number"),
    "memory": assumed([1.0, 1.5], "", "allocator and workspaces over what tensors take"),
    "context": assumed(0.5e9, "bytes", "memory that a CUDA context takes"),
    "price": assumed([2.0, 4.0], "USD", "price of an hour of a GPU", "assumed; put your own in"),
}
