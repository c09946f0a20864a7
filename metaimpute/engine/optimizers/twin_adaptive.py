"""Twins of torch.optim's NAdam, RAdam, Adadelta, Adamax, Adafactor and Muon."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..pytree import Tree
from .adadelta import adadelta
from .adafactor import adafactor
from .adamax import adamax
from .base import Hyper
from .muon import muon
from .nadam import nadam
from .radam import radam
from .twin import State, Twin, copied, count, pick


def _betas(*others: str, **more: Any) -> Callable[[dict[str, Any]], Hyper]:
    """Both betas, those other keys, and numbers that torch does not have."""

    def values(group: dict[str, Any]) -> Hyper:
        beta1, beta2 = group["betas"]
        return {"beta1": beta1, "beta2": beta2, **{key: group[key] for key in others}, **more}

    return values


def _kept(*names: str, counted: bool = True) -> Callable[[State, Tensor, dict[str, Any]], Tree]:
    """Our state: the count of steps and torch's tensors of these names."""

    def state(state: State, param: Tensor, flags: dict[str, Any]) -> Tree:
        if not state:
            return None
        return [*([count(state)] if counted else []), *(copied(state[name]) for name in names)]

    return state


def _nadam_state(state: State, param: Tensor, flags: dict[str, Any]) -> Tree:
    if not state:
        return None
    product = torch.as_tensor(state["mu_product"], device=param.device).detach().to(param.dtype, copy=True)
    return [count(state), product, copied(state["exp_avg"]), copied(state["exp_avg_sq"])]


def _adafactor_values(group: dict[str, Any]) -> Hyper:
    least, scale = group["eps"]
    if least is None:  # of the first parameter of the group, as in torch
        least = torch.finfo(group["params"][0].dtype).eps
    return {**pick("lr", "beta2_decay", "d", "weight_decay")(group), "eps1": least, "eps2": scale}


def _adafactor_state(state: State, param: Tensor, flags: dict[str, Any]) -> Tree:
    return _kept(*(("row_var", "col_var") if param.ndim > 1 else ("variance",)))(state, param, flags)


def _muon_values(group: dict[str, Any]) -> Hyper:
    a, b, c = group["ns_coefficients"]
    return {**pick("lr", "weight_decay", "momentum", "eps")(group), "ns_a": a, "ns_b": b, "ns_c": c}


_MUON_FLAGS = ("nesterov", "ns_steps", "adjust_lr_fn")


ADAPTIVE: dict[type[torch.optim.Optimizer], Twin] = {
    torch.optim.NAdam: Twin(
        _betas("lr", "eps", "weight_decay", "momentum_decay", eps_root=0.0),
        ("decoupled_weight_decay", "maximize"),
        lambda flags, hyper: nadam(**flags),
        _nadam_state,
        frozenset({"lr", "betas", "eps", "weight_decay", "momentum_decay"}),
    ),
    torch.optim.RAdam: Twin(
        _betas("lr", "eps", "weight_decay", eps_root=0.0),
        ("decoupled_weight_decay", "maximize"),
        lambda flags, hyper: radam(**flags),
        _kept("exp_avg", "exp_avg_sq"),
        frozenset({"lr", "betas", "eps", "weight_decay"}),
    ),
    torch.optim.Adadelta: Twin(
        pick("lr", "rho", "eps", "weight_decay"),
        ("maximize",),
        lambda flags, hyper: adadelta(**flags),
        _kept("square_avg", "acc_delta", counted=False),
        frozenset({"lr", "rho", "eps", "weight_decay"}),
    ),
    torch.optim.Adamax: Twin(
        _betas("lr", "eps", "weight_decay"),
        ("maximize",),
        lambda flags, hyper: adamax(**flags),
        _kept("exp_avg", "exp_inf"),
        frozenset({"lr", "betas", "eps", "weight_decay"}),
    ),
    torch.optim.Adafactor: Twin(
        _adafactor_values,
        ("maximize",),
        lambda flags, hyper: adafactor(**flags),
        _adafactor_state,
        frozenset({"lr", "beta2_decay", "eps", "d", "weight_decay"}),
    ),
}
if hasattr(torch.optim, "Muon"):  # torch 2.9 has it
    ADAPTIVE[torch.optim.Muon] = Twin(
        _muon_values,
        _MUON_FLAGS,
        lambda flags, hyper: muon(**{**flags, "adjust_lr_fn": flags["adjust_lr_fn"] or "original"}, bfloat16=True),
        lambda state, param, flags: copied(state.get("momentum_buffer")),
        frozenset({"lr", "weight_decay", "momentum", "ns_coefficients", "eps"}),
    )
