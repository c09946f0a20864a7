"""What ends a training that is no longer finite."""

from __future__ import annotations

import torch
from torch import Tensor

from ..batches import Batch
from ..errors import DIVERGED, UserError


class Diverged(UserError, RuntimeError):
    """A loss or gradient that is not finite. Ends a command with exit code 4."""

    exit_code = DIVERGED
    prefix = "training diverged: "


def require_finite(value: Tensor, what: str, batch: Batch) -> None:
    if not bool(torch.isfinite(value)):
        raise Diverged(f"{what} is {float(value.detach())} at step {batch.step}")
