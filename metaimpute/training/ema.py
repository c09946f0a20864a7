"""Exponential moving average of the weights for evaluation, with a warm-up so that short runs forget their start."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ..methods.base import ema_decay


def averaged_model(module: nn.Module, decay: float) -> AveragedModel:
    """``torch.optim.swa_utils.AveragedModel`` with decay ``min(1 - 1/(t+1), decay)`` over parameters and float buffers."""

    def average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        if not averaged.is_floating_point():
            return current
        return torch.lerp(averaged, current, 1.0 - ema_decay(int(count), decay))

    return AveragedModel(module, avg_fn=average, use_buffers=True)
