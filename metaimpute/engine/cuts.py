"""What a loss does that its derivative does not see: gradients cut on purpose, and noise that no seed replays.

A derivative takes ``detach()``, ``no_grad()`` and ``item()`` for constants. Whoever moves the parameters and evaluates the loss
again, as a finite difference does, moves these constants too and gets another number.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .ambient import changing_nothing

_CUTTING = {
    torch.Tensor.detach: "detach()",
    torch.detach: "detach()",
    torch.Tensor.detach_: "detach_()",
    torch.Tensor.item: "item()",
    torch.Tensor.tolist: "tolist()",
    torch.Tensor.__float__: "float()",
    torch.Tensor.numpy: "numpy()",
}


def _state_of_others() -> tuple[Any, ...]:
    legacy = np.random.get_state(legacy=False)
    return random.getstate(), legacy["state"]["pos"], legacy["state"]["key"][0]


class Cuts(TorchFunctionMode):
    """Watches one evaluation of a loss.

    Attributes:
        gradients: how a gradient was cut, in order. noise: where noise came from that is not torch's own generator.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gradients: list[str] = []
        self.noise: list[str] = []
        self._off = False

    def __enter__(self) -> Cuts:
        self._before = _state_of_others()
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        after = _state_of_others()
        if after[0] != self._before[0]:
            self.noise.append("Python's random")
        if after[1:] != self._before[1:]:
            self.noise.append("numpy")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.register_hook:
            return func(args[0], changing_nothing(args[1]))
        if func is torch._C._set_grad_enabled:
            self._off = not args[0]
        elif self._off:
            if any(isinstance(a, Tensor) and a.requires_grad for a in args):
                self._add("no_grad()")
        elif args and isinstance(args[0], Tensor) and args[0].requires_grad:
            if func in _CUTTING:
                self._add(_CUTTING[func])
            elif getattr(func, "__self__", None) is torch.Tensor.data:
                self._add(".data")
        if isinstance(kwargs.get("generator"), torch.Generator) and kwargs["generator"] is not torch.default_generator:
            self.noise.append("a generator of its own")
        return func(*args, **kwargs)

    def _add(self, how: str) -> None:
        if how not in self.gradients:
            self.gradients.append(how)
