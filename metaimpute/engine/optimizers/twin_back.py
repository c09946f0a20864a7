"""A twin's state in the place of its torch optimiser's, so that torch goes on where the twin ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..pytree import Tree

Named = dict[str, Any]


def _counted(*names: str) -> Callable[[Tree], Named]:
    """Of a state that is a list: the count of steps, and torch's tensors of these names."""
    return lambda state: dict(zip(("step", *names), state, strict=False)) if state[0] else {}


def _momentum(state: Tree) -> Named:
    return {} if state is None else {"momentum_buffer": state}


def _rmsprop(state: Tree) -> Named:
    names = {"square_avg": "square", "grad_avg": "mean", "momentum_buffer": "buffer"}
    return {theirs: state[ours] for theirs, ours in names.items() if state[ours] is not None}


def _adafactor(state: Tree) -> Named:
    return _counted(*(("row_var", "col_var") if len(state) == 3 else ("variance",)))(state)


_ADAM = _counted("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
BACK: dict[type[torch.optim.Optimizer], Callable[[Tree], Named]] = {
    torch.optim.SGD: _momentum,
    torch.optim.Adam: _ADAM,
    torch.optim.AdamW: _ADAM,
    torch.optim.RMSprop: _rmsprop,
    torch.optim.Adagrad: _counted("sum"),
    torch.optim.NAdam: _counted("mu_product", "exp_avg", "exp_avg_sq"),
    torch.optim.RAdam: _counted("exp_avg", "exp_avg_sq"),
    torch.optim.Adamax: _counted("exp_avg", "exp_inf"),
    torch.optim.Adadelta: lambda state: {"square_avg": state[0], "acc_delta": state[1]},
    torch.optim.Adafactor: _adafactor,
}
if hasattr(torch.optim, "Muon"):  # torch 2.9 has it
    BACK[torch.optim.Muon] = _momentum


def put_back(
    optimizers: Sequence[torch.optim.Optimizer], params: Mapping[str, Tensor], state: Tree, steps: int
) -> None:
    """Copies the state of the twin of these optimisers into them.

    Args:
        params: what the twin moves, by name, the tensors that the optimisers hold. steps: how many it has taken.
    """
    for one, own in zip(optimizers, state if len(optimizers) > 1 else [state], strict=True):
        held = {id(p) for group in one.param_groups for p in group["params"]}
        mine = [p for p in params.values() if id(p) in held]
        for p, found in zip(mine, own, strict=True):
            named = BACK[type(one)](found)
            if not named:  # it took no part in any loss
                continue
            theirs = one.state[p]
            if "step" not in named and type(one) in (
                torch.optim.RMSprop,
                torch.optim.Adadelta,
            ):  # which count, and look not
                named["step"] = int(theirs.get("step", 0)) + steps
            for name, value in named.items():
                theirs[name] = _as_torch_has_it(name, value, theirs.get(name))


def _as_torch_has_it(name: str, value: Any, before: Any) -> Any:
    if name in ("step", "mu_product"):  # numbers beside the tensors, of a kind and at a place of their own
        if isinstance(before, Tensor):
            return torch.full_like(before, float(value))
        return torch.tensor(float(value), dtype=torch.get_default_dtype(), device="cpu")
    return value.detach().clone()
