"""What a block does not see of the user's own optimisers and parameters, and therefore refuses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ..ambient import CannotDifferentiate


class KeptStates:
    """The states of torch's optimisers, which a block reads when it begins and never again."""

    def __init__(self, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        self._optimizers = list(optimizers)
        self._marks = self._now()

    def _now(self) -> list[tuple[int, int]]:
        return [
            (id(one.state), sum(1 for of in one.state.values() if of)) for one in self._optimizers
        ]  # a look adds empty ones

    def require_untouched(self) -> None:
        """Raises:
        CannotDifferentiate: where one was emptied, filled or loaded since."""
        if self._now() != self._marks:
            raise CannotDifferentiate(
                "the optimizer's state was changed inside the block, which has its own since it began; end the block (and "
                "write_back()), change the state, and begin another"
            )


def require_no_hooks(originals: Mapping[str, Tensor]) -> None:
    """Raises:
    CannotDifferentiate: for a parameter whose gradients pass a hook, which a block's do not."""
    for name, p in originals.items():
        if p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None):
            raise CannotDifferentiate(
                f"'{name}' has a hook on its gradient, which a block's gradients do not pass; remove the hook and say "
                "inner(..., gradients=gradient_callback(function))"
            )


def require_same_flags(weights: Mapping[str, Tensor], frozen: Sequence[Tensor]) -> None:
    """Raises:
    CannotDifferentiate: where a parameter was frozen or unfrozen since the block began."""
    for p in frozen:
        if p.requires_grad:
            raise CannotDifferentiate(
                "a parameter that was frozen when the block began requires a gradient now; begin a new block to move it too"
            )
    for name, weight in weights.items():
        if not weight.requires_grad:
            raise CannotDifferentiate(
                f"'{name}' was frozen inside the block, which moves what required a gradient when it began; end the block (and "
                "write_back()), and begin a new one for the parameters that still move"
            )
