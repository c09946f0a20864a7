"""The factor that losses in float16 are multiplied by while they are differentiated, found as training goes.

Micikevicius et al., "Mixed precision training" (ICLR 2018), as ``torch.amp.GradScaler`` has it: halved where a gradient is not
finite, whose update is left out, and doubled after 2,000 that were. It lives on the device, so nothing waits for it. What
``GradScaler`` cannot take are gradients that belong to no optimiser's parameters: hypergradients, and those inside a look-ahead.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..engine.pytree import Tree, map_tensors, norm

BEGIN, MOST, PATIENCE = 2.0**16, 2.0**24, 2000


class LossScale:
    """A factor, and how many gradients have been finite under it.

    Attributes:
        value: the factor, a float32 scalar that is changed in place. skipped: updates left out so far.
    """

    def __init__(self, device: torch.device) -> None:
        self.value = torch.full((), BEGIN, dtype=torch.float32, device=device)
        self.good = torch.zeros((), dtype=torch.int64, device=device)
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)

    def multiplied(self, tree: Tree) -> Tree:
        return map_tensors(lambda leaf: leaf * self.value, tree)

    def divided(self, tree: Tree) -> Tree:
        return map_tensors(lambda leaf: leaf / self.value, tree)

    def saw(self, bad: Tensor) -> None:
        """Goes on after an update. ``bad``: whether its gradient was not finite, so that it was left out."""
        grown = ~bad & (self.good + 1 >= PATIENCE)
        self.good.copy_(torch.where(bad | grown, 0, self.good + 1))
        larger = torch.where(grown, (2 * self.value).clamp(max=MOST), self.value)
        self.value.copy_(torch.where(bad, self.value / 2, larger))
        self.skipped += bad

    def finite_or_zero(self, tree: Tree) -> Tree:
        """The tree, or zeros where an entry of it is not finite; the factor is told."""
        bad = ~torch.isfinite(norm(tree))
        self.saw(bad)
        return map_tensors(lambda leaf: torch.where(bad, 0.0, leaf), tree)

    def state(self) -> dict[str, Any]:
        return {"value": self.value, "good": self.good, "skipped": self.skipped}

    def load_state(self, state: dict[str, Any]) -> None:
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
