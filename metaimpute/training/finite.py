"""What ends a training that is no longer finite, and when that is looked at.

On the CPU a number is looked at where it is made. On an accelerator that would wait for all work under way, several times a
step, so there the first number that is not finite is remembered on the device, every update after it is left out there
(:mod:`.updates`), and the run ends where it looks: when it logs, evaluates or saves. Message, parameters and checkpoints are
the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..batches import Batch
from ..engine.repetition import Ledger
from ..errors import DIVERGED, UserError


class Diverged(UserError, RuntimeError):
    """A loss or gradient that is not finite. Ends a command with exit code 4.

    Attributes:
        step: the training step it belongs to (from 0), where it is known.
    """

    exit_code = DIVERGED
    prefix = "training diverged: "

    def __init__(self, message: str, step: int | None = None) -> None:
        super().__init__(message)
        self.step = step


class LateLedger(Ledger):
    """Compares repeated evaluations when the run looks, not at the end of the step."""

    def verify(self) -> None:
        pass

    def settle(self) -> None:
        super().verify()


class Finite:
    """What has to be finite in training.

    Args:
        waits: remember what is not finite until :meth:`settle`, instead of raising at once.
    """

    def __init__(self, device: torch.device, waits: bool = False) -> None:
        self.device, self.waits = device, waits
        self._names: list[str] = []
        self._ledgers: list[LateLedger] = []
        self._clear()

    def _clear(self) -> None:
        """The step of the first number that was not finite, -1 for none; which one it was; and the number."""
        self._step = torch.full((), -1, dtype=torch.int64, device=self.device)
        self._which = torch.zeros((), dtype=torch.int64, device=self.device)
        self._value = torch.zeros((), dtype=torch.float32, device=self.device)

    @property
    def failed(self) -> Tensor:
        """Whether a number so far was not finite, on the device."""
        return self._step >= 0

    def require(self, value: Tensor, what: str, batch: Batch) -> None:
        """Raises:
        Diverged: when the number is not finite, at once or at the next :meth:`settle`.
        """
        if not self.waits:
            if not bool(torch.isfinite(value)):
                raise Diverged(f"{what} is {float(value.detach())} at step {batch.step}", batch.step)
            return
        if what not in self._names:
            self._names.append(what)
        value = value.detach()
        new = ~torch.isfinite(value) & ~self.failed
        self._step.masked_fill_(new, batch.step)
        self._which.masked_fill_(new, self._names.index(what))
        self._value = torch.where(new, value.float(), self._value)

    def ledger(self) -> dict[str, Any]:
        """The argument for an estimator whose repeated evaluations are compared late; none where they are compared at once."""
        if not self.waits:
            return {}
        self._ledgers.append(LateLedger())
        return {"ledger": self._ledgers[-1]}

    def settle(self) -> None:
        """Looks at what was remembered.

        Raises:
            Diverged: for the first number that was not finite, with its step. NotRepeatable: for a loss that was another function
                when it was evaluated again.
        """
        if not self.waits:
            return
        ledgers, self._ledgers = self._ledgers, []
        step, which, value = torch.stack([self._step, self._which, self._value.view(torch.int32).long()]).tolist()
        if step >= 0:
            number = float(torch.tensor(value, dtype=torch.int32, device="cpu").view(torch.float32))
            raise Diverged(f"{self._names[which]} is {number} at step {step}", step)
        for ledger in ledgers:
            ledger.settle()
